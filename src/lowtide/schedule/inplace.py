"""Which operands a loop may overwrite with its results.

Comes in: an operation and its loop. Goes out: permitted pairs (read storage, written storage). Promised: safe whatever
the order of points and however they are shared out: every point reads of the dying operand only the element that it
then writes, and no instruction behind the one that writes reads the operand. What else touches the result comes in later
stages: outer points are independent, so it stays within what its own point has stored.
"""

from __future__ import annotations

import math

from lowtide.ir.graph import Graph, Op, Value, int_of, refs_in
from lowtide.ir.index import add
from lowtide.ir.loops import Instr, Loop
from lowtide.ir.symbolic import Dim


def loop_pairs(graph: Graph, op: Op, loop: Loop) -> tuple[tuple[str, str], ...]:
    """Permitted pairs, in order of the operands."""
    given = [graph.value[n] for a in op.args for n in refs_in(a)]
    changed = {graph.value[m].storage for m in op.mutates}
    pairs: list[tuple[str, str]] = []
    for storage in dict.fromkeys(v.storage for v in given):
        if storage in graph.caller_owned or storage in changed or not graph.nbytes[storage]:
            continue
        slots = [k for k, v in enumerate(given) if v.storage == storage]
        for k, o in enumerate(op.outputs):
            if o is not None and _fits(graph, loop, [(s, given[s]) for s in slots], len(given) + k, graph.value[o]):
                pairs.append((storage, o))
    return tuple(pairs)


def _fits(graph: Graph, loop: Loop, slots: list[tuple[int, Value]], out: int, made: Value) -> bool:
    if graph.nbytes[made.storage] != graph.nbytes[slots[0][1].storage] or made.layout.device != "cpu":
        return False
    if slots[0][1].layout.offset != 0 or made.layout.offset != 0:
        return False
    touching = list(loop.numbered(out))
    if not touching or touching[0][2].op != "store" or len(touching[0][2].args) != 1:
        return False
    stage, number, store = touching[0]
    if any(at <= stage for at, _, _ in touching[1:]) or _points(loop, stage) != math.prod(
        map(int_of, made.layout.size)
    ):
        return False
    for slot, v in slots:
        if v.layout.dtype != made.layout.dtype:
            return False
        for at, n, load in loop.numbered(slot):
            if n > number or loop.stages[at].inner != loop.stages[stage].inner:
                return False
            if _element(load, v) != _element(store, made):
                return False
    return True


def _points(loop: Loop, stage: int) -> int:
    return math.prod(map(int_of, (*loop.outer, *loop.stages[stage].inner)))


def _element(x: Instr, v: Value) -> Dim:
    assert x.index is not None
    return add(x.index, v.layout.offset)
