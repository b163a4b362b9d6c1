"""Program -> callables: binds the generated functions to torch and hands them their slabs.

Comes in: a Program and its constants. Goes out: one callable per section, which takes its arguments as a list that it
empties. Promised: slabs that the plan keeps are held for the next call up to the process's limit, everything else is
freed where the plan says; a call that raises gives nothing back and leaks nothing; calls may run side by side, and on devices
that work in streams a slab is taken again only on the stream that used it.
"""

from __future__ import annotations

import itertools
import linecache
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from lowtide.core.errors import BugError
from lowtide.ir.graph import Atom
from lowtide.ir.loops import FAILURES
from lowtide.ir.strides import same_places
from lowtide.program import Entry, Header, Program, SlabUse
from lowtide.runtime import kernels
from lowtide.runtime.beside import Begun
from lowtide.runtime.calls import DTYPES, atom, leaves, overload
from lowtide.runtime.extern import AsSaid, Extern, trusted
from lowtide.runtime.lease import lend, made_here
from lowtide.runtime.retainers import others_nbytes, release_others
from lowtide.torch_compat import Constants, held_by

Watch = Callable[[list[Any]], Callable[[Sequence[Any]], None] | None]
Headers = tuple[torch.Tensor, ...]
Bytes = Headers | torch.UntypedStorage  # headers over a slab, or the slab itself where it is lent
_TRIMMED_EVERY = 16  # takes; slabs that lay idle through all of them are freed
_numbers = itertools.count()


class Idle(NamedTuple):
    """A slab between two calls. ``stream``: the one whose work may still touch it; on the CPU there is none."""

    held: Bytes
    stream: torch.Stream | None


def _stream(device: str) -> torch.Stream | None:
    return None if device == "cpu" else torch.accelerator.current_stream(device)


class _Retained:
    """Slabs held between calls, for the whole process: who holds them and how many bytes.

    ended: idle lists of holders that are gone, not subtracted yet. back: leases that ended, not given back yet. Both are
        filled without the lock, since Python may end an object at any moment.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders: weakref.WeakSet[Slabs] = weakref.WeakSet()
        self.ended: deque[tuple[Sequence[SlabUse], list[list[Idle]]]] = deque()
        self.back: deque[tuple[weakref.ref[Slabs], int, torch.UntypedStorage]] = deque()
        self.nbytes = 0

    def settle(self) -> None:
        """Subtract what ended with its holder, and give back what was lent. With the lock held."""
        while self.ended:
            uses, idle = self.ended.popleft()
            self.nbytes -= sum(use.nbytes * len(held) for use, held in zip(uses, idle, strict=True))
        while self.back:
            ref, index, base = self.back.popleft()
            holder = ref()
            if holder is not None:
                holder.keep(index, base)

    def came_back(self, holder: weakref.ref[Slabs], index: int, base: torch.UntypedStorage) -> None:
        """A lease ended. Whoever holds the lock now settles later."""
        self.back.append((holder, index, base))
        if self.lock.acquire(blocking=False):
            try:
                self.settle()
            finally:
                self.lock.release()


_retained = _Retained()


def release_retained() -> int:
    """Free all slabs that are held for a next call. Returns the number of bytes."""
    with _retained.lock:
        _retained.settle()
        freed, _retained.nbytes = _retained.nbytes, 0
        for holder in list(_retained.holders):
            for idle in holder.idle:
                idle.clear()
    return freed + release_others()


def retained_nbytes() -> int:
    """Bytes of slabs held for a next call."""
    with _retained.lock:
        _retained.settle()
        return _retained.nbytes + others_nbytes()


class Slabs:
    """What generated code calls ``run``: takes and gives back the slabs of one section. Safe from several threads."""

    def __init__(self, uses: Sequence[SlabUse], retain: int, poison: bool) -> None:
        self.uses, self.retain, self.poison = uses, retain, poison
        self.idle: list[list[Idle]] = [[] for _ in uses]
        self.takes, self.spare = [0] * len(uses), [0] * len(uses)
        with _retained.lock:
            _retained.holders.add(self)
        weakref.finalize(self, _retained.ended.append, (uses, self.idle)).atexit = False

    def take(self, index: int, found: torch.Tensor | None) -> Headers:
        """Headers of slab use ``index``; ``found`` is an input that lies in the slab, if an earlier section leased it."""
        use = self.uses[index]
        if found is not None:
            return _headers(found.untyped_storage(), use)
        held = self._idle(index, use)
        if isinstance(held, tuple):
            storage, headers = held[0].untyped_storage(), held
        else:
            storage = (
                torch.empty(use.nbytes, dtype=torch.uint8, device=use.device).untyped_storage()
                if held is None
                else held
            )
            lent = (
                lend(storage, partial(_retained.came_back, weakref.ref(self), index))
                if use.leaves and use.kept
                else storage
            )
            headers = _headers(lent, use)
        if self.poison:
            _poison(storage)
        return headers

    def _idle(self, index: int, use: SlabUse) -> Bytes | None:
        """What is held for this call: of slabs that an earlier call left on the stream of this one, so that its work comes
        first. Of the others, those that were not needed for a while end."""
        nbytes, stream = use.nbytes, _stream(use.device)
        with _retained.lock:
            _retained.settle()
            idle = self.idle[index]
            at = next((i for i in reversed(range(len(idle))) if idle[i].stream == stream), None)
            held = idle.pop(at).held if at is not None else None
            if held is not None:
                _retained.nbytes -= nbytes
            self.spare[index] = min(self.spare[index], len(idle))
            self.takes[index] += 1
            if self.takes[index] % _TRIMMED_EVERY == 0:
                _retained.nbytes -= nbytes * self.spare[index]
                del idle[: self.spare[index]]
                self.spare[index] = len(idle)
            return held

    def give(self, index: int, headers: Headers) -> None:
        """End of the slab's use in this call. A slab that was lent comes back by itself."""
        use = self.uses[index]
        if use.kept and use.found_by is None:
            with _retained.lock:
                _retained.settle()
                self.keep(index, headers)

    def keep(self, index: int, held: Bytes) -> None:
        """Hold a slab for the next call, as far as the limit allows. With the lock of what is retained."""
        nbytes = self.uses[index].nbytes
        if _retained.nbytes + nbytes <= self.retain:
            self.idle[index].append(Idle(held, _stream(self.uses[index].device)))
            _retained.nbytes += nbytes


def _poison(storage: torch.UntypedStorage) -> None:
    whole = torch.empty(0, dtype=torch.uint8, device=storage.device)
    whole.set_(storage).fill_(0xFF)  # type: ignore[call-overload]


def _headers(storage: torch.UntypedStorage, use: SlabUse) -> Headers:
    return tuple(_header(storage, h, use.device) for h in use.headers)


def _header(storage: torch.UntypedStorage, h: Header, device: str) -> torch.Tensor:
    dtype = DTYPES[h.dtype]
    empty = torch.empty(0, dtype=dtype, device=device)
    return empty.set_(storage, h.offset // dtype.itemsize, h.size, h.stride)  # type: ignore[call-overload]


def exact(t: torch.Tensor, size: Sequence[int], stride: Sequence[int], pinned: bool = False) -> torch.Tensor:
    """A copy of ``t`` with exactly that size and stride, on memory of its own, which is ``pinned`` or not."""
    return torch.empty_strided(size, stride, dtype=t.dtype, device=t.device, pin_memory=pinned).copy_(t)


def failed(status: int, place: str) -> None:
    """Raise what torch raises where a kernel says that an index was out of range, or a whole number divided by 0.
    ``place``: the user's line."""
    where = f" ({place})" if place else ""
    if status & FAILURES[None]:
        raise IndexError(f"index out of range{where}")
    if status & FAILURES["divisor"]:
        raise RuntimeError(f"ZeroDivisionError{where}")


class LoadedSection:
    """One section, ready to run."""

    def __init__(
        self,
        function: Callable[[list[Any], Slabs], list[Any]],
        slabs: Slabs,
        entry: Entry,
        watch: Watch,
    ) -> None:
        self.function, self.slabs, self.watch = function, slabs, watch
        self.consumed, self.strides = entry.consumed, entry.strides

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run; empties ``args``."""
        ended = self.watch(args)
        results = self.function(args, self.slabs)
        if ended is not None:
            ended(results)
        return results

    def owns(self, args: list[Any]) -> bool:
        """Whether the inputs that this section overwrites are as its earlier section left them, and nobody else's.

        False where saved tensors were replaced by copies (hooks, offloading), or where anyone but ``args`` holds one of
        them, a view of it, or its storage.
        """
        for c in self.consumed:
            storage = held_by(args, c.positions)
            if storage is None or not made_here(storage):
                return False
            if c.nbytes and storage.nbytes() != c.nbytes:
                return False
            for i, offset in zip(c.positions, c.offsets, strict=False):  # no offsets outside slabs
                if args[i].storage_offset() * args[i].element_size() != offset:
                    return False
        return True

    def misfits(self, args: Sequence[Any]) -> list[int]:
        """Positions of inputs whose strides are not those that the code expects, as a hook may leave saved tensors."""
        wanted = self.strides
        odd = [i for i, t in enumerate(args) if wanted[i] is not None and t.stride() != wanted[i]]
        return [i for i in odd if _matter(args[i], wanted[i] or ())]


class Captured:
    """One section as it was captured, where none of ours can be had: it takes inputs of any strides, places nothing and
    overwrites nothing."""

    def __init__(self, module: Callable[..., Sequence[Any]]) -> None:
        self.module = module

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run; empties ``args``."""
        given = list(args)
        args.clear()
        return list(self.module(*given))


def _matter(t: torch.Tensor, stride: Sequence[int]) -> bool:
    """Whether other strides would put an element elsewhere."""
    return not same_places(t.shape, t.stride(), stride)


def load(
    program: Program,
    constants: Constants,
    *,
    retain: int,
    poison: bool = False,
    watch: Callable[[int, list[Any]], Callable[[Sequence[Any]], None] | None] = lambda _i, _args: None,
) -> list[LoadedSection]:
    """One callable per section. ``retain``: bytes that may be held between calls, for the whole process.

    ``poison``: fill slabs with 0xFF before they are handed out, so that a read of what was never written shows.
    ``watch`` is told the section's index and arguments before each call, and what it gives is told the results.
    """
    names: dict[str, Any] = {
        "exact": exact,
        "made": torch.empty_strided,
        "relaid": torch.as_strided,
        "failed": failed,
        "as_said": AsSaid(),
        "leaves": leaves,
        "Begun": Begun,
    }
    kernels.finish(kernels.start(program.kernels))
    for name, what in program.bound.items():
        kind, _, text = what.partition(":")
        if not name.isidentifier():
            raise BugError(f"{name!r} is not an identifier")
        if kind == "op":
            names[name] = overload(text) if trusted(text) else Extern(text, overload(text))
        elif kind == "constant":
            names[name] = constants[text]
        elif kind == "kernel":
            function, _, buffers = text.rpartition("/")
            names[name] = kernels.function(function, int(buffers))
        elif kind == "numbers":
            names[name] = kernels.numbers(text)
        else:
            names[name] = atom(Atom(kind, text))
    filename = f"<lowtide program {next(_numbers)}>"
    linecache.cache[filename] = (len(program.source), None, program.source.splitlines(keepends=True), filename)
    exec(compile(program.source, filename, "exec"), names)
    return [
        LoadedSection(names[e.function], Slabs(e.slabs, retain, poison), e, partial(watch, i))
        for i, e in enumerate(program.entries)
    ]
