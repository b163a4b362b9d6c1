"""Frame: what one instance holds for one block while it runs: headers, where they point, and what it has learned.

Comes in: a BlockPlan. Goes out: the ``run`` of generated code. Promised: headers are pointed anew only when sizes or the
plan changed; what does not fit its place gets ordinary memory for this run and is learned; a frame serves one call at a
time. Branches and loops have frames of their own, whose slab is a piece of the surrounding one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from lowtide.core.units import align_up
from lowtide.executor.groups import LINE
from lowtide.executor.placing import Placement
from lowtide.executor.plans import BlockPlan, Built, Entry
from lowtide.executor.shaping import NO_SHAPES, shaper, where
from lowtide.executor.storages import ManagedStorages, Slab, device_of
from lowtide.runtime.calls import DTYPES
from lowtide.runtime.load import exact

_OUR_REFERENCES = 4  # the tuple, the list, the name that walks over them, and the argument of the count
_NOTHING = Placement((), (), 0, 0)


class Frame:
    """``slab``, ``start``: where this block's bytes begin; ``room``: how many there are. ``owns``: the slab is this block's own,
    no piece of one outside."""

    def __init__(self, plan: BlockPlan, outer: Frame | None = None, buffer: int = -1) -> None:
        self.plan, self.outer, self.outer_line = plan, outer, buffer
        self.loaded = plan.plain
        self.function = self.loaded.function
        self.is_plain = False  # planned, and nothing to do after a run but to learn
        self.stirred = True  # something was shaped, or went wrong, since sizes were learned last
        self.built: Built | None = None
        self.key: tuple[Any, ...] | None = None
        self.at: list[tuple[Any, ...] | None] = []
        self.many = self.exact = False  # more than one segment; the signature says all sizes
        self.unknown: list[tuple[Any, ...] | None] = []
        self.is_odd = outer is not None or plan.policy.tight  # the slab may have to be another for every size
        self.storages = ManagedStorages()
        self.headers: tuple[torch.Tensor, ...] = ()
        self.escaped: dict[int, torch.UntypedStorage] = {}
        self.runs = self.escapes = self.copies = 0
        self.bindings: dict[str, Any] | None = None
        self.slab: Slab | None = None
        self.start = self.room = 0
        self.owns = False
        self.placement = _NOTHING
        self.entry: Entry | None = None
        self.version = -1
        self.pointed: Slab | None = None
        self.shaper = shaper((), NO_SHAPES)
        self.result_slab: torch.UntypedStorage | None = None
        self.result_room: list[int] = []
        self.result_sizes: list[int] = []
        self.latest_results: tuple[StorageWeakRef, int, int] | None = None
        self.inner = [[Frame(p, self, i) for p in arms] for i, arms in enumerate(plan.inner)]

    # -- called by generated code ------------------------------------------------------------------------------------

    def begin(self, key: tuple[Any, ...]) -> None:
        """New sizes at the block's start: find the place of everything, and shape what is known by now. A signature that was
        not seen before runs once in the placement that is there, if it fits: nothing is planned then."""
        built, slab = self.built, self.slab
        assert built is not None
        entry = built.entries.get(key)
        found = entry.where if entry is not None else None
        if entry is None or found is None or self.is_odd or slab is None or slab.nbytes < found.nbytes:
            self._search(entry, key)
        else:
            entry.used = built.moment()
            self.entry, self.version, self.placement = entry, found.version, found.placement
            if self.many:
                self.at = self.unknown[:]
            if self.escaped or self.pointed is not slab:
                self._end_escapes()
            if self.shaper.begin(found, key):
                self.stirred = True
                if self.shaper.count:
                    self._outgrown(0, key)
            learned = entry.learned
            if not self.exact and learned is not None:
                learned.runs += 1
                if learned.runs + 1 >= learned.window:
                    self.stirred = True
        self.at[0] = self.key = key
        if self.inner:
            for arms in self.inner:
                for inner in arms:
                    inner.key = None  # their slab may lie elsewhere now

    def _search(self, entry: Entry | None, key: tuple[Any, ...]) -> None:
        """The same where something has to be found first: a placement, or a slab."""
        built = self.built
        assert built is not None
        self.stirred = True
        unseen = entry is None and self.slab is not None and not self.plan.policy.tight
        if entry is None:
            entry = built.meet(key)
        self.entry, entry.used = entry, built.moment()
        found = where(self.placement, [0] * len(built.lives.lives)) if unseen else entry.where or built.placed(entry)
        for again in (unseen, False):
            self._move(found.placement)
            self.version = found.version
            self.at = self.unknown[:]
            if self.escaped:
                self._end_escapes()
            self.shaper.start_at(self.start)
            self.shaper.begin(found, key)
            if not again or not self.shaper.count:
                break
            found = built.placed(entry)
        if self.shaper.count:
            self._outgrown(0, key)

    def _move(self, placement: Placement) -> None:
        """Take up a placement, in a slab that has room for it."""
        self.placement, slab = placement, self.slab
        if self.is_odd or slab is None or slab.nbytes < placement.nbytes:
            self._find_room()
        if self.pointed is not self.slab:
            self._point()

    def shape(self, segment: int, key: tuple[Any, ...]) -> None:
        """Point the headers of a segment, whose sizes are now known."""
        self.at[segment] = key
        if self.escaped:  # in an earlier turn of a loop
            self._back(segment)
        if self.shaper(segment, key):
            self.stirred = True
            if self.shaper.count:
                self._outgrown(segment, key)

    def _back(self, segment: int) -> None:
        """Headers of a segment that escaped stand on the slab again."""
        for i in self.loaded.by_segment[segment]:
            if self.slab is not None and not self.slab.has(self.headers[i]):
                self.headers[i].set_(self.slab.storage, 0, (0,), (1,))  # type: ignore[call-overload]

    def _outgrown(self, segment: int, key: tuple[Any, ...]) -> None:
        """Headers of a segment that do not fit get ordinary memory for this run."""
        layouts = self.loaded.geometry[segment](key)
        for i in self.shaper.escaped(segment):
            slot, header = self.loaded.slots[i], self.headers[i]
            nbytes, offset = layouts[slot.where], layouts[slot.where + 1]
            middle, end = slot.where + 2 + slot.rank, slot.where + 2 + 2 * slot.rank
            storage = self._escape(self.shaper.shapes.buffer[i], nbytes, header)
            header.set_(storage, offset, layouts[slot.where + 2 : middle], layouts[middle:end])  # type: ignore[call-overload]

    def _escape(self, buffer: int, nbytes: int, header: torch.Tensor) -> torch.UntypedStorage:
        """Ordinary memory for what outgrew its place in this run."""
        found = self.escaped.get(buffer)
        if found is None or found.nbytes() < nbytes:
            found = torch.empty(nbytes, dtype=torch.uint8, device=header.device).untyped_storage()
            self.escaped[buffer] = found
            self.escapes += 1
        return found

    def begin_results(self, key: tuple[Any, ...]) -> None:
        """The slab of this run's results: exact where their sizes are known by now, learned where they are not."""
        assert self.entry is not None
        slots = self.loaded.code.results
        learned = self.entry.results.sizes if self.entry.results is not None else (0,) * len(slots)
        layouts = self.loaded.geometry[0](key)
        sizes = [layouts[s.where] if s.segment == 0 else n for s, n in zip(slots, learned, strict=True)]
        self.result_room = [align_up(n, LINE) for n in sizes]
        self.result_sizes = list(sizes)
        with torch.inference_mode(False):
            slab = torch.empty(sum(self.result_room), dtype=torch.uint8, device=device_of(slots))
        self.result_slab = slab.untyped_storage()

    def results(self, segment: int, key: tuple[Any, ...]) -> list[torch.Tensor]:
        """Fresh headers over the slab of results; what does not fit there gets ordinary memory, and is learned."""
        layouts = self.loaded.geometry[segment](key)
        out: list[torch.Tensor] = []
        for j, s in enumerate(self.loaded.code.results):
            if s.segment != segment:
                continue
            at, end = s.where + 2 + s.rank, s.where + 2 + 2 * s.rank
            size, stride, nbytes = layouts[s.where + 2 : at], layouts[at:end], layouts[s.where]
            self.result_sizes[j] = nbytes
            dtype = DTYPES[s.dtype]
            if nbytes > self.result_room[j] or self.result_slab is None:
                out.append(torch.empty_strided(size, stride, dtype=dtype, device=s.device))
                self.escapes += 1
                continue
            begin = sum(self.result_room[:j]) // dtype.itemsize
            made = torch.empty(0, dtype=dtype, device=s.device)
            out.append(made.set_(self.result_slab, begin, size, stride))  # type: ignore[call-overload]
        return out

    def end_results(self, done: bool) -> None:
        """The slab of results is its tensors' alone from here on; learn their sizes."""
        if self.result_slab is None:
            return
        if done and self.built is not None and self.entry is not None:
            self.built.learn_results(self.entry, self.result_sizes)
        slab = self.result_slab
        self.latest_results = (StorageWeakRef(slab), slab.data_ptr(), slab.nbytes())
        self.result_slab = None

    def branch(self, line: int, chosen: Any, args: list[Any], *free: tuple[Any, ...]) -> list[Any]:
        """Run one arm of a conditional."""
        arm = 0 if chosen else 1
        return self._run_inner(line, arm, args, free[arm])

    def region(self, line: int, args: list[Any], free: tuple[Any, ...]) -> list[Any]:
        """Run a region."""
        return self._run_inner(line, 0, args, free)

    def loop(
        self,
        line: int,
        carried: list[Any],
        more: list[Any],
        into: Sequence[torch.Tensor | None],
        test: tuple[Any, ...],
        body: tuple[Any, ...],
    ) -> list[Any]:
        """Run a loop. ``into``: per carried value the header that it goes to, if any, which is then the result. A turn reads
        what the one before it left there, so that it copies its results at its end, one after the other. That is right because
        no result of a turn is a carried operand or stands on one: a nested block returns copies of such (``emit._result``).
        Without a single turn the results are copies of what came in, never that itself."""
        inner, turned = self.inner[line][1], False
        while bool(self._run_inner(line, 0, [*carried, *more], test)[0]):
            carried = self._run_inner(line, 1, [*carried, *more], body)
            lent = inner.plan.stays if inner.built is not None else ()  # the next turn uses their bytes anew
            carried = _carried(carried, into, lent or (False,) * len(carried))
            turned = True
        return carried if turned else _carried(carried, into, [isinstance(c, torch.Tensor) for c in carried])

    def scan(
        self,
        line: int,
        carried: list[Any],
        sliced: list[torch.Tensor],
        more: list[Any],
        into: Sequence[torch.Tensor | None],
        forms: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        free: tuple[Any, ...],
    ) -> list[Any]:
        """Run a loop over the rows of ``sliced``. ``into``: per carried value the header that it goes to, if any, then the
        results whose rows the turns give: each is copied into its place as soon as its turn ended, before what is carried
        is. ``forms``: size and strides in which the body takes what changes from turn to turn."""
        inner, count, turns = self.inner[line][0], len(carried), sliced[0].size(0)
        for k in range(turns):
            given = (*carried, *(x.select(0, k) for x in sliced))
            args = [self.strided(x, *form) for x, form in zip(given, forms, strict=True)]
            found = self._run_inner(line, 0, [*args, *more], free)
            for whole, row in zip(into[count:], found[count:], strict=True):
                assert whole is not None
                whole.select(0, k).copy_(row)
            lent = inner.plan.stays[:count] if inner.built is not None else ()
            carried = _carried(found[:count], into[:count], lent or (False,) * count)
        if not turns:
            carried = _carried(carried, into[:count], (True,) * count)
        return [*carried, *into[count:]]

    def _run_inner(self, line: int, arm: int, args: list[Any], free: tuple[Any, ...]) -> list[Any]:
        frame = self.inner[line][arm]
        if frame.built is not frame.plan.built:
            frame.renew()
        return frame.function(args, frame, *free)

    def strided(self, t: torch.Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        """A tensor with exactly these strides: itself, or a copy."""
        return t if t.stride() == stride or not t.numel() else exact(t, size, stride)

    def poison(self, header: torch.Tensor) -> None:
        """Fill what is about to be written, so that a read of it before shows."""
        if header.numel():
            header.view(torch.uint8).fill_(0xFF) if header.is_contiguous() and header.dim() else header.fill_(
                _odd(header)
            )

    def watch(self, op: str, result: torch.Tensor) -> torch.Tensor:
        """A result that an operation says to be new. Where it lies in a slab, it becomes a copy, now and from now on."""
        frame: Frame | None = self
        while frame is not None:
            if frame.slab is not None and frame.slab.holds(result):
                self.copies += 1
                self.stirred = True
                self.plan.remember(op)
                return result.clone()
            frame = frame.outer
        return result

    def compare(self, op: str, result: torch.Tensor, operands: tuple[Any, ...]) -> torch.Tensor:
        """In a first run: a result must not stand on an operand's storage."""
        if not isinstance(result, torch.Tensor) or result.layout is not torch.strided or not result.numel():
            return result
        at = result.untyped_storage().data_ptr()
        if any(isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() == at for x in operands):
            self.copies += 1
            self.plan.remember(op)
            return result.clone()
        return result

    # -- around a run ------------------------------------------------------------------------------------------------

    def everyone(self) -> Iterator[Frame]:
        """This frame and those inside it, outer ones first."""
        todo = [self]
        while todo:
            f = todo.pop()
            yield f
            todo.extend(x for arms in f.inner for x in arms)

    def renew(self) -> None:
        """Take up code that was built since: new headers, nothing pointed yet."""
        self.built = self.plan.built
        self.loaded = loaded = self.built.loaded if self.built is not None else self.plan.plain
        self.function = loaded.function
        self.is_plain = self.built is not None and not self.inner and not loaded.code.results
        self.storages.deallocate()
        self.storages.allocate(len(loaded.slots))
        self.headers = tuple(self.storages.append(s) for s in loaded.slots)
        self.shaper = shaper(self.headers, self.built.shapes if self.built is not None else NO_SHAPES)
        self.unknown = [None] * len(loaded.geometry)
        self.at, self.many = self.unknown[:], len(self.unknown) > 1
        self.exact = self.built is not None and self.built.exact
        self.forget()

    def forget(self) -> None:
        """Let go of the slab, here and inside; it is found again at the next run."""
        for f in self.everyone():
            f.slab, f.pointed, f.key, f.entry, f.room, f.stirred = None, None, None, None, 0, True
            f.escaped.clear()
            for h in f.headers:
                h.set_()

    def held_outside(self) -> bool:
        """Whether somebody beside us holds a header itself."""
        return any(sys.getrefcount(h) > _OUR_REFERENCES for h in self.headers)

    def put_back(self) -> int:
        """Headers that should stand on the slab and do not are pointed anew in the next run, and the size of what replaced
        their storage is learned. Returns how many there are."""
        slab, found = self.slab, 0
        if slab is None or self.pointed is not slab or self.key is None:
            return 0
        for b, h in zip(self.shaper.shapes.buffer, self.headers, strict=True):
            if not slab.has(h) and b not in self.escaped:
                found += 1
                self.shaper.need(b, h.untyped_storage().nbytes())
        if found:
            self.settle()
            self.key = self.pointed = None
        return found

    def _find_room(self) -> None:
        need = self.placement.nbytes
        if self.outer is None:
            keep = self.slab is not None and self.slab.nbytes >= need
            if keep and self.plan.policy.tight and self.slab is not None:
                keep = self.slab.nbytes == need
            if not keep:
                self._let_go()
                self.slab = Slab(need, device_of(self.loaded.slots)) if need else None
            self.room = need
            return
        outer, line = self.outer, self.outer_line
        b = outer.built.slabs[line] if outer.built is not None else -1
        if b >= 0:
            outer.shaper.need(b, need)
        fits = b >= 0 and outer.slab is not None and outer.placement.capacity and need <= outer.placement.capacity[b]
        if fits and outer.slab is not None:
            self.slab, self.start, self.owns = outer.slab, outer.start + outer.placement.offsets[b], False
        elif self.slab is None or not self.owns or self.slab.nbytes < need:
            self.escapes += need > 0
            self.slab, self.start = (Slab(need, device_of(self.loaded.slots)) if need else None), 0
            self.owns = True
        self.room = need

    def _let_go(self) -> None:
        """Drop the slab and every header on it, so that its bytes are free before new ones are taken."""
        for f in self.everyone():
            if f is self or f.slab is self.slab:
                for h in f.headers:
                    h.set_()
                f.key, f.slab, f.pointed = None, None, None

    def _point(self) -> None:
        """All headers onto the slab, without elements yet."""
        for h in self.headers:
            if self.slab is None:
                h.set_()
            else:
                h.set_(self.slab.storage, 0, (0,), (1,))  # type: ignore[call-overload]
        self.pointed = self.slab

    def settle(self) -> None:
        """After a run that went well: learn sizes; where the plan changed or something escaped, begin anew next time."""
        entry, built = self.entry, self.built
        self.stirred = False
        if entry is None or self.key is None or built is None:
            return
        learned = entry.learned
        if self.shaper.over or (not built.exact and learned is not None and learned.runs + 1 >= learned.window):
            built.learn(entry, self.shaper.learned())
            found = entry.where  # another thread may take it away, or put another one there, which is for the next run
            if found is not None and found.version == self.version:
                self.shaper.place(found)
        elif learned is not None:
            learned.runs += 1
        if self.escaped or self.version != entry.version:
            self.key = None
            self._end_escapes()

    def _end_escapes(self) -> None:
        self.escaped.clear()
        self._point()


def _carried(found: list[Any], into: Sequence[torch.Tensor | None], lent: Sequence[bool]) -> list[Any]:
    """Carried values where they are to go; copies, where they are only ``lent`` and there is no such place."""
    out: list[Any] = []
    for x, place, mine in zip(found, into, lent, strict=True):
        out.append(place.copy_(x) if place is not None else x.clone() if mine else x)
    return out


def _odd(t: torch.Tensor) -> Any:
    return float("nan") if t.is_floating_point() or t.is_complex() else True if t.dtype is torch.bool else -1 & 0x7F
