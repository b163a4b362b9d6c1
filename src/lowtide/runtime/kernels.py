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

from lowtide.core import native
from lowtide.program import Source

Function = Callable[..., None]


_lock = threading.Lock()
_loaded: dict[str, Function] = {}
_numbers: dict[str, ctypes.Array[ctypes.c_int64]] = {}
_begun: dict[Source, Future[None]] = {}
_pool = ThreadPoolExecutor(2, thread_name_prefix="lowtide-cxx")


def start(sources: Sequence[Source]) -> list[Future[None]]:
    """Begin to build and load what this process has not begun before; ``finish`` waits for it."""
    out: list[Future[None]] = []
    with _lock:
        for s in sources:
            if all(name in _loaded for name in s.names):  # in other company: a kernel's name stands for its text
                continue
            before = _begun.get(s)
            if before is None or (before.done() and before.exception() is not None):
                _begun[s] = before = _pool.submit(_build, s)
            out.append(before)
    return out


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


def numbers(text: str) -> int:
    """Address of whole numbers (``384,1``), which stay for as long as the process."""
    with _lock:
        if text not in _numbers:
            values = [int(n) for n in text.split(",") if n]
            _numbers[text] = (ctypes.c_int64 * max(1, len(values)))(*values)
        return ctypes.addressof(_numbers[text])


def _build(source: Source) -> None:
    library = native.load(source.text, "kernels", source.flags)
    with _lock:
        for name in source.names:
            f = getattr(library, name)
            f.restype = ctypes.c_int if f"int {name}(" in source.text else None
            _loaded.setdefault(name, f)
