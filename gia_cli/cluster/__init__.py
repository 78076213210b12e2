"""Many machines: the share of one, and the workers of a Ray cluster, whatever their work is."""
