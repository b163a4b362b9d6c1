"""Lowtide: a memory-planning compiler for PyTorch."""

__version__ = "0.1.0"
