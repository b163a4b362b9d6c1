"""Loops made of loops: a producer's body put into its reader.

Comes in: loops with the names of their buffers. Goes out: a loop that does the work of both. Promised: the same numbers
are computed in the same dtypes; what stands in no index any more divides no more often than before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowtide.ir.build import LoopBuilder, compact
from lowtide.ir.graph import int_of
from lowtide.ir.index import add, affine, divisions, mul, substitute, unflatten
from lowtide.ir.loops import Instr, Loop, renumbered
from lowtide.ir.normal import normalise
from lowtide.ir.symbolic import Dim, symbol


@dataclass(frozen=True, slots=True)
class Task:
    """A loop and the values of its buffers: those it is given, then those it makes."""

    loop: Loop
    given: tuple[str, ...]
    makes: tuple[str, ...]

    @property
    def changes(self) -> tuple[str, ...]:
        """Values of those it is given that it writes."""
        return tuple(n for k, n in enumerate(self.given) if any(True for _ in self.loop.stores(k)))


def invertible(producer: Loop, out: int) -> tuple[tuple[int, ...], tuple[int, ...], Dim] | None:
    """Sizes, strides and offset of the one place where a pointwise loop stores a buffer, where they name every element
    once; else None."""
    stores = list(producer.stores(out))
    if not producer.pointwise or len(stores) != 1 or len(stores[0][1].args) != 1:
        return None
    assert stores[0][1].index is not None
    found = affine(stores[0][1].index)
    if found is None:
        return None
    coefficients, offset = found
    sizes = tuple(map(int_of, producer.stages[0].inner))
    strides = tuple(coefficients.get(f"r{k}", 0) for k in range(len(sizes)))
    return (sizes, strides, offset) if unflatten(0, sizes, strides, {}) is not None else None


def inlined(reader: Task, value: str, producer: Task) -> Task | None:
    """The reader computing each element of ``value`` that it loads; None where an index cannot be traced back simply."""
    out = len(producer.given) + producer.makes.index(value)
    place = invertible(producer.loop, out)
    if place is None:
        return None
    writer = _Inliner(reader, value, producer, place)
    task = writer.run(out)
    if task is None or not writer.divides:
        return task
    before, after = (sum(len(divisions(x.index or 0)) for x in normalise(t.loop).body) for t in (reader, task))
    return task if after <= before else None


class _Inliner:
    """Builds one loop out of two; short-lived."""

    def __init__(
        self, reader: Task, value: str, producer: Task, place: tuple[tuple[int, ...], tuple[int, ...], Dim]
    ) -> None:
        self.reader, self.value, self.producer = reader, value, producer
        self.sizes, self.strides, self.offset = place
        self.names = list(dict.fromkeys(n for n in (*reader.given, *producer.given) if n != value))
        self.b = LoopBuilder(reader.loop.outer)
        self.divides = False

    def run(self, out: int) -> Task | None:
        reader, b = self.reader, self.b
        kinds = dict(zip(self.producer.given, self.producer.loop.inputs, strict=True))
        kinds |= dict(zip(reader.given, reader.loop.inputs, strict=True))
        b.inputs, b.outputs = [kinds[n] for n in self.names], list(reader.loop.outputs)
        slots = [self.names.index(n) if n != self.value else -1 for n in reader.given]
        slots += [len(self.names) + k for k in range(len(reader.makes))]
        at: dict[int, int] = {}
        n = 0
        for stage in reader.loop.stages:
            b.stage(stage.inner)
            for x in stage.body:
                moved = renumbered(x, at)
                if x.op not in ("load", "store", "accumulate"):
                    at[n] = b.emit(moved)
                elif (slot := slots[int(str(x.attr))]) >= 0:
                    at[n] = b.emit(Instr(moved.op, moved.dtype, moved.args, moved.index, slot))
                else:
                    found = self.element(moved, out)
                    if found is None:
                        return None
                    at[n] = found
                n += 1
        loop, kept = compact(b.build())
        return Task(loop, tuple(self.names[k] for k in kept), reader.makes)

    def run_keeping(self, out: int, first: int) -> Task | None:
        """As ``run``, but the value is computed in stage ``first`` alone, and stored there."""
        reader, b = self.reader, self.b
        makes = (*reader.makes, self.value)
        kinds = dict(zip(self.producer.given, self.producer.loop.inputs, strict=True))
        kinds |= dict(zip((*reader.given, *reader.makes), reader.loop.dtypes, strict=True))
        b.inputs, b.outputs = [kinds[n] for n in self.names], [kinds[n] for n in makes]
        slot = {n: k for k, n in enumerate((*self.names, *makes))}
        names = (*reader.given, *reader.makes)
        at: dict[int, int] = {}
        n, stored = 0, False
        for k, stage in enumerate(reader.loop.stages):
            b.stage(stage.inner)
            for x in stage.body:
                moved = renumbered(x, at)
                name = names[int(str(x.attr))] if x.op in ("load", "store", "accumulate") else ""
                if name == self.value and k == first:
                    found = self.element(moved, out)
                    if found is None:
                        return None
                    at[n] = found
                    if not stored:
                        b.emit(Instr("store", moved.dtype, (found,), moved.index, slot[self.value]))
                    stored = True
                elif name:
                    at[n] = b.emit(Instr(moved.op, moved.dtype, moved.args, moved.index, slot[name]))
                else:
                    at[n] = b.emit(moved)
                n += 1
        loop, kept = compact(b.build())
        return Task(loop, tuple(self.names[k] for k in kept), makes)

    def element(self, load: Instr, out: int) -> int | None:
        """The producer's body at the element that ``load`` reads; the number of its result."""
        assert load.index is not None
        b = self.b
        where = unflatten(add(load.index, mul(-1, self.offset)), self.sizes, self.strides, b.ranges)
        if where is None:
            return None
        self.divides |= any(divisions(i) for i in where)
        point: dict[str, Dim] = {f"r{k}": i for k, i in enumerate(where)}
        slots = [self.names.index(n) for n in self.producer.given]
        guard = load.args[0] if load.args else None
        at: dict[int, int] = {}
        result = -1
        for n, x in enumerate(self.producer.loop.stages[0].body):
            if x.writes:
                if x.attr == out:
                    result = at[x.args[0]]
                continue
            args = tuple(at[a] for a in x.args)
            index = None if x.index is None else self.index(x.index, point, at)
            attr = x.attr
            if x.op == "load":
                attr = slots[int(str(x.attr))]
                if guard is not None:
                    args = (b.op("and", "bool", guard, args[0]) if args else guard,)
            if x.op == "index" and isinstance(index, int) and not isinstance(x.index, int):
                at[n] = b.const("i64", index)
                continue
            at[n] = b.emit(Instr(x.op, x.dtype, args, index, attr))
        if guard is None:
            return result
        return b.op("where", load.dtype, guard, result, b.const(load.dtype, 0))

    def index(self, index: Dim, point: dict[str, Dim], at: dict[int, int]) -> Dim:
        names = point | {f"v{old}": symbol(f"v{new}") for old, new in at.items()}
        return substitute(index, names, self.b.ranges)


def weight(loop: Loop) -> int:
    """How much a point of a loop computes: 10 for what takes a polynomial, 1 for the rest, nothing for constants."""
    free = ("load", "store", "const", "index", "cast")
    return sum(10 if x.op in HEAVY else 0 if x.op in free else 1 for x in loop.body)


HEAVY = frozenset(
    [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "erf",
        "erfc",
        "lgamma",
        "sigmoid",
        "pow",
        "atan2",
        "hypot",
        "fmod",
        "mod",
        "floordiv",
    ]
)


def joined_after(producer: Task, value: str, reader: Task, keep: bool) -> Task | None:
    """One loop: the pointwise ``reader`` computes where ``producer`` stores ``value``. ``keep``: the value is stored
    still. None where their points do not meet one to one."""
    out = len(producer.given) + producer.makes.index(value)
    stores = list(producer.loop.stores(out))
    if not reader.loop.pointwise or len(stores) != 1 or stores[0][1].op != "store" or len(stores[0][1].args) != 1:
        return None
    stage, store = stores[0]
    slot = reader.given.index(value)
    places = {x.index for _, x in reader.loop.reads(slot)}
    guarded = any(x.args for _, x in reader.loop.reads(slot))
    (place,) = places if len(places) == 1 else (None,)
    found = affine(place) if place is not None else None
    serial = any(x.op in ("accumulate", "scan") for x in producer.loop.stages[stage].body)
    if found is None or guarded or serial or any(True for _ in producer.loop.reads(out)):
        return None
    sizes = tuple(map(int_of, reader.loop.stages[0].inner))
    points = math.prod(map(int_of, (*producer.loop.outer, *producer.loop.stages[stage].inner)))
    if points != math.prod(sizes) or points == 0:
        return None
    strides = tuple(found[0].get(f"r{k}", 0) for k in range(len(sizes)))
    assert store.index is not None
    where = unflatten(add(store.index, -found[1]), sizes, strides, producer.loop.ranges(stage))
    if where is None:
        return None
    return _Joiner(producer, value, reader, keep, stage, where).run()


class _Joiner:
    """Builds the producer with its reader's body behind one of its stores; short-lived."""

    def __init__(
        self, producer: Task, value: str, reader: Task, keep: bool, stage: int, where: tuple[Dim, ...]
    ) -> None:
        self.producer, self.value, self.reader, self.keep = producer, value, reader, keep
        self.stage, self.point = stage, {f"r{k}": i for k, i in enumerate(where)}
        self.given = list(dict.fromkeys((*producer.given, *(n for n in reader.given if n not in producer.makes))))
        self.makes = [n for n in producer.makes if keep or n != value] + list(reader.makes)
        self.slots = {n: k for k, n in enumerate((*self.given, *self.makes))}
        self.b = LoopBuilder(producer.loop.outer)
        self.stored: dict[str, tuple[int, Dim | None]] = {}  # what the producer stores: number (in the new loop), index

    def run(self) -> Task | None:
        producer, b = self.producer, self.b
        kinds = dict(zip((*self.reader.given, *self.reader.makes), self.reader.loop.dtypes, strict=True))
        kinds |= dict(zip((*producer.given, *producer.makes), producer.loop.dtypes, strict=True))
        b.inputs, b.outputs = [kinds[n] for n in self.given], [kinds[n] for n in self.makes]
        names = (*producer.given, *producer.makes)
        at: dict[int, int] = {}
        n = 0
        for k, stage in enumerate(producer.loop.stages):
            b.stage(stage.inner)
            for x in stage.body:
                moved = renumbered(x, at)
                if x.op in ("load", "store", "accumulate"):
                    name = names[int(str(x.attr))]
                    if x.writes:
                        visible = not stage.inner or producer.loop.body[x.args[0]].op == "reduce"
                        if k == self.stage or visible:
                            self.stored[name] = (at[x.args[0]], x.index)
                    if name != self.value or self.keep:
                        at[n] = b.emit(Instr(moved.op, moved.dtype, moved.args, moved.index, self.slots[name]))
                else:
                    at[n] = b.emit(moved)
                n += 1
            if k == self.stage and not self.body():
                return None
        loop, kept = compact(b.build())
        whole = Task(loop, tuple(self.given[k] for k in kept), tuple(self.makes))
        parts = sum(_divided(t.loop) for t in (self.producer, self.reader))
        return whole if _divided(loop) <= parts else None

    def body(self) -> bool:
        """The reader's instructions at the producer's point; False where it needs what is not at hand."""
        b = self.b
        names = (*self.reader.given, *self.reader.makes)
        at: dict[int, int] = {}
        for n, x in enumerate(self.reader.loop.stages[0].body):
            index = None
            if x.index is not None:
                index = substitute(x.index, self.point | {f"v{o}": symbol(f"v{m}") for o, m in at.items()}, b.ranges)
            name = names[int(str(x.attr))] if x.op in ("load", "store") else ""
            if name in self.producer.makes:
                if name not in self.stored or x.op != "load":
                    return False
                number, place = self.stored[name]
                if name != self.value and (place != index or x.args):
                    return False
                at[n] = number
            elif x.op == "index" and isinstance(index, int) and not isinstance(x.index, int):
                at[n] = b.const("i64", index)
            else:
                attr = self.slots[name] if name else x.attr
                at[n] = b.emit(Instr(x.op, x.dtype, tuple(at[a] for a in x.args), index, attr))
        return True


def _divided(loop: Loop) -> int:
    """How many divisions are left in a loop's indices once it is normalised; none counted where there were none before."""
    if not any(divisions(x.index) for x in loop.body if x.index is not None):
        return 0
    return sum(len(divisions(x.index)) for x in normalise(loop).body if x.index is not None)


def joined_before(producer: Task, value: str, reader: Task) -> Task | None:
    """One loop: ``reader`` computes each element of ``value`` where it first loads it, and stores it there; later stages
    load what was stored. None where it does not load every element once."""
    out = len(producer.given) + producer.makes.index(value)
    place = invertible(producer.loop, out)
    slot = reader.given.index(value)
    reads = list(reader.loop.reads(slot))
    if place is None or len(producer.makes) != 1 or any(x.args for _, x in reads):
        return None
    first = reads[0][0]
    stage = reader.loop.stages[first]
    index = reads[0][1].index
    assert index is not None
    found = affine(index)
    ranges = reader.loop.ranges(first)
    if found is None or math.prod(ranges.values()) != math.prod(place[0]) or found[1] != place[2]:
        return None
    names = list(ranges)
    if unflatten(0, tuple(ranges.values()), tuple(found[0].get(n, 0) for n in names), {}) is None:
        return None
    same = all(x.index == index and reader.loop.stages[k].inner == stage.inner for k, x in reads)
    if not same or any(x.op in ("accumulate", "scan") for x in stage.body):
        return None
    # the value is made by the stage that first loads it, and loaded from there by later ones
    task = inlined(reader, value, producer)
    if task is None or _divided(task.loop) > _divided(reader.loop) + _divided(producer.loop):
        return None
    return _keeping(reader, value, producer, first)


def _keeping(reader: Task, value: str, producer: Task, first: int) -> Task | None:
    place = invertible(producer.loop, len(producer.given) + producer.makes.index(value))
    assert place is not None
    writer = _Inliner(reader, value, producer, place)
    return writer.run_keeping(len(producer.given) + producer.makes.index(value), first)
