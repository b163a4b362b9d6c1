"""Frame: what one instance holds for one block while it runs: headers, where they point, and what it has learned.

Comes in: a BlockPlan. Goes out: the ``run`` of generated code. Promised: headers are pointed anew only when sizes or the
plan changed; what does not fit its place gets ordinary memory for this run and is learned; a frame serves one call at a
time. Branches and loops have frames of their own, whose slab on each device is a piece of the surrounding one there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from lowtide.core.units import align_up
from lowtide.executor.emit import Slot
from lowtide.executor.placing import Placement
from lowtide.executor.plans import BlockPlan, Built, Entry
from lowtide.executor.shaping import NO_SHAPES, shaper, where
from lowtide.executor.storages import ManagedStorages, Slab, Slabs, together
from lowtide.plan.plan import alignment_of
from lowtide.runtime.calls import DTYPES
from lowtide.runtime.load import exact

_OUR_REFERENCES = 4  # the tuple, the list, the name that walks over them, and the argument of the count
_NOTHING = Placement((), (), 0, 0)


class Frame:
    """``slab``, ``starts``: where this block's bytes begin, by device. ``owns``: the devices on which the slab is an inner
    block's own, no piece of one outside. ``left``: the streams that an idle one was left on (``streams``)."""

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
        several = len(plan.block.devices) > 1
        # The slab may have to be another for every size.
        self.is_odd = outer is not None or several or plan.policy.tight
        self.storages = ManagedStorages()
        self.headers: tuple[torch.Tensor, ...] = ()
        self.escaped: dict[int, torch.UntypedStorage] = {}
        self.runs = self.escapes = self.copies = 0
        self.bindings: dict[str, Any] | None = None
        self.slab: Slab | Slabs | None = None
        self.starts: dict[str, int] = {}
        self.owns: set[str] = set()
        self.left: tuple[torch.Stream, ...] = ()
        self.placement = _NOTHING
        self.entry: Entry | None = None
        self.version = -1
        self.pointed: Slab | Slabs | None = None
        self.shaper = shaper((), NO_SHAPES)
        self.result_slabs: dict[str, torch.UntypedStorage] = {}
        self.result_room: list[int] = []
        self.result_sizes: list[int] = []
        self.latest_results: dict[torch.device, tuple[StorageWeakRef, int, int]] = {}
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
            del slab  # or its bytes would be there beside those of a new one
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
            self.shaper.start_at(self.starts)
            self.shaper.begin(found, key)
            if not again or not self.shaper.count:
                break
            found = built.placed(entry)
        if self.shaper.count:
            self._outgrown(0, key)

    def _move(self, placement: Placement) -> None:
        """Take up a placement, in a slab that has room for it."""
        self.placement = placement
        if self.is_odd or self.slab is None or self.slab.nbytes < placement.nbytes:
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
                _stand(self.headers[i], self.loaded.slots[i], self.slab.parts)

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
        """The slabs of this run's results: exact where their sizes are known by now, learned where they are not."""
        assert self.entry is not None
        slots = self.loaded.code.results
        learned = self.entry.results.sizes if self.entry.results is not None else (0,) * len(slots)
        layouts = self.loaded.geometry[0](key)
        sizes = [layouts[s.where] if s.segment == 0 else n for s, n in zip(slots, learned, strict=True)]
        self.result_room = [align_up(n, alignment_of(s.device)) for s, n in zip(slots, sizes, strict=True)]
        self.result_sizes = list(sizes)
        for device in dict.fromkeys(s.device for s in slots):
            need = sum(n for s, n in zip(slots, self.result_room, strict=True) if s.device == device)
            with torch.inference_mode(False):
                slab = torch.empty(need, dtype=torch.uint8, device=device)
            self.result_slabs[device] = slab.untyped_storage()

    def results(self, segment: int, key: tuple[Any, ...]) -> list[torch.Tensor]:
        """Fresh headers over the slabs of results; what does not fit there gets ordinary memory, and is learned."""
        layouts = self.loaded.geometry[segment](key)
        out: list[torch.Tensor] = []
        tops = dict.fromkeys(self.result_slabs, 0)
        for j, s in enumerate(self.loaded.code.results):
            start = tops[s.device]
            tops[s.device] += self.result_room[j]
            if s.segment != segment:
                continue
            at, end = s.where + 2 + s.rank, s.where + 2 + 2 * s.rank
            size, stride, nbytes = layouts[s.where + 2 : at], layouts[at:end], layouts[s.where]
            self.result_sizes[j] = nbytes
            dtype = DTYPES[s.dtype]
            if nbytes > self.result_room[j]:
                out.append(torch.empty_strided(size, stride, dtype=dtype, device=s.device))
                self.escapes += 1
                continue
            made, slab = torch.empty(0, dtype=dtype, device=s.device), self.result_slabs[s.device]
            out.append(made.set_(slab, start // dtype.itemsize, size, stride))  # type: ignore[call-overload]
        return out

    def end_results(self, done: bool) -> None:
        """The slabs of results are their tensors' alone from here on; learn their sizes."""
        if done and self.built is not None and self.entry is not None:
            self.built.learn_results(self.entry, self.result_sizes)
        self.latest_results = {
            s.device: (StorageWeakRef(s), s.data_ptr(), s.nbytes()) for s in self.result_slabs.values()
        }
        self.result_slabs.clear()

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

    def stack(
        self,
        line: int,
        carried: list[torch.Tensor],
        more: list[Any],
        forms: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        test: tuple[Any, ...],
        body: tuple[Any, ...],
    ) -> list[torch.Tensor]:
        """Run a loop and stack what it carries at the end of each turn; without a turn what came in is the one row. There is
        room for as many rows as the latest run had, and where there are as many again, none is copied a second time. A
        turn reads the row before its own. ``forms``: size and strides in which the body takes what it carries."""
        wholes: list[torch.Tensor] = []
        room, turns = self.plan.turns.get(line, 1), 0
        carried = [self.strided(x, *form) for x, form in zip(carried, forms, strict=True)]
        while bool(self._run_inner(line, 0, [*carried, *more], test)[0]):
            found = self._run_inner(line, 1, [*carried, *more], body)
            if not turns:
                wholes = [x.new_empty((room, *x.shape)) for x in found]
            elif turns == room:
                room *= 2
                wholes = [_with_rows(x, room) for x in wholes]
            rows = [whole.select(0, turns).copy_(x) for whole, x in zip(wholes, found, strict=True)]
            carried = [self.strided(x, *form) for x, form in zip(rows, forms, strict=True)]
            turns += 1
        if not turns:
            return [x.unsqueeze(0).clone(memory_format=torch.contiguous_format) for x in carried]
        self.plan.turns[line] = turns
        return wholes if turns == room else [_with_rows(x, turns) for x in wholes]

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
            f.slab, f.pointed, f.key, f.entry, f.stirred = None, None, None, None, True
            f.escaped.clear()
            for h in f.headers:
                h.set_()

    def end(self) -> None:
        """Let go of slab and headers, which stay what they are for whoever else holds them; there is no run after that."""
        for f in self.everyone():
            f.slab, f.pointed, f.headers = None, None, ()
            f.shaper = shaper((), NO_SHAPES)
            f.storages.deallocate()
            f.escaped.clear()

    def held_outside(self) -> bool:
        """Whether somebody beside us holds a header itself."""
        return any(sys.getrefcount(h) > _OUR_REFERENCES for h in self.headers)

    def put_back(self) -> int:
        """Headers that should stand on the slab and do not are pointed anew in the next run, and the size of what replaced
        their storage is learned. Returns how many there are."""
        slab, found = self.slab, 0
        if slab is None or self.pointed is not slab or self.key is None:
            return 0
        shapes = self.shaper.shapes
        for b, h in zip(shapes.buffer, self.headers, strict=True):
            if shapes.devices[b] in slab.parts and not slab.has(h) and b not in self.escaped:
                found += 1
                self.shaper.need(b, h.untyped_storage().nbytes())
        if found:
            self.settle()
            self.key = self.pointed = None
        return found

    def _find_room(self) -> None:
        """A slab with room for the placement on each device where it needs bytes."""
        if self.outer is None:
            self._own_room()
        else:
            self._inner_room(self.outer)

    def _own_room(self) -> None:
        """What has the room is kept; all else is let go before anything new is made."""
        wanted = {d: p.nbytes for d, p in self.placement.parts.items()}
        have, tight = dict(self.slabs()), self.plan.policy.tight
        kept = {d: s for d, s in have.items() if s.nbytes >= wanted.get(d, 0)}
        if tight:
            kept = {d: s for d, s in kept.items() if s.nbytes == wanted.get(d, 0)}
        missing = {d: n for d, n in wanted.items() if n and d not in kept}
        if missing or len(kept) < len(have):
            self._let_go()
            have.clear()
            self.slab = together(kept | {d: Slab(n, d) for d, n in missing.items()})

    def _inner_room(self, outer: Frame) -> None:
        """A piece of the slab outside; where that has no room, a slab of the block's own. What is too small is let go before
        anything new is made: no turn leaves anything there that is read after it."""
        places = outer.built.slabs[self.outer_line] if outer.built is not None else {}
        there, mine, parts, missing = outer.slabs(), dict(self.slabs()), dict[str, Slab](), dict[str, int]()
        offsets, capacity = outer.placement.offsets, outer.placement.capacity
        for d, placed in self.placement.parts.items():
            b, need = places.get(d, -1), placed.nbytes
            if b >= 0:
                outer.shaper.need(b, need)
            if b >= 0 and d in there and capacity and need <= capacity[b]:
                parts[d], self.starts[d] = there[d], outer.starts.get(d, 0) + offsets[b]
                self.owns.discard(d)
            elif d in self.owns and d in mine and mine[d].nbytes >= need:
                parts[d] = mine[d]
            elif need:
                missing[d] = need
        if missing or parts != mine:
            self._let_go()
            mine.clear()
            self.escapes += len(missing)
            self.owns |= missing.keys()
            self.starts |= dict.fromkeys(missing, 0)
            self.slab = together(parts | {d: Slab(n, d) for d, n in missing.items()})

    def slabs(self) -> Mapping[str, Slab]:
        """The slabs that this block's bytes lie in, by device."""
        return self.slab.parts if self.slab is not None else {}

    def _let_go(self) -> None:
        """Drop the slab and every header on it, so that its bytes are free before new ones are taken."""
        ours = set(self.slabs().values())
        for f in self.everyone():
            if f is self or not ours.isdisjoint(f.slabs().values()):
                for h in f.headers:
                    h.set_()
                f.key, f.slab, f.pointed = None, None, None

    def _point(self) -> None:
        """All headers onto the slab, without elements yet."""
        parts = self.slabs()
        for h, s in zip(self.headers, self.loaded.slots, strict=True):
            _stand(h, s, parts)
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


def _stand(header: torch.Tensor, slot: Slot, parts: Mapping[str, Slab]) -> None:
    """A header onto the slab of its device, without elements yet; onto nothing, where there is none."""
    slab = parts.get(slot.device)
    if slab is None:
        header.set_()
    else:
        header.set_(slab.storage, 0, (0,), (1,))  # type: ignore[call-overload]


def _carried(found: list[Any], into: Sequence[torch.Tensor | None], lent: Sequence[bool]) -> list[Any]:
    """Carried values where they are to go; copies, where they are only ``lent`` and there is no such place."""
    out: list[Any] = []
    for x, place, mine in zip(found, into, lent, strict=True):
        out.append(place.copy_(x) if place is not None else x.clone() if mine else x)
    return out


def _with_rows(t: torch.Tensor, count: int) -> torch.Tensor:
    """The first ``count`` rows in memory of their own, or all with room for as many."""
    made = t.new_empty((count, *t.shape[1:]))
    made[: t.size(0)].copy_(t[:count])
    return made


def _odd(t: torch.Tensor) -> Any:
    return float("nan") if t.is_floating_point() or t.is_complex() else True if t.dtype is torch.bool else -1 & 0x7F
