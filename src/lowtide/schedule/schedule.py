"""Graph + facts about its operations -> Schedule: the steps that run, in order, each with how it is called.

Comes in: a static Graph and, per operation, what was measured of it (``OpFacts``). Goes out: a Schedule, and from it
the MemoryGraph that the order and plan engines work on. Promised: views are not steps (they cost nothing and are made
where they are used); the sections stay apart; a step's permitted in-place pairs are safe whatever the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

from lowtide.core.reason import Reason
from lowtide.ir.graph import OBJECT, Arg, Graph, Op, Ref, Section, refs_in
from lowtide.ir.loops import Loop
from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.schedule.inplace import CallForms, call_pairs, call_refusal, loop_pairs, loop_refusal, permitted

_KEPT = "an object may keep it, into which nobody looks"


@dataclass(frozen=True, slots=True)
class OpFacts:
    """What is known of one operation on its actual layouts.

    out: the overload that writes every result into given tensors and allocates no more than ``target`` does; None where
        the callee must allocate its results. ``out_name``: what it calls the parameter of its one result.
    workspace: bytes that the call allocates beyond its results and gives back before it returns.
    out_workspace: the same for ``out``.
    overwrite: the overload that puts its one result in the place of its first argument, where there is no ``out``.
    pointwise: element i of the result depends on elements i alone, so that the result may overwrite an operand.
    restride: positions of results whose strides differ from the graph's, or that alias an operand: these are copied.
    note: why something is not as one would wish.
    """

    out: str | None = None
    out_name: str = "out"
    workspace: int = 0
    out_workspace: int = 0
    overwrite: str | None = None
    pointwise: bool = False
    restride: tuple[int, ...] = ()
    note: Reason | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One operation that runs. ``section`` is the index of its section; ``inplace`` are permitted (read, written) storages;
    ``loop`` is what a generated kernel computes, None for a library call."""

    op: Op
    section: int
    facts: OpFacts
    inplace: tuple[tuple[str, str], ...] = ()
    loop: Loop | None = None

    @property
    def unplaced(self) -> str:
        """Why the callee allocates its results; nothing where they go where the plan says."""
        if self.facts.out is None:
            return f"{self.op.target} writes into no given memory"
        if self.facts.restride:
            return f"{self.op.target} gives other strides than are expected, so its results are copied"
        if len(self.op.outputs) != 1 and self.loop is None:
            return f"{self.op.target} has several results"
        return ""

    @property
    def placed(self) -> bool:
        """Whether its results go where the plan says."""
        return not self.unplaced

    @property
    def begins(self) -> str:
        """The value into which it begins a copy without waiting for it; nothing, where it begins none."""
        return begun_into(self.op)


@dataclass(frozen=True)
class Schedule:
    """Steps in the order in which they run, sections one after the other. ``members``: for kernels made of several operations,
    by the name of theirs, what was put into them. ``allocators``: storages whose bytes must come from elsewhere than the usual
    allocator of their device, and the name of who gives them."""

    graph: Graph
    steps: tuple[Step, ...]
    reasons: tuple[Reason, ...] = ()
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    allocators: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def step(self) -> Mapping[str, Step]:
        """Step by the name of its operation, and by those of the operations put into it: of several, the last."""
        found = {s.op.name: s for s in self.steps}
        inside = {m: found[n] for n, names in self.members.items() if n in found for m in names}
        return inside | found

    @cached_property
    def memory(self) -> MemoryGraph:
        """What ``memory_graph`` gives."""
        return _memory_graph(self)

    @cached_property
    def held_by_objects(self) -> frozenset[str]:
        """What ``objects_may_keep`` gives."""
        return objects_may_keep(self.graph)

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """For each section the index of the first step behind it."""
        counts = [0] * len(self.graph.sections)
        for s in self.steps:
            counts[s.section] += 1
        return tuple(sum(counts[: i + 1]) for i in range(len(counts)))


def schedule(
    graph: Graph,
    facts: Mapping[str, OpFacts],
    *,
    inplace: bool = True,
    loops: Mapping[str, Loop] | None = None,
    reasons: Sequence[Reason] = (),
) -> Schedule:
    """Steps in program order. ``facts`` and ``loops`` by operation name; what has neither is called plainly. ``inplace``:
    permit it. ``reasons``: of earlier stages, which stand before those found here."""
    steps: list[Step] = []
    notes = list(reasons)
    given = loops or {}
    for i, section in enumerate(graph.sections):
        for op in section.ops:
            if op.view:
                continue
            loop = given.get(op.name)
            known = facts.get(op.name, OpFacts()) if loop is None else OpFacts(out=op.target)
            steps.append(Step(op, i, known, loop=loop))
            if known.note is not None:
                notes.append(known.note)
    found = Schedule(graph, tuple(steps), tuple(notes))
    if not inplace:
        return found
    inside, held = slabbed(found), found.held_by_objects
    return replace(
        found, steps=tuple(replace(s, inplace=permitted(_inplace_pairs(graph, s, inside), held)) for s in steps)
    )


def slabbed(schedule: Schedule) -> frozenset[str]:
    """Storages that may lie in a slab: written into given memory, not the caller's to keep, not copied with the slab."""
    made = {o for s in schedule.steps if s.placed for o in s.op.outputs if o is not None}
    return frozenset(made - kept_apart(schedule).keys())


def kept_apart(schedule: Schedule) -> Mapping[str, str]:
    """Storages that must not share an allocation with others, and why."""
    found = dict.fromkeys(
        sorted(kept_by_caller(schedule.graph) - schedule.graph.caller_owned), "the caller gets to keep it"
    )
    found |= dict.fromkeys(sorted(copied_whole(schedule)), "an operation copies all that lies beside it")
    found |= dict.fromkeys(sorted(schedule.held_by_objects - schedule.graph.caller_owned), _KEPT)
    pinned = (v.name for v in schedule.graph.values if v.layout.pinned and v.storage == v.name)
    return found | dict.fromkeys(pinned, "it is pinned, which the framework's own allocator sees to")


def _inplace_pairs(graph: Graph, step: Step, inside: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Operands whose storage a result may take over if it dies here."""
    if step.loop is not None:
        return loop_pairs(graph, step.op, step.loop, inside)
    return () if step.facts.restride else call_pairs(graph, step.op, _call_forms(step), inside)


def inplace_refusal(schedule: Schedule, step: Step, pair: tuple[str, str], inside: frozenset[str]) -> str:
    """Why a pair (read, written) of a step is not permitted; nothing where it is. ``inside``: what may lie in a slab."""
    graph = schedule.graph
    if not permitted((pair,), schedule.held_by_objects):
        return _KEPT
    if step.loop is not None:
        return loop_refusal(graph, step.op, step.loop, pair, inside)
    return step.unplaced if step.facts.restride else call_refusal(graph, step.op, _call_forms(step), pair, inside)


def _call_forms(step: Step) -> CallForms:
    op, facts = step.op, step.facts
    first = op.args[0].name if op.args and isinstance(op.args[0], Ref) else None
    return CallForms(facts.pointwise, facts.out is not None, None if facts.overwrite is None else first)


def begun_into(op: Op) -> str:
    """The value into which an operation begins a copy without waiting for it; nothing, where it begins none."""
    into = op.args[0] if op.target == "aten.copy_.default" and op.args[2:] == (True,) else None
    return into.name if isinstance(into, Ref) else ""


CALL = "call:"
# What a call that makes a tensor of no other is told of it, and its form that writes into a given tensor is not.
OF_NEW = frozenset(("dtype", "layout", "device", "pin_memory", "memory_format"))


def kwargs_into(op: Op) -> tuple[tuple[str, Arg], ...]:
    """An operation's keyword arguments as its form that writes into given tensors takes them."""
    return tuple((k, a) for k, a in op.kwargs if op.reads or k not in OF_NEW)


# ATen changes a part of a copy of its first argument, and copies all of the storage under it.
COPIES_WHOLE = frozenset(
    f"aten.{name}.default"
    for name in ("copy", "slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter")
)


def copied_whole(schedule: Schedule) -> frozenset[str]:
    """Storages that an operation copies whole, with whatever lies beside the tensor that it reads."""
    found: set[str] = set()
    for step in schedule.steps:
        first = step.op.args[0] if step.op.args and step.loop is None else None
        if step.op.target in COPIES_WHOLE and isinstance(first, Ref):
            found.add(schedule.graph.value[first.name].storage)
    return frozenset(found)


def memory_graph(schedule: Schedule) -> MemoryGraph:
    """What the order and plan engines see: storages as buffers, steps as nodes, and a ``call:`` node where a section ends.

    Read/write order on mutated storages, the order of operations with one effect, and what operations are said to come after
    become ``after``; groups are those of their section. Made once per schedule.
    """
    return schedule.memory


def _memory_graph(schedule: Schedule) -> MemoryGraph:
    graph = schedule.graph
    kept = kept_by_caller(graph)
    names = dict.fromkeys(v.storage for v in graph.values)
    buffers = tuple(
        Buffer(
            s,
            graph.nbytes[s],
            graph.value[s].layout.memory,
            input=s in graph.caller_owned,
            output=s in kept and s not in graph.caller_owned,
            allocator=schedule.allocators.get(s, ""),
        )
        for s in names
    )
    nodes: list[Node] = []
    since: list[str] = []
    for i, section in enumerate(graph.sections):
        if i:
            nodes.append(Node(f"{CALL}{section.name}", handed_on(graph, i - 1), after=tuple(since)))
            since = [nodes[-1].name]
        hazards = _Hazards(graph)
        for step in schedule.steps:
            if step.section != i:
                continue
            node = _node(graph, step, hazards)
            if i:
                node = replace(node, after=(*node.after, since[0]))
            nodes.append(node)
            since.append(node.name)
    return MemoryGraph(buffers, tuple(nodes))


# They put the storage of one argument under the tensor of another, which keeps it.
_SWAPS = frozenset(("aten.set_.source_Tensor",))


def swapped(ops: Iterable[Op], storage: Mapping[str, str]) -> frozenset[str]:
    """Storages that operations put under another tensor, or take from under it: whoever holds that tensor holds them, so
    that nothing else may have their bytes. ``storage``: of each value."""
    return frozenset(storage[r] for op in ops if op.target in _SWAPS for r in op.reads)


def handed_on(graph: Graph, section: int) -> tuple[str, ...]:
    """Storages that a section saves for the next: somebody holds them between the two, though nobody may read them."""
    found = graph.sections[section]
    saved = dict.fromkeys(graph.value[n].storage for i in found.saved for n in refs_in(found.returns[i]))
    return tuple(s for s in saved if s not in graph.caller_owned)


def changed_inputs(graph: Graph, section: Section) -> tuple[int, ...]:
    """Positions of a section's inputs whose bytes its operations change."""
    changed = {graph.value[m].storage for op in section.ops for m in op.mutates}
    given = enumerate(section.inputs)
    return tuple(k for k, i in given if isinstance(i, Ref) and graph.value[i.name].storage in changed)


def kept_by_caller(graph: Graph) -> frozenset[str]:
    """Storages that the caller gets to keep: everything returned but what is only saved for a later section, and what is
    put under a tensor."""
    out = set(swapped(graph.ops, {v.name: v.storage for v in graph.values}))
    for s in graph.sections:
        for i, arg in enumerate(s.returns):
            if i not in s.saved:
                out |= {graph.value[n].storage for n in refs_in(arg)}
    return frozenset(out)


def objects_may_keep(graph: Graph) -> frozenset[str]:
    """Storages of what operations are given or give that are given an object too, or give one: nobody sees whether it keeps
    them."""
    objects = {v.name for v in graph.values if v.layout.dtype == OBJECT}
    touched = (n for op in graph.ops for n in _beside(op, objects)) if objects else ()
    return frozenset(graph.value[n].storage for n in touched)


def _beside(op: Op, objects: Set[str]) -> Sequence[str]:
    """The other values of an operation that is given, or gives, one of ``objects``."""
    touched = [n for n in (*op.reads, *op.outputs) if n is not None]
    return () if objects.isdisjoint(touched) else [n for n in touched if n not in objects]


class _Hazards:
    """Remembers readers, writers and effects while nodes are made in program order (short-lived)."""

    def __init__(self, graph: Graph) -> None:
        self.storage = {v.name: v.storage for v in graph.values}
        self.mutated = {self.storage[m] for op in graph.ops for m in op.mutates}
        self.readers: dict[str, list[str]] = {}
        self.writer: dict[str, str] = {}
        self.effect: dict[str, str] = {}

    def before(self, op: Op) -> tuple[str, ...]:
        """Names of operations that must run before this one and are not its producers."""
        out: dict[str, None] = {}
        for r in (self.storage[r] for r in op.reads):
            if r in self.mutated:
                if r in self.writer:
                    out[self.writer[r]] = None
                self.readers.setdefault(r, []).append(op.name)
        for m in (self.storage[m] for m in op.mutates):
            out.update(dict.fromkeys(n for n in self.readers.get(m, ()) if n != op.name))
            self.writer[m], self.readers[m] = op.name, []
        if op.effect is not None:
            if op.effect in self.effect:
                out[self.effect[op.effect]] = None
            self.effect[op.effect] = op.name
        out.update(dict.fromkeys(op.after))
        return tuple(out)


def _node(graph: Graph, step: Step, hazards: _Hazards) -> Node:
    op = step.op
    reads = dict.fromkeys(graph.value[r].storage for r in (*op.reads, *op.mutates))
    writes = tuple(
        dict.fromkeys(graph.value[o].storage for o in op.outputs if o and graph.value[o].storage not in reads)
    )
    workspace = max(step.facts.workspace, step.facts.out_workspace)
    group = f"{op.group} of {graph.sections[step.section].name}" if op.group else ""
    return Node(op.name, tuple(reads), writes, hazards.before(op), workspace, step.inplace, runs_on(graph, op), group)


def runs_on(graph: Graph, op: Op) -> str:
    """The device whose bytes an operation takes beside its results (a copy to the host counts as the host's): that of its first
    result, else of what it changes. One with neither adopts the one beside the CPU of what it reads (numbers of the host go
    there by value), and where it touches nothing the one that the program has; it runs on the CPU where there is none, or
    several."""
    made = next((n for n in (*op.outputs, *op.mutates) if n is not None), None)
    if made is not None:
        return graph.value[made].layout.device
    near = {graph.value[n].layout.device for n in op.reads} if op.reads else graph.devices
    beside = near - {"cpu"}
    return next(iter(beside)) if len(beside) == 1 else "cpu"


def reordered(given: Schedule, order: Sequence[int]) -> Schedule:
    """The schedule with its steps in ``order`` (indices of ``memory_graph(given).nodes``; ``call:`` nodes are dropped)."""
    nodes = memory_graph(given).nodes
    steps = tuple(given.step[nodes[i].name] for i in order if not nodes[i].name.startswith(CALL))
    return replace(given, steps=steps)
