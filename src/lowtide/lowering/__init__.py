"""ATen operations -> loops: one record per overload, in files by kind."""
