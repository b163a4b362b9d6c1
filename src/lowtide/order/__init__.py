"""Search for an order of least peak, with a proved lower bound. No torch."""
