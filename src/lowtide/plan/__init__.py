"""Packing: lifetimes -> bytes at offsets, with a proved lower bound; and the checkers. No torch."""
