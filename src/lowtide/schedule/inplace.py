"""Which operands an operation may overwrite with its results.

Comes in: an operation, with its loop where we compute it. Goes out: permitted pairs (read storage, written storage); the
result lies at the front of the dying bytes. Promised: safe whatever the order of points and however they are shared out: what
is read of the bytes that are written is, at every point, only the element that this point then writes, and no instruction
behind the one that writes reads it. What else touches the result comes in later stages: outer points are independent, so it
stays within what its own point has stored.

A result that is smaller than what dies takes a part of it. What lies behind that part is free afterwards only where both lie in
a slab, since an allocation of its own ends as a whole: such pairs are permitted between ``slabbed`` storages alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set

from lowtide.ir.graph import ITEMSIZE, Graph, Layout, Op, Value, int_of, refs_in
from lowtide.ir.index import add, bounds
from lowtide.ir.loops import Instr, Loop
from lowtide.ir.symbolic import Dim


def loop_pairs(graph: Graph, op: Op, loop: Loop, slabbed: Set[str] = frozenset()) -> tuple[tuple[str, str], ...]:
    """Permitted pairs of a loop, in order of its operands."""
    given = [graph.value[n] for a in op.args for n in refs_in(a)]
    changed = {graph.value[m].storage for m in op.mutates}
    pairs: list[tuple[str, str]] = []
    for storage in dict.fromkeys(v.storage for v in given):
        if storage in graph.caller_owned or storage in changed or not graph.nbytes[storage]:
            continue
        slots = [(k, v) for k, v in enumerate(given) if v.storage == storage]
        for k, o in enumerate(op.outputs):
            if o is None or not _has_room(graph, storage, graph.value[o].storage, slabbed):
                continue
            if _fits(graph, loop, slots, len(given) + k, graph.value[o]):
                pairs.append((storage, o))
    return tuple(pairs)


def _has_room(graph: Graph, dying: str, born: str, slabbed: Set[str]) -> bool:
    room, needed = graph.nbytes[dying], graph.nbytes[born]
    return room == needed or (room > needed > 0 and dying in slabbed and born in slabbed)


def _fits(graph: Graph, loop: Loop, slots: Sequence[tuple[int, Value]], out: int, made: Value) -> bool:
    needed = graph.nbytes[made.storage]
    if made.layout.device != "cpu" or made.layout.offset != 0:
        return False
    if needed == graph.nbytes[slots[0][1].storage] and slots[0][1].layout.offset != 0:
        return False  # outside a slab, the address of the first operand is that of the result
    touching = list(loop.numbered(out))
    if not touching or touching[0][2].op != "store" or len(touching[0][2].args) != 1:
        return False
    stage, number, store = touching[0]
    if any(at <= stage for at, _, _ in touching[1:]) or _points(loop, stage) != math.prod(
        map(int_of, made.layout.size)
    ):
        return False
    for slot, v in slots:
        for at, n, load in loop.numbered(slot):
            if _behind(loop, at, load, v.layout, needed):
                continue
            if n > number or loop.stages[at].inner != loop.stages[stage].inner:
                return False
            if v.layout.dtype != made.layout.dtype or _element(load, v) != _element(store, made):
                return False
    return True


def _behind(loop: Loop, stage: int, load: Instr, layout: Layout, nbytes: int) -> bool:
    """Whether a load never touches the first ``nbytes`` of its storage."""
    assert load.index is not None
    low, _ = bounds(add(load.index, layout.offset), loop.ranges(stage))
    return low is not None and low * ITEMSIZE[layout.dtype] >= nbytes


def _points(loop: Loop, stage: int) -> int:
    return math.prod(map(int_of, (*loop.outer, *loop.stages[stage].inner)))


def _element(x: Instr, v: Value) -> Dim:
    assert x.index is not None
    return add(x.index, v.layout.offset)


def call_pairs(
    graph: Graph, op: Op, *, pointwise: bool, by_out: bool, overwrites: str | None, slabbed: Set[str] = frozenset()
) -> tuple[tuple[str, str], ...]:
    """Permitted pairs of a library call with one result: same extent, element on element; or a part, written by ``out``.

    pointwise: element i of the result depends on elements i alone. by_out: it writes into given memory. overwrites: the
    operand that its other form puts the result in the place of, where nothing else may touch that operand's storage
    unless it is pointwise. What it reads behind the part that it writes is no hindrance, whatever it computes.
    """
    if len(op.outputs) != 1 or op.outputs[0] is None or op.mutates:
        return ()
    made = graph.value[op.outputs[0]]
    needed = graph.nbytes[made.storage]
    reads = [graph.value[r] for r in op.reads]
    pairs: list[tuple[str, str]] = []
    for r in reads:
        pair = r.storage, made.storage
        if pair in pairs or r.storage in graph.caller_owned or not needed or not _has_room(graph, *pair, slabbed):
            continue
        sharing = [x for x in reads if x.storage == r.storage]
        met = [x for x in sharing if int_of(x.layout.offset) * ITEMSIZE[x.layout.dtype] < needed]
        alike = all(_same_place(x, made) for x in met)
        if graph.nbytes[r.storage] > needed:
            permitted = by_out and (pointwise or not met)
        else:
            over = r.name == overwrites and (pointwise or len(sharing) == 1)
            permitted = len(met) == len(sharing) and ((pointwise and by_out) or over)
        if alike and permitted:
            pairs.append(pair)
    return tuple(pairs)


def _same_place(a: Value, b: Value) -> bool:
    x, y = a.layout, b.layout
    return (x.dtype, x.device, x.size, x.stride, x.offset) == (y.dtype, y.device, y.size, y.stride, y.offset)
