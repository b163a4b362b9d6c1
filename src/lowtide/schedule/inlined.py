"""A producer's body put into its reader.

Comes in: two loops with the names of their buffers. Goes out: a loop that computes each element of the producer's value
where it reads it. Promised: the same numbers are computed in the same dtypes; no index divides more often than before.
"""

from __future__ import annotations

from dataclasses import replace

from lowtide.ir.build import LoopBuilder, compact
from lowtide.ir.graph import int_of
from lowtide.ir.guards import narrowed
from lowtide.ir.index import add, affine, divisions, mul, substitute, unflatten
from lowtide.ir.loops import Instr, Loop, renumbered
from lowtide.ir.normal import normalise
from lowtide.ir.symbolic import Dim
from lowtide.ir.task import Task


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
                if not x.touches:
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

    def element(self, load: Instr, out: int) -> int | None:
        """The producer's body at the element that ``load`` reads; the number of its result."""
        assert load.index is not None
        b = self.b
        guard = load.args[0] if load.args else None
        element = add(load.index, mul(-1, self.offset))
        if guard is None:
            where = unflatten(element, self.sizes, self.strides, b.ranges)
        else:
            there, ranges, back = narrowed(b.body, guard, b.ranges)
            where = unflatten(substitute(element, there, ranges), self.sizes, self.strides, ranges)
            where = None if where is None else tuple(substitute(i, back, b.ranges) for i in where)
        if where is None:
            return None
        self.divides |= any(divisions(i) for i in where)
        point: dict[str, Dim] = {f"r{k}": i for k, i in enumerate(where)}
        slots = [self.names.index(n) for n in self.producer.given]
        at: dict[int, int] = {}
        result = -1
        for n, x in enumerate(self.producer.loop.stages[0].body):
            if x.writes:
                if x.attr == out:
                    result = at[x.args[0]]
                continue
            args = tuple(at[a] for a in x.args)
            moved = x
            if x.op == "load":
                moved = replace(x, attr=slots[int(str(x.attr))])
                if guard is not None:
                    args = (b.op("and", "bool", guard, args[0]) if args else guard,)
            elif x.op == "check" and guard is not None:  # where the element is not read, nothing has to hold
                args = (b.op("or", "bool", b.op("not", "bool", guard), args[0]),)
            at[n] = b.emit_at(moved, args, point, at)
        if guard is None:
            return result
        return b.op("where", load.dtype, guard, result, b.const(load.dtype, 0))
