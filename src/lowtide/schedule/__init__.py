"""Graph -> Schedule: steps, phases, dependencies. No torch."""
