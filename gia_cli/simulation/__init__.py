"""A photograph as the RAW file of a short exposure."""
