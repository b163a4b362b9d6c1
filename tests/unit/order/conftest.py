"""Makes the graph generators of the benchmarks importable as ``graphs``."""

import sys
from pathlib import Path

_ROOT = Path(__file__).parents[3]
for folder in (_ROOT / "benchmarks", _ROOT / "tests/unit/order"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
