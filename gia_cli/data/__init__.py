"""What networks are trained on: SID, or nights made of photographs; decoded once, then mapped."""
