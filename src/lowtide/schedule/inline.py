"""Inlining: a value that loops alone read is computed where it is read, instead of being stored.

Comes in: Lowered. Goes out: Lowered with fewer loops. Promised: values that a section returns, a library call reads or
anything changes stay; a read never moves past a change of what it reads; the order of operations stays that of the
program.

Whether it pays (``worth``): one reader always gets what it reads, unless that would compute something heavy many times
over; several readers get what is cheaper to compute again than to store and load. What a producer reads lives until its
last reader then; ``lengthened`` names those that hold something at the peak that way, to be stored after all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace

from lowtide.ir.graph import ITEMSIZE, Graph, Op, Ref, Section, Value, int_of, refs_in
from lowtide.ir.guards import visited
from lowtide.ir.lowered import LOOP, Lowered, loop_in_place, pruned
from lowtide.ir.task import Task, task_of, weight
from lowtide.memory.lifetime import lifetimes, timeline
from lowtide.schedule.inlined import inlined
from lowtide.schedule.rules import CACHED, Rules
from lowtide.schedule.schedule import Schedule, memory_graph


def inline(lowered: Lowered, stored: Set[str] = frozenset(), rules: Rules = CACHED) -> Lowered:
    """Put producers into their readers, in program order, as long as it pays. ``stored``: operations that stay. ``rules``: what
    the target says of loops in their readers."""
    work = _Work(lowered, rules)
    for name in [op.name for op in lowered.graph.ops if op.target == LOOP and op.name not in stored]:
        work.try_inline(name)
    return work.result()


def lengthened(lowered: Lowered, steps: Schedule) -> frozenset[str]:
    """Operations of ``lowered`` that were put into their readers and read what is alive at the peak of ``steps``, the
    schedule after that, and is needed later still."""
    line = memory_graph(steps)
    t = timeline(line).peak_step
    held = {x.name for x in lifetimes(line) if x.first <= t < x.end - 1}
    left = {s.op.name for s in steps.steps}
    storage = {v.name: v.storage for v in lowered.graph.values}
    gone = [op for op in lowered.graph.ops if op.target == LOOP and op.name not in left]
    return frozenset(op.name for op in gone if any(storage[n] in held for n in op.reads))


class _Work:
    """The loops as they change; short-lived."""

    def __init__(self, lowered: Lowered, rules: Rules) -> None:
        graph = lowered.graph
        self.rules = rules
        self.lowered, self.graph = lowered, graph
        self.op: dict[str, Op] = {op.name: op for op in graph.ops if op.target == LOOP}
        self.tasks = {n: task_of(op, lowered.loops[n]) for n, op in self.op.items()}
        self.section = {op.name: i for i, s in enumerate(graph.sections) for op in s.ops}
        self.at = {op.name: k for k, op in enumerate(graph.ops)}
        self.changed = {
            graph.value[m].storage: self.at[op.name] for op in graph.ops for m in op.mutates
        }  # the last time
        self.members: dict[str, tuple[str, ...]] = {}
        self.splits = dict(lowered.splits)
        self.split_of = {x.parts: n for n, x in lowered.splits.items()}
        self.held = self._held()
        self.readers: dict[str, dict[str, None]] = {}
        for name, t in self.tasks.items():
            for v in t.given:
                self.readers.setdefault(v, {})[name] = None

    def _held(self) -> set[str]:
        """Storages that something else than a loop reads, or a loop by another name, or that are returned."""
        value = self.graph.value
        out: set[str] = set(self.changed)
        for s in self.graph.sections:
            needed = {n for a in s.returns for n in refs_in(a)}
            for op in reversed(s.ops):
                if op.target == LOOP:
                    needed.update(n for n in op.reads if value[n].storage != n)
                elif not op.view or any(o in needed for o in op.outputs):
                    needed.update(op.reads)
            out |= {value[n].storage for n in needed}
        return out

    def try_inline(self, name: str) -> None:
        """Put one loop into its readers, if it may be and if it pays."""
        task = self.tasks[name]
        if len(task.makes) != 1 or task.changes or not task.loop.pointwise or task.loop.divides:
            return  # a division that may fail does so at every element, read or not
        value = task.makes[0]
        readers = list(self.readers.get(value, ()))
        if value in self.held or not readers or not self.worth(task, value, readers):
            return
        if name in self.graph.placed_by_hand or any(self.op[r].group for r in readers):
            return  # it would be computed at another place than was asked for
        if any(self.changed.get(self.graph.value[v].storage, -1) > self.at[name] for v in task.given):
            return
        changed: dict[str, Task] = {}
        for r in readers:
            found = inlined(self.tasks[r], value, task) if self.section[r] == self.section[name] else None
            if found is None or len(found.loop.body) > self.rules.inlined_instructions:
                return
            if len(found.given) > self.rules.inlined_buffers:
                return
            changed[r] = found
        inside = self.members.pop(name, (name,))
        self.splits.pop(name, None)
        for r, found in changed.items():
            self.tasks[r] = found
            self.into_whole(self.split_of.get(r, ""), value, task)
            self.members[r] = tuple(dict.fromkeys((*inside, *self.members.get(r, (r,)))))
            for v in found.given:
                self.readers.setdefault(v, {})[r] = None
        for v in task.given:
            self.readers.get(v, {}).pop(name, None)
        self.readers.pop(value, None)
        del self.tasks[name]

    def into_whole(self, name: str, value: str, task: Task) -> None:
        """Compute a value in the one loop of a split too, which otherwise stays two for good."""
        split = self.splits.pop(name, None)
        whole = None if split is None else inlined(split.whole, value, task)
        if split is not None and whole is not None:
            self.splits[name] = replace(split, whole=whole)

    def worth(self, task: Task, value: str, readers: Iterable[str]) -> bool:
        """Whether to compute ``value`` where it is read."""
        value_of: Mapping[str, Value] = self.graph.value
        points = _numel(value_of[value])
        heavy = weight(task.loop)
        times = 0.0
        for r in readers:
            loop, slot = self.tasks[r].loop, self.tasks[r].given.index(value)
            for k, x in loop.reads(slot):
                ranges = loop.ranges(k)
                times += (visited(loop.body, x.args[0], ranges) if x.args else math.prod(ranges.values())) / max(
                    points, 1
                )
        if times <= 1.5:
            return True
        if not task.given:
            return heavy <= self.rules.again
        big = [v for v in task.given if _numel(value_of[v]) * 2 > points]
        nbytes = sum(_numel(value_of[v]) * ITEMSIZE[value_of[v].layout.dtype] for v in big)
        stored = points * ITEMSIZE[value_of[value].layout.dtype]
        several = len(list(readers)) > 1
        light = heavy * (times - 1) <= self.rules.again
        return light and times * nbytes <= (times + 1) * stored * (1.0 if several else 1.5)

    def result(self) -> Lowered:
        """The program as it has become."""
        sections: list[Section] = []
        for s in self.graph.sections:
            ops = tuple(
                self._op(op) if op.name in self.tasks else op
                for op in s.ops
                if op.target != LOOP or op.name in self.tasks
            )
            sections.append(replace(s, ops=ops))
        graph: Graph = pruned(replace(self.graph, sections=tuple(sections)))
        loops = {n: t.loop for n, t in self.tasks.items()}
        return replace(self.lowered, graph=graph, loops=loops, members=self.members, splits=self.splits)

    def _op(self, op: Op) -> Op:
        t = self.tasks[op.name]
        return op if op.args == tuple(map(Ref, t.given)) else loop_in_place(t, op)


def _numel(v: Value) -> int:
    return math.prod(map(int_of, v.layout.size))
