"""How fast a network runs, how much memory it takes, and what it costs."""
