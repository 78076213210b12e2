"""The version, in a module of its own, so that whoever states it imports nothing else."""

__version__ = "0.1.0"
