"""How a network learns: one visible loop, and what it needs."""
