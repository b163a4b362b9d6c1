"""Placement of bytes: packers with a lower bound beside every height, an independent checker, and the plan as data."""
