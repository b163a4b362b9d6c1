"""Program -> something callable; slabs, measurement."""
