"""The layers that work without torch, and a way to take torch away where it has been imported already."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LAYERS = ("core", "ir", "memory", "schedule", "order", "plan", "report", "cli")
FOLDERS = tuple(Path(__file__).parent / "unit" / name for name in LAYERS)


@contextmanager
def no_torch() -> Iterator[None]:
    """Every import of torch or of a part of it fails, as where it is not installed; afterwards all is as before."""
    loaded = {name: m for name, m in sys.modules.copy().items() if name.partition(".")[0] == "torch"}
    sys.modules.update(dict.fromkeys((*loaded, "torch")))  # type: ignore[arg-type]  # None: an import looks no further
    try:
        yield
    finally:
        del sys.modules["torch"]
        sys.modules.update(loaded)
