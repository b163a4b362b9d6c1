"""Lowered: a Graph some of whose operations are loops.

Comes from ``lowering``; goes through fusion to ``schedule``. Promised: an operation with the target ``LOOP`` has its
loop under its name; its arguments are the loop's inputs in order, its outputs the loop's outputs, and ``mutates`` the
inputs that the loop writes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from lowtide.core.errors import VerifyError
from lowtide.core.reason import Reason
from lowtide.ir.graph import Graph, Op, Origin, Ref, Section, refs_in
from lowtide.ir.loops import Loop, check_loop
from lowtide.ir.task import Task
from lowtide.ir.text import print_graph

LOOP = "lowtide.loop.default"


@dataclass(frozen=True, slots=True)
class Split:
    """A reduction that two loops do: the operation ``parts`` leaves the result of every part; another, which alone reads those,
    that of all. ``whole``: the one loop that makes of what the first is given what the second makes."""

    parts: str
    whole: Task


@dataclass(frozen=True)
class Lowered:
    """``loops`` by the name of the operation. ``reasons``: what stayed a library call that need not. ``members``: for a
    loop that inlining or fusion made of several, the names of the operations in it; one that was inlined stands in each
    of its readers. ``apart``: why pairs of loops, or of storages with the same elements, stay two. ``together``: names of
    operations that came in one list, which may be launched together. ``splits``: of reductions in two loops, by the name of
    the operation that ends each, how it would be done in one."""

    graph: Graph
    loops: Mapping[str, Loop]
    reasons: tuple[Reason, ...] = ()
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    apart: tuple[Reason, ...] = ()
    together: tuple[tuple[str, ...], ...] = ()
    splits: Mapping[str, Split] = field(default_factory=dict[str, Split])


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the operations of a captured graph are computed, views aside: how many became loops, and calls by target, most
    often first: of what libraries do best, of random draws, and of what is ``left`` although loops could do it."""

    loops: int
    libraries: tuple[tuple[str, int], ...] = ()
    draws: tuple[tuple[str, int], ...] = ()
    left: tuple[tuple[str, int], ...] = ()

    @property
    def wanted(self) -> int:
        """How many operations loops are for: elementwise, reductions, indexing, movement of data."""
        return self.loops + sum(n for _, n in self.left)

    @property
    def fraction(self) -> float:
        """Of those, how many became loops: between 0 and 1, 1 where there are none."""
        return self.loops / self.wanted if self.wanted else 1.0

    def __add__(self, other: Coverage) -> Coverage:
        def both(a: tuple[tuple[str, int], ...], b: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
            return tuple((Counter(dict(a)) + Counter(dict(b))).most_common())

        return Coverage(
            self.loops + other.loops, both(self.libraries, other.libraries), both(self.draws, other.draws),
            both(self.left, other.left),
        )  # fmt: skip

    def __str__(self) -> str:
        def calls(what: str, counted: tuple[tuple[str, int], ...]) -> list[str]:
            names = (f"{target.removeprefix('aten.').removesuffix('.default')} {n}" for target, n in counted)
            return [f"{what}: {', '.join(names)}"] if counted else []

        whole = math.floor(100 * self.fraction)  # 100 % is nothing left
        return "; ".join(
            [
                f"{self.loops} of {self.wanted} elementwise, reducing and moving operations in generated loops ({whole} %)",
                *calls("left", self.left),
                *calls("best in libraries", self.libraries),
                *calls("random numbers as eager draws them", self.draws),
            ]
        )


def loop_op(given: tuple[str, ...], makes: tuple[str, ...], changes: tuple[str, ...], origin: Origin, name: str) -> Op:
    """The operation that stands for a loop; ``name`` is what it is called where it makes nothing new or several values."""
    returns = "one" if len(makes) == 1 else "tuple" if makes else "none"
    called = makes[0] if len(makes) == 1 else name
    return Op(called, LOOP, tuple(map(Ref, given)), (), makes, returns, False, changes, None, origin)


def loop_in_place(task: Task, of: Op) -> Op:
    """The operation that stands for a task, at the place in the program at which ``of`` stands, with its name where it may have
    it."""
    made = loop_op(task.given, task.makes, task.changes, of.origin, of.name)
    return replace(made, after=of.after, group=of.group)


def kernel_of(members: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Operation that is in a kernel -> the kernel. One that was inlined into several readers has no one kernel: it is said to be
    in the last of those."""
    return {m: n for n, inside in members.items() for m in inside}


def print_lowered(lowered: Lowered) -> str:
    """The graph's text, and behind it each loop under the name of its operation."""
    parts = [f"\n{op.name} =\n{lowered.loops[op.name]}" for op in lowered.graph.ops if op.target == LOOP]
    return print_graph(lowered.graph) + "".join(parts)


def pruned(graph: Graph) -> Graph:
    """The graph without views that nothing reads, and without values that nothing defines or stands on."""
    sections: list[Section] = []
    for s in graph.sections:
        needed = {n for a in s.returns for n in refs_in(a)}
        kept: list[Op] = []
        for op in reversed(s.ops):
            if op.view and not any(o in needed for o in op.outputs):
                continue
            needed.update(op.reads)
            kept.append(op)
        sections.append(replace(s, ops=tuple(reversed(kept))))
    defined = {o for s in sections for op in s.ops for o in op.outputs}
    defined |= {i.name for s in sections for i in s.inputs if isinstance(i, Ref)} | set(graph.constants)
    by_name = graph.value
    order: dict[str, None] = {}
    for name in _in_order(graph, tuple(sections)):
        order[name] = None
    values = tuple(by_name[n] for n in order if n in defined)
    return replace(graph, values=values, sections=tuple(sections))


def _in_order(graph: Graph, sections: tuple[Section, ...]) -> list[str]:
    """Names of values as they are defined: inputs, results, section by section; constants where they stood before."""
    made: list[str] = []
    for s in sections:
        made += [i.name for i in s.inputs if isinstance(i, Ref)]
        made += [o for op in s.ops for o in op.outputs if o is not None]
    constants = set(graph.constants)
    before: dict[str, list[str]] = {}
    waiting: list[str] = []
    for v in graph.values:  # each constant goes before the value that it stood before
        if v.name in constants:
            waiting.append(v.name)
        elif waiting:
            before[v.name] = waiting
            waiting = []
    out: list[str] = []
    known = set(made)
    pending: list[str] = []
    at = {v.name: k for k, v in enumerate(graph.values)}
    for v in graph.values:
        if v.name in before and v.name not in known:
            pending += before.pop(v.name)
    out += pending
    for n in made:
        out += before.pop(n, [])
        out.append(n)
    for names in before.values():
        out += names
    out += waiting
    fixed = sorted((n for n in out if n in constants), key=lambda n: at[n])
    give = iter(fixed)
    return [next(give) if n in constants else n for n in out]


def check_lowered(lowered: Lowered) -> None:
    """Raise VerifyError unless every loop is well formed and fits its operation, and every split its two: clauses ``loop`` and
    ``split``, or those of loops."""
    dtype = {v.name: v.layout.dtype for v in lowered.graph.values}
    seen: set[str] = set()
    for op in lowered.graph.ops:
        if op.target != LOOP:
            continue
        loop = lowered.loops.get(op.name)
        if loop is None:
            raise VerifyError("loop", f"{op.name} has no loop")
        seen.add(op.name)
        check_loop(loop)
        given = [n for a in op.args for n in refs_in(a)]
        if [dtype[n] for n in given] != list(loop.inputs) or len(op.outputs) != len(loop.outputs):
            raise VerifyError("loop", f"{op.name} takes {given}, its loop {loop.inputs}")
        changed = tuple(n for k, n in enumerate(given) if k in loop.written)
        if changed != op.mutates:
            raise VerifyError("loop", f"{op.name} changes {op.mutates}, its loop {changed}")
    if seen != set(lowered.loops):
        raise VerifyError("loop", f"loops without an operation: {sorted(set(lowered.loops) - seen)[:3]}")
    if not lowered.splits:
        return
    by_name = {op.name: op for op in lowered.graph.ops if op.target == LOOP}
    readers: dict[str, set[str]] = {}
    for op in lowered.graph.ops:
        for n in op.reads:
            readers.setdefault(n, set()).add(op.name)
    returned = {n for s in lowered.graph.sections for a in s.returns for n in refs_in(a)}
    for name, split in lowered.splits.items():
        _check_split(by_name, readers, returned, dtype, name, split)


def _check_split(
    by_name: Mapping[str, Op],
    readers: Mapping[str, Set[str]],
    returned: Set[str],
    dtype: Mapping[str, str],
    name: str,
    split: Split,
) -> None:
    """``by_name``: the operations that are loops; ``readers``: of every value, names of operations; ``returned``: values."""
    if name not in by_name or split.parts not in by_name:
        raise VerifyError("split", f"{name} ends what {split.parts} begins, and one of them is no loop")
    check_loop(split.whole.loop)
    first, last = by_name[split.parts], by_name[name]
    left = {o for o in first.outputs if o is not None}
    if left & returned or {n for o in left for n in readers.get(o, ())} != {name}:
        raise VerifyError("split", f"others than {name} read what {split.parts} leaves of its parts")
    if first.mutates or last.mutates or split.whole.changes:
        raise VerifyError("split", f"{name} changes what it or {split.parts} is given")
    if {*split.whole.given} != {*first.reads, *last.reads} - left or split.whole.makes != last.outputs:
        raise VerifyError("split", f"{name} in one loop is of {split.whole.given} and makes {split.whole.makes}")
    if tuple(dtype[v] for v in split.whole.values) != split.whole.loop.dtypes:
        raise VerifyError("split", f"{name} in one loop has other dtypes than its values")
