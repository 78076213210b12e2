"""Which numbers a network runs with, where they come from, whether they are whole."""
