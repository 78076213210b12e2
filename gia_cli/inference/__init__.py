"""A network on this machine: engines, memory, tiles."""
