"""Models of many kinds with random weights, and the comparison with eager PyTorch that they are put through."""
