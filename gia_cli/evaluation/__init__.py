"""How good the pictures are: the tables of the paper, and ours."""
