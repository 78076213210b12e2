"""What networks are trained on: SID, or simulated exposures; decoded once, then mapped."""
