"""Pages to look at in a browser: one file each, which asks nothing of any network."""
