"""Which operands an operation may overwrite with its results.

Comes in: an operation, with its loop where we compute it. Goes out: permitted pairs (read storage, written storage), and of any
other pair why it is not; the result lies at the front of the dying bytes. Promised: safe whatever the order of points and however
they are shared out: what is read of the bytes that are written is, at every point, only the element that this point then
writes, and no instruction behind the one that writes reads it. What else touches the result comes in later stages: outer points
are independent, so it stays within what its own point has stored.

A result that is smaller than what dies takes a part of it. What lies behind that part is free afterwards only where both lie in
a slab, since an allocation of its own ends as a whole: such pairs are permitted between ``slabbed`` storages alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

from lowtide.ir.graph import ITEMSIZE, Graph, Layout, Op, Value, int_of, refs_in
from lowtide.ir.index import add, bounds
from lowtide.ir.loops import Instr, Loop
from lowtide.ir.symbolic import Dim


def loop_pairs(graph: Graph, op: Op, loop: Loop, slabbed: Set[str] = frozenset()) -> tuple[tuple[str, str], ...]:
    """Permitted pairs of a loop, in order of its operands."""
    given = _given(graph, op)
    storages = dict.fromkeys(v.storage for v in given)
    made = [o for o in op.outputs if o is not None]
    return tuple((s, o) for s in storages for o in made if not _refusal(graph, op, loop, given, (s, o), slabbed))


def permitted(pairs: Sequence[tuple[str, str]], held: Set[str]) -> tuple[tuple[str, str], ...]:
    """Those of the (read, written) pairs of an operation whose bytes nobody else looks at later. ``held``: storages that
    an object may keep."""
    return tuple(p for p in pairs if p[0] not in held)


def loop_refusal(graph: Graph, op: Op, loop: Loop, pair: tuple[str, str], slabbed: Set[str] = frozenset()) -> str:
    """Why a result of a loop may not lie on the bytes of an operand; nothing where it may. ``pair``: (read, written)."""
    return _refusal(graph, op, loop, _given(graph, op), pair, slabbed)


def _given(graph: Graph, op: Op) -> list[Value]:
    return [graph.value[n] for a in op.args for n in refs_in(a)]


def _refusal(graph: Graph, op: Op, loop: Loop, given: Sequence[Value], pair: tuple[str, str], slabbed: Set[str]) -> str:
    storage, made = pair
    if why := _no_room(graph, storage, graph.value[made].storage, slabbed):
        return why
    if any(graph.value[m].storage == storage for m in op.mutates):
        return f"the operation changes %{storage}"
    slots = [(k, v) for k, v in enumerate(given) if v.storage == storage]
    return _misfit(graph, loop, slots, len(given) + op.outputs.index(made), graph.value[made])


def _no_room(graph: Graph, dying: str, born: str, slabbed: Set[str]) -> str:
    room, needed = graph.nbytes[dying], graph.nbytes[born]
    if dying in graph.caller_owned:
        return f"%{dying} is the caller's"
    if not needed or room < needed:
        return f"%{dying} has {room} bytes, %{born} {needed}"
    if room > needed and not (dying in slabbed and born in slabbed):
        return f"%{born} would take a part of %{dying}, and not both may lie in a slab"
    return ""


def _misfit(graph: Graph, loop: Loop, slots: Sequence[tuple[int, Value]], out: int, made: Value) -> str:
    needed = graph.nbytes[made.storage]
    if made.layout.memory != slots[0][1].layout.memory:
        return f"one of them lies on {slots[0][1].layout.memory}, the other on {made.layout.memory}"
    if made.layout.offset != 0 or (needed == graph.nbytes[slots[0][1].storage] and slots[0][1].layout.offset != 0):
        return (
            "one of them does not begin where its storage begins"  # outside a slab, operand and result share an address
        )
    touching = list(loop.numbered(out))
    if not touching or touching[0][2].op != "store" or len(touching[0][2].args) != 1:
        return "it is not first stored to, without a condition"
    stage, number, store = touching[0]
    if any(at <= stage for at, _, _ in touching[1:]) or _points(loop, stage) != math.prod(
        map(int_of, made.layout.size)
    ):
        return "it is not stored once per element"
    for slot, v in slots:
        for at, n, load in loop.numbered(slot):
            if n > number or loop.stages[at].inner != loop.stages[stage].inner:
                why = f"%{v.name} is read in other passes than the one that would overwrite it"
            elif v.layout.dtype != made.layout.dtype or _element(load, v) != _element(store, made):
                why = f"%{v.name} is read at other places than those that are written"
            else:
                continue
            if graph.nbytes[v.storage] == needed or not _behind(loop, at, load, v.layout, needed):
                return why
    return ""


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


@dataclass(frozen=True, slots=True)
class CallForms:
    """What a library call can do. pointwise: element i of the result depends on elements i alone. by_out: it writes into given
    memory. overwrites: the operand that its other form puts the result in the place of, where nothing else may touch that
    operand's storage unless it is pointwise."""

    pointwise: bool
    by_out: bool
    overwrites: str | None


def call_pairs(graph: Graph, op: Op, call: CallForms, slabbed: Set[str] = frozenset()) -> tuple[tuple[str, str], ...]:
    """Permitted pairs of a library call with one result: same extent, element on element; or a part, written by ``out``.
    What it reads behind the part that it writes is no hindrance, whatever it computes."""
    storages = dict.fromkeys(graph.value[r].storage for r in op.reads)
    made = dict.fromkeys(graph.value[o].storage for o in op.outputs if o is not None)
    return tuple((s, o) for s in storages for o in made if not call_refusal(graph, op, call, (s, o), slabbed))


def call_refusal(graph: Graph, op: Op, call: CallForms, pair: tuple[str, str], slabbed: Set[str] = frozenset()) -> str:
    """Why the result of a library call may not lie on the bytes of an operand; nothing where it may. ``pair``: (read,
    written)."""
    if len(op.outputs) != 1 or op.mutates:
        return f"{op.target} has several results, or changes what it is given"
    storage, born = pair
    if why := _no_room(graph, storage, born, slabbed):
        return why
    made = graph.value[str(op.outputs[0])]
    sharing = [graph.value[r] for r in op.reads if graph.value[r].storage == storage]
    met = [x for x in sharing if int_of(x.layout.offset) * ITEMSIZE[x.layout.dtype] < graph.nbytes[born]]
    if any(x.layout != made.layout for x in met):
        return f"%{storage} is read with another layout than the one that is written"
    if graph.nbytes[storage] > graph.nbytes[born]:
        permitted = call.by_out and (call.pointwise or not met)
    else:
        over = any(x.name == call.overwrites for x in sharing) and (call.pointwise or len(sharing) == 1)
        permitted = len(met) == len(sharing) and ((call.pointwise and call.by_out) or over)
    if permitted:
        return ""
    if not call.by_out:
        return f"{op.target} writes into no given memory"
    return f"{op.target} may read an operand again after it has written"
