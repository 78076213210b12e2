"""A photograph as a night's RAW file."""
