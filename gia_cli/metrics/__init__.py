"""How far a picture is from the truth: one function for each measure."""
