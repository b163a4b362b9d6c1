"""The run-time planner: programs whose sizes are only known when they run."""
