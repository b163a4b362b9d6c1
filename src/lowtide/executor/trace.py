"""Any region of a PyTorch program: note what it allocates, plan that, and give it its places on later runs.

Comes in: a function. Goes out: a ``MemoryTrace``, or the function with its allocations placed. Promised: the function runs as
it is, workspaces and results of library calls included; what it allocates otherwise than planned gets ordinary memory, found
out by address before every placement; without a compiler the function runs unchanged, with the reason.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from lowtide.core.errors import Unsupported
from lowtide.core.reason import Reason
from lowtide.executor.hook import Event, Region, Standing, unavailable
from lowtide.executor.learned import Recent
from lowtide.executor.traced import Allocation, MemoryTrace, analyse
from lowtide.runtime.retainers import also_retains
from lowtide.torch_compat import tree_flatten, watching_operators

_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
_MISSES = 2  # calls in a row that allocate otherwise than planned, after which they are noted anew


class Notes:
    """What this thread allocates on the CPU while it is entered, once. ``lines``: which operator asks, for which user line.
    ``count``: allocations so far.

    Raises:
        Unsupported: allocations cannot be noted here, for instance without a C++ compiler.
    """

    def __init__(self, lines: bool = True) -> None:
        why = unavailable()
        if why is not None:
            raise Unsupported(why)
        self.region, self.lines = Region(), lines
        self.region.record(True)
        self.marks: list[tuple[str, str]] = []
        self.open = ExitStack()

    def __enter__(self) -> Notes:
        self.open.enter_context(self.region.active())
        if self.lines:
            self.open.enter_context(_marking(self.region, self.marks))
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()
        self.region.record(False)

    @property
    def count(self) -> int:
        """How many allocations were noted."""
        return sum(e.nbytes >= 0 for e in self.region.events())

    def trace(self) -> MemoryTrace:
        """The analysis."""
        return trace_of(self.region.events(), self.marks)


def trace_memory(function: Callable[[], Any], *, lines: bool = True) -> MemoryTrace:
    """Run ``function`` once and say what its CPU allocations need: live, planned, in a caching allocator (bytes).

    lines: find out which user line asks for what (needs a dispatch mode, so compiled code inside may not be entered).

    Raises:
        Unsupported: allocations cannot be noted here, for instance without a C++ compiler.
    """
    return _noted(function, lines)[1]


def _noted(function: Callable[[], Any], lines: bool) -> tuple[Any, MemoryTrace]:
    with Notes(lines) as notes:
        result = function()
    return result, notes.trace()


@contextmanager
def _marking(region: Region, marks: list[tuple[str, str]]) -> Iterator[None]:
    """Tell the region before every operator which one it is, and for which user line."""

    def saw(name: str) -> None:
        marks.append((name, _user_line()))
        region.mark(len(marks) - 1)

    with watching_operators(saw):
        yield


def _user_line() -> str:
    """The innermost line that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_OURS) and not file.startswith("<"):
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def trace_of(events: Sequence[Event], marks: Sequence[tuple[str, str]]) -> MemoryTrace:
    """The analysis of noted events; ``marks``: (operator, line) by number."""
    born: dict[int, tuple[int, int, int]] = {}
    ended: dict[int, int] = {}
    for t, e in enumerate(events):
        if e.nbytes < 0:
            ended[e.id] = t
        else:
            born[e.id] = (t, e.nbytes, e.mark)
    allocations = []
    for block, (t, nbytes, mark) in born.items():
        op, line = marks[mark] if 0 <= mark < len(marks) else ("", "")
        allocations.append(Allocation(nbytes, t, ended.get(block, len(events)), block not in ended, op, line))
    return analyse(allocations, len(events))


class _Variant:
    """One signature: its plan, and idle regions with their slabs."""

    def __init__(self, trace: MemoryTrace) -> None:
        self.trace, self.misses = trace, 0
        self.idle: list[Region] = []

    def region(self) -> Region:
        made = Region()
        sizes = [a.nbytes for a in self.trace.allocations]
        made.plan(sizes, self.trace.offsets, self.trace.slab_nbytes)
        return made


class PlacedCalls:
    """A function whose CPU allocations have planned places, per signature of its arguments: called like the function.

    ``placed``, ``escaped``: allocations so far that got their place, and that did not though they were to. ``reason``: why
    it runs unchanged, if it does. Safe from several threads; calls may be nested.
    """

    def __init__(self, function: Callable[..., Any], recent_shapes: int) -> None:
        self.function = function
        self.variants: Recent[tuple[Any, ...], _Variant] = Recent(recent_shapes)
        self.lock = threading.Lock()
        self.placed = self.escaped = self.runs = 0
        self.reason: Reason | None = unavailable()
        functools.update_wrapper(self, function, updated=())
        _all.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run; the first call with a signature is noted, the others are placed."""
        self.runs += 1
        if self.reason is not None:
            return self.function(*args, **kwargs)
        key = _signature((args, kwargs))
        with self.lock:
            variant = self.variants.get(key)
            region = variant.idle.pop() if variant is not None and variant.idle else None
        if variant is None:
            result, trace = _noted(lambda: self.function(*args, **kwargs), False)
            with self.lock:
                self.variants.put(key, _Variant(trace))
            return result
        region = region or variant.region()
        before = region.told()
        with region.active():
            result = self.function(*args, **kwargs)
        self._account(key, variant, region, before)
        return result

    def _account(self, key: tuple[Any, ...], variant: _Variant, region: Region, before: Standing) -> None:
        now = region.told()
        with self.lock:
            self.placed += now.placed - before.placed
            self.escaped += now.escaped - before.escaped
            variant.misses = variant.misses + 1 if now.escaped > before.escaped else 0
            if variant.misses >= _MISSES:
                self.variants.held.pop(key, None)
            elif now.alive == 0:  # else somebody holds a block: the slab is theirs until they let go
                variant.idle.append(region)

    def trace(self, *args: Any, **kwargs: Any) -> MemoryTrace | None:
        """What is planned for such arguments; None where no such call was made yet."""
        with self.lock:
            variant = self.variants.get(_signature((args, kwargs)))
        return variant.trace if variant is not None else None

    def release(self) -> int:
        """Free the slabs of idle regions. Returns the number of bytes."""
        freed = 0
        with self.lock:
            for variant in self.variants.held.values():
                for region in variant.idle:
                    if region.told().address and region.release():
                        freed += variant.trace.slab_nbytes
        return freed

    def held(self) -> int:
        """Bytes in slabs of idle regions."""
        with self.lock:
            return sum(v.trace.slab_nbytes for v in self.variants.held.values() for r in v.idle if r.told().address)


def place_allocations(function: Callable[..., Any], *, recent_shapes: int = 16) -> PlacedCalls:
    """``function`` with what it allocates on the CPU carved from one planned slab per call, library calls' own results and
    workspaces included; what is alive when it returns stays in ordinary memory. The first call with a signature (shapes,
    strides, dtypes; other arguments by value) is noted, later ones are placed.
    """
    return PlacedCalls(function, recent_shapes)


def _signature(given: Any) -> tuple[Any, ...]:
    flat, spec = tree_flatten(given)
    out: list[Any] = [str(spec)] if any(isinstance(x, dict) for x in (given[1],) if x) else [len(flat)]
    for x in flat:
        if isinstance(x, torch.Tensor):
            out.append((x.shape, x.stride() if x.layout is torch.strided else None, x.dtype, x.requires_grad))
        else:
            out.append(x if isinstance(x, int | float | str | bool | None) else id(x))
    return (*out, torch.is_grad_enabled())


_all: weakref.WeakSet[PlacedCalls] = weakref.WeakSet()
also_retains(lambda: sum(p.release() for p in list(_all)), lambda: sum(p.held() for p in list(_all)))
