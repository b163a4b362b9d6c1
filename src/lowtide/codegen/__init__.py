"""Schedule + MemoryPlan -> Program."""
