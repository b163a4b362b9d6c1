"""Sources -> functions: builds kernels side by side, loads them, and hands them out as callables.

Comes in: C++ sources and the names that they define. Goes out: one callable per kernel, which takes the address of its
parameters and of its buffers. Promised: what this process has loaded is not built again; sources that the cache holds
are not compiled again.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from lowtide.core import native

Function = Callable[..., None]


class Source(Protocol):
    """A C++ source, the functions that it defines, and how it is compiled."""

    @property
    def text(self) -> str: ...  # noqa: D102

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def flags(self) -> tuple[str, ...]: ...  # noqa: D102


_lock = threading.Lock()
_loaded: dict[str, Function] = {}
_pool = ThreadPoolExecutor(2, thread_name_prefix="lowtide-cxx")


def known(names: Sequence[str]) -> frozenset[str]:
    """Those of ``names`` that this process has loaded already."""
    with _lock:
        return frozenset(n for n in names if n in _loaded)


def start(sources: Sequence[Source]) -> list[Future[None]]:
    """Begin to build and load; ``finish`` waits for it."""
    return [_pool.submit(_build, s) for s in sources]


def finish(work: Sequence[Future[None]]) -> None:
    """Wait until all is loaded.

    Raises:
        BuildError: no compiler, or one that refuses a source.
    """
    for f in work:
        f.result()


def function(name: str, buffers: int) -> Function:
    """The kernel of that name, which takes the address of its parameters and of ``buffers`` buffers."""
    f = _loaded[name]
    f.argtypes = [ctypes.c_void_p] * (buffers + 1)  # type: ignore[attr-defined]
    return f


def _build(source: Source) -> None:
    library = native.load(source.text, "kernels", source.flags)
    with _lock:
        for name in source.names:
            f = getattr(library, name)
            f.restype = None
            _loaded.setdefault(name, f)
