"""Splits undone: a reduction in two loops is in one again where a pass can take that one along, and not the two.

Comes in: Lowered with small loops in their readers, some of its reductions in two loops (``ir.lowered.Split``), and the schedule
that it has so far. Goes out: what fusion makes of it with some of those in one, each part of the pass that it was undone for.
Promised: the same numbers, but that sums are taken in another order; what loops cost says which are tried, and whether that pass
takes them along is fusion's to decide, under all that it promises. What it does not take along stays in two loops.

Few long columns are summed in two loops: one would have too few columns for vectors and threads. A pass along the rows of those
columns can take their sums along (``joined.by_rows``), so that nothing is read for them. The first of the two loops cannot be
part of such a pass: its rows are made of several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from lowtide.ir.graph import Graph, Op, int_of, refs_in, renamed_after
from lowtide.ir.lowered import LOOP, Lowered, Split, kernel_of, loop_in_place, pruned
from lowtide.ir.task import Task, task_of
from lowtide.schedule.cost import Machine, loop_cost
from lowtide.schedule.fusion import Fused, fuse_loops
from lowtide.schedule.joined import joined
from lowtide.schedule.rules import CACHED, Rules
from lowtide.schedule.schedule import Schedule, schedule

_GAIN = 5e-6  # seconds that undoing a split saves at least
_ROUNDS = 3  # times at most that a program is fused with some splits undone: each finds those whose pass does not take them along


@dataclass(frozen=True, slots=True)
class Whole:
    """A split that is undone: ``name`` of the operation, of the first of the two that it was, of the loop that it is to be part
    of, and the seconds which that is estimated to save."""

    name: str
    parts: str
    beside: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Undone:
    """``lowered`` with each of ``wholes`` in one loop, where the second of the two stood."""

    lowered: Lowered
    wholes: tuple[Whole, ...]

    def steps(self, before: Schedule, *, inplace: bool) -> Schedule:
        """The steps of what is left in the order that they had: each whole where the first of the two stood."""
        if not self.wholes:
            return before
        facts = {s.op.name: s.facts for s in before.steps}
        fresh = schedule(self.lowered.graph, facts, inplace=inplace, loops=self.lowered.loops)
        instead = {w.parts: w.name for w in self.wholes}
        moved = {*instead.values()}
        names = (instead.get(s.op.name, s.op.name) for s in before.steps if s.op.name not in moved)
        return replace(fresh, steps=tuple(fresh.step[n] for n in names))

    def alone(self, fused: Lowered) -> frozenset[str]:
        """The names of those that are not part of the loop for which they were undone."""
        kernel = kernel_of(fused.members)
        return frozenset(w.name for w in self.wholes if kernel.get(w.name) != kernel.get(w.beside, w.beside))

    def text(self) -> str:
        """A line for each."""
        return "".join(
            f"%{w.name} is reduced in one loop again, along with %{w.beside}: saves {w.seconds * 1e6:.0f} us\n"
            for w in self.wholes
        )


@dataclass(frozen=True, slots=True)
class FusedWholes:
    """What fusion made of a program some of whose splits are ``undone``; ``steps``: the order that it started from."""

    undone: Undone
    steps: Schedule
    fused: Fused


def fuse_wholes(
    lowered: Lowered,
    scheduled: Schedule,
    *,
    inplace: bool = True,
    machine: Machine = Machine(),  # noqa: B008
    rules: Rules = CACHED,
) -> FusedWholes:
    """``fuse_loops`` of a program with those splits undone that then are part of other passes. A split whose pass does not take
    it along is left alone, and all is fused anew; where that finds others time and again, all splits are left alone."""
    kept: frozenset[str] = frozenset()
    rounds = 0
    while True:
        undone = undo_splits(lowered, kept, machine=machine, rules=rules)
        steps = undone.steps(scheduled, inplace=inplace)
        fused = fuse_loops(undone.lowered, steps, inplace=inplace, machine=machine, rules=rules)
        alone = undone.alone(fused.lowered)
        if not alone:
            return FusedWholes(undone, steps, fused)
        rounds += 1
        kept = kept | alone if rounds < _ROUNDS else frozenset(lowered.splits)


def undo_splits(
    lowered: Lowered,
    kept: Set[str] = frozenset(),
    *,
    machine: Machine = Machine(),  # noqa: B008
    rules: Rules = CACHED,
) -> Undone:
    """Undo the splits of a static program that are worth it. ``kept``: operations whose splits stay. ``machine``, ``rules``: what
    loops cost, and which may be one."""
    around = _Around(lowered, machine, rules)
    found = [around.whole(name, split) for name, split in lowered.splits.items() if name not in kept]
    wholes = tuple(w for w in found if w is not None)
    return Undone(in_one(lowered, {w.name for w in wholes}), wholes)


def in_one(lowered: Lowered, names: Set[str]) -> Lowered:
    """Lowered with the reductions that the operations ``names`` end in one loop each; the same object where none is split."""
    undone = {n: x for n, x in lowered.splits.items() if n in names}
    if not undone:
        return lowered
    gone = {x.parts for x in undone.values()}

    def operation(op: Op) -> Op:
        return loop_in_place(undone[op.name].whole, op) if op.name in undone else op

    graph = lowered.graph
    became = {x.parts: (n,) for n, x in undone.items()}
    sections = tuple(
        replace(s, ops=renamed_after([operation(op) for op in s.ops if op.name not in gone], s.ops, became))
        for s in graph.sections
    )
    loops = {n: x for n, x in lowered.loops.items() if n not in gone} | {n: x.whole.loop for n, x in undone.items()}
    members = {n: inside for n, inside in lowered.members.items() if n not in gone}
    for n, x in undone.items():
        inside = (*lowered.members.get(x.parts, (x.parts,)), *lowered.members.get(n, (n,)))
        members[n] = tuple(dict.fromkeys(inside))
    splits = {n: x for n, x in lowered.splits.items() if n not in undone}
    graph = pruned(replace(graph, sections=sections))
    return replace(lowered, graph=graph, loops=loops, members=members, splits=splits)


class _Around:
    """Who makes and uses what in one program; short-lived."""

    def __init__(self, lowered: Lowered, machine: Machine, rules: Rules) -> None:
        graph = lowered.graph
        self.machine, self.rules = machine, rules
        self.tasks = {op.name: task_of(op, lowered.loops[op.name]) for op in graph.ops if op.target == LOOP}
        self.at = {op.name: k for k, op in enumerate(graph.ops)}
        self.section = {op.name: k for k, s in enumerate(graph.sections) for op in s.ops}
        self.storage = {v.name: v.storage for v in graph.values}
        self.touching = _touching(graph, self.storage)
        parts = {x.parts for x in lowered.splits.values()}  # they go when their own splits are undone
        self.near = self.tasks.keys() - parts

    def whole(self, name: str, split: Split) -> Whole | None:
        """The split undone for the loop with which that saves most; None where it saves nothing that matters."""
        if math.prod(map(int_of, split.whole.loop.outer)) < self.rules.whole_columns:
            return None
        two = self.seconds(self.tasks[split.parts]) + self.seconds(self.tasks[name])
        both = {split.parts, name}
        best: Whole | None = None
        near = dict.fromkeys(n for v in split.whole.given for n in self.touching[self.storage[v]])
        for other in near:
            if other == name or other not in self.near or self.section[other] != self.section[name]:
                continue
            one = self.one(other, split.parts, split.whole, both)
            if one is None or self.one(other, split.parts, self.tasks[split.parts], {split.parts}) is not None:
                continue
            saved = two + self.seconds(self.tasks[other]) - self.seconds(one)
            if saved >= _GAIN and (best is None or saved > best.seconds):
                best = Whole(name, split.parts, other, saved)
        return best

    def one(self, other: str, place: str, task: Task, both: Set[str]) -> Task | None:
        """An operation and ``task``, which stands at ``place`` for what ``both`` do, as one loop, if they can be one."""
        there = self.tasks[other]
        inside = {other, *both}
        needed = {v for v in (*there.makes, *task.makes) if self.touching[self.storage[v]].keys() - inside}
        pair = (there, task) if self.at[other] < self.at[place] else (task, there)
        found = joined(*pair, needed, self.rules)
        return None if isinstance(found, str) else found

    def seconds(self, task: Task) -> float:
        return loop_cost(task.loop, self.machine).seconds(self.machine)


def _touching(graph: Graph, storage: Mapping[str, str]) -> Mapping[str, Mapping[str, None]]:
    """Storage -> operations that make, read or change it, in program order; "" stands for whoever takes what is returned."""
    out: dict[str, dict[str, None]] = {s: {} for s in storage.values()}
    for op in graph.ops:
        for n in (*op.outputs, *op.reads) if not op.view else ():
            if n is not None:
                out[storage[n]][op.name] = None
    for section in graph.sections:
        for n in (n for a in section.returns for n in refs_in(a)):
            out[storage[n]][""] = None
    return out
