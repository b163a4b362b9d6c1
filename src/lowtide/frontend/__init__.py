"""Capture: PyTorch programs -> Graph. The only place, with runtime, that names torch."""
