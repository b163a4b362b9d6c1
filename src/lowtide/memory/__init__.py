"""The memory model: what is alive when. One definition of lifetimes and live bytes, shared by every later stage."""
