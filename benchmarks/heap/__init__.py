"""Counting the live heap of a process: what every library allocates, not only the framework.

``library()`` compiles ``heap.c`` (once, into the user's cache) for ``LD_PRELOAD``; ``counter()`` reads it from inside a
process that was started so, and is None elsewhere. Bytes throughout.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

from lowtide.core.native import build

_FLAGS = ("-O2", "-shared", "-fPIC", "-fno-builtin")


def library() -> Path:
    """The shared library to preload.

    Raises:
        BuildError: there is no compiler, or it refuses the source (a C library other than glibc).
    """
    return build((Path(__file__).parent / "heap.c").read_text(encoding="utf-8"), "heap", _FLAGS)


def preloaded(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process whose heap is to be counted, without settings of malloc that change sizes."""
    before = environment.get("LD_PRELOAD", "")
    kept = {k: v for k, v in environment.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    return {**kept, "LD_PRELOAD": f"{library()} {before}".strip()}


class Counter:
    """Reads the counter of this process."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        self._functions = functions
        for name in ("live", "peak", "blocks"):
            getattr(functions, f"lowtide_heap_{name}").restype = ctypes.c_long

    def live(self) -> int:
        """Bytes alive now."""
        return self._functions.lowtide_heap_live()

    def peak(self) -> int:
        """Most bytes alive since the last mark."""
        return self._functions.lowtide_heap_peak()

    def mark(self) -> None:
        """Begin a new peak at what is alive now."""
        self._functions.lowtide_heap_mark()


def counter() -> Counter | None:
    """The counter of this process, or None if it was not preloaded."""
    if "heap" not in os.environ.get("LD_PRELOAD", ""):
        return None
    whole = ctypes.CDLL(None)
    return Counter(whole) if hasattr(whole, "lowtide_heap_live") else None
