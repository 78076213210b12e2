"""A photograph as a night photo's RAW file."""
