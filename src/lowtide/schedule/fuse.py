"""Fusion of loops that stay stored: a producer and a reader become one pass.

Comes in: Lowered. Goes out: Lowered with fewer loops. Promised: what a section returns or a library call reads is
stored as before; operations that share mutated bytes keep their order; the operations stay in an order in which every
value is made before it is read.

Tried per reader, in program order, for every loop that makes what it reads: the reader's body behind the producer's
store (``joined_after``), or the producer's body before the reader's first load (``joined_before``). Where a pair cannot
stand at the place of one of the two without passing something that must stay between them, it stays two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lowtide.ir.fuse import Task, joined_after, joined_before
from lowtide.ir.graph import Graph, Op, Section, Value, refs_in
from lowtide.ir.loops import Loop
from lowtide.ir.lowered import LOOP, Lowered, loop_op, pruned

LARGEST_BODY = 160  # instructions
MOST_BUFFERS = 14


def fuse(lowered: Lowered) -> Lowered:
    """Fuse what can be fused, section by section."""
    loops: dict[str, Loop] = {}
    sections: list[Section] = []
    for s in lowered.graph.sections:
        work = _Section(lowered, s)
        work.run()
        sections.append(replace(s, ops=tuple(op for op in work.ops if op is not None)))
        loops.update((n, t.loop) for n, t in work.tasks.items())
    graph: Graph = pruned(replace(lowered.graph, sections=tuple(sections)))
    kept = {op.name for op in graph.ops if op.target == LOOP}
    return Lowered(graph, {n: x for n, x in loops.items() if n in kept}, lowered.reasons)


class _Section:
    """The operations of a section as they change; short-lived."""

    def __init__(self, lowered: Lowered, section: Section) -> None:
        graph = lowered.graph
        self.value = graph.value
        self.ops: list[Op | None] = list(section.ops)  # None where a fused operation was
        self.returned = {graph.value[n].storage for a in section.returns for n in refs_in(a)}
        self.tasks = {op.name: _task(op, lowered.loops[op.name]) for op in section.ops if op.target == LOOP}
        self.maker = {m: n for n, t in self.tasks.items() for m in t.makes}
        self.at = {op.name: k for k, op in enumerate(section.ops)}
        self.touches = {op.name: _touches(self.value, op) for op in section.ops}
        self.readers: dict[str, set[str]] = {}
        for op in section.ops:
            for n in op.reads:
                self.readers.setdefault(self.value[n].storage, set()).add(op.name)

    def run(self) -> None:
        """Every reader in turn; one that was fused is tried again."""
        todo = list(self.tasks)
        k = 0
        while k < len(todo):
            name = todo[k]
            again = name in self.tasks and self.fuse_into(name)
            if again:
                todo[k] = again
            else:
                k += 1

    def fuse_into(self, name: str) -> str:
        """Fuse a loop with one that makes what it reads; the name of what they became, or nothing."""
        task = self.tasks[name]
        for v in task.given:
            maker = self.maker.get(v)
            if maker is None or maker not in self.tasks or maker == name:
                continue
            producer = self.tasks[maker]
            if not task.loop.pointwise and not producer.loop.pointwise:
                continue
            place = self.place(maker, name)
            if place is None:
                continue
            keep = v in self.returned or self.readers.get(v, set()) - {name} != set()
            joined = joined_after(producer, v, task, keep)
            if joined is None and producer.loop.pointwise and keep and not producer.changes:
                joined = joined_before(producer, v, task)
            if joined is not None and self.fits(joined):
                return self.replace(maker, name, joined, place)
        return ""

    def fits(self, joined: Task) -> bool:
        """Small enough, and nothing is read at another point or later than it is changed."""
        loop = joined.loop
        if len(loop.body) > LARGEST_BODY or len(loop.dtypes) > MOST_BUFFERS:
            return False
        names = (*joined.given, *joined.makes)
        for k, name in enumerate(joined.given):
            touching = list(loop.numbered(k))
            writes = [t for t in touching if t[2].writes]
            if not writes:
                continue
            storage = self.value[name].storage
            if len(writes) > 1 or any(
                self.value[n].storage == storage and j != k for j, n in enumerate(names[: len(joined.given)])
            ):
                return False
            stage, number, store = writes[0]
            for at, n, load in touching:
                if n > number or load.index != store.index or loop.stages[at].inner != loop.stages[stage].inner:
                    return False
        return True

    def place(self, maker: str, reader: str) -> str | None:
        """Whose place the two can take: the maker's, the reader's, or nobody's."""
        lo, hi = self.at[maker], self.at[reader]
        between = [self.touches[op.name] for op in self.ops[lo + 1 : hi] if op is not None]
        if _may_pass(self.touches[reader], between):
            return maker
        return reader if _may_pass(self.touches[maker], between) else None

    def replace(self, maker: str, reader: str, joined: Task, place: str) -> str:
        """Put the fused operation where it may stand."""
        old = self.ops[self.at[reader]]
        assert old is not None
        op = loop_op(joined.given, joined.makes, joined.changes, old.origin, f"{maker}_{reader}"[:120])
        to = self.at[place]
        for gone in (maker, reader):
            self.ops[self.at.pop(gone)] = None
            for storage in self.touches.pop(gone).reads:
                self.readers[storage].discard(gone)
            del self.tasks[gone]
        self.ops[to], self.at[op.name] = op, to
        self.touches[op.name] = _touches(self.value, op)
        for storage in self.touches[op.name].reads:
            self.readers.setdefault(storage, set()).add(op.name)
        self.tasks[op.name] = joined
        for m in joined.makes:
            self.maker[m] = op.name
        return op.name


@dataclass(frozen=True, slots=True)
class _Touches:
    """Storages that an operation reads, makes and changes."""

    reads: frozenset[str]
    makes: frozenset[str]
    changes: frozenset[str]


def _touches(value: Mapping[str, Value], op: Op) -> _Touches:
    reads, makes, changes = (frozenset(value[n].storage for n in names) for names in (op.reads, _outs(op), op.mutates))
    return _Touches(reads, makes, changes)


def _may_pass(moved: _Touches, between: list[_Touches]) -> bool:
    """Whether an operation may pass others: none makes what it reads, touches what it writes, or changes what it touches."""
    whole, written = moved.reads | moved.makes, moved.makes | moved.changes
    return not any(moved.reads & x.makes or written & (x.reads | x.makes) or whole & x.changes for x in between)


def _outs(op: Op) -> tuple[str, ...]:
    return tuple(o for o in op.outputs if o is not None)


def _task(op: Op, loop: Loop) -> Task:
    return Task(loop, tuple(n for a in op.args for n in refs_in(a)), _outs(op))
