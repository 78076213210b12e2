"""Weights as 8-bit integers: how they are made, and what they lose."""
