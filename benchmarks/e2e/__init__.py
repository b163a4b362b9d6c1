"""End-to-end measurement: model x backend x mode, each in a process of its own. ``python -m benchmarks.e2e --help``."""
