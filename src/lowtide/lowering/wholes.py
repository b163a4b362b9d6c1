"""Concatenations whose memory is there before their parts, which library calls then write where they belong.

Comes in: a static Graph, what it became when it was lowered, and what is known of the calls that were left. Goes out: the
same program, in which the memory of such a concatenation is an operation of its own, its parts are views of that memory, and
the concatenation computes nothing; the same object where there is none. Promised: the same numbers; what a section takes and
returns keeps its name and layout.

A call is one that can write into given memory: products can, convolutions and attention cannot. Parts that no such call makes
are copied: as soon as they are there, if loops alone read them, which then read them in their place; else where the
concatenation stands.

Memory that is there early may cost more than it spares, so the caller holds both programs against one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lowtide.ir.graph import Arg, Atom, Graph, Layout, Op, Ref, Section, Value, int_of, refs_in
from lowtide.ir.lowered import Lowered, pruned
from lowtide.ir.strides import in_rows, reshaped
from lowtide.ir.symbolic import Dim
from lowtide.lowering.movement import CAT, concatenated
from lowtide.schedule.schedule import OpFacts

_SAME_ORDER = ("aten.view.default", "aten._unsafe_view.default", "aten.unsqueeze.default")


def in_their_places(graph: Graph, lowered: Lowered, facts: Mapping[str, OpFacts]) -> Graph:
    """The graph with parts of concatenations where they belong; as it is where the places of operations are asked for, since what
    makes the memory would stand elsewhere than what fills it."""
    if graph.placed_by_hand:
        return graph
    made = [_Work(graph, s, lowered, facts).section() for s in graph.sections]
    if all(s is old for (s, _), old in zip(made, graph.sections, strict=True)):
        return graph
    values = dict(graph.value) | {n: v for _, found in made for n, v in found.items()}
    return pruned(replace(graph, values=tuple(values.values()), sections=tuple(s for s, _ in made)))


class _Work:
    """One section as it changes; short-lived."""

    def __init__(self, graph: Graph, section: Section, lowered: Lowered, facts: Mapping[str, OpFacts]) -> None:
        self.graph, self.before, self.facts = graph, section, facts
        self.maker = {o: op for op in section.ops for o in op.outputs if o is not None}
        self.at = {op.name: k for k, op in enumerate(section.ops)}
        left = {(op.name, op.target) for op in lowered.graph.ops}
        self.calls = {op.name for op in section.ops if op.view or (op.name, op.target) in left}
        self.readers: dict[str, list[Op]] = {}
        for op in section.ops:
            for n in op.reads:
                self.readers.setdefault(n, []).append(op)
        self.kept = {n for s in graph.sections for a in s.returns for n in refs_in(a)}
        self.changed = {graph.value[m].storage for op in graph.ops for m in op.mutates}
        self.values: dict[str, Value] = {}
        self.front: dict[str, list[Op]] = {}  # by operation: what stands before it,
        self.instead: dict[str, list[Op]] = {}  # in its place,
        self.behind: dict[str, list[Op]] = {}  # and behind it
        self.moved: dict[str, Arg] = {}  # copied part -> itself in its place, for the loops that read it

    def section(self) -> tuple[Section, Mapping[str, Value]]:
        """The section, and values that are new or lie elsewhere; the same object where there are none."""
        taken: set[str] = set()
        for op in self.before.ops:
            if op.target != CAT or op.name in self.calls:
                continue
            parts, dim = concatenated(self.graph, op)
            if self._fits(op.name, parts) and not taken.intersection(parts):
                taken.update(parts)
                self._place(op, parts, dim)
        if not self.values:
            return self.before, {}
        return replace(self.before, ops=tuple(x for op in self.before.ops for x in self._replaced(op))), self.values

    def _replaced(self, op: Op) -> Iterator[Op]:
        yield from self.front.get(op.name, ())
        if op.name in self.instead:
            yield from self.instead[op.name]
        else:
            yield op if op.name in self.calls else self._reading(op)
        yield from self.behind.get(op.name, ())

    def _reading(self, op: Op) -> Op:
        kwargs = tuple((k, self._arg(a)) for k, a in op.kwargs)
        return replace(op, args=tuple(map(self._arg, op.args)), kwargs=kwargs)

    def _arg(self, a: Arg) -> Arg:
        if isinstance(a, Ref):
            return self.moved.get(a.name, a)
        return tuple(map(self._arg, a)) if isinstance(a, tuple) else a

    # -- which ---------------------------------------------------------------------------------------------------------

    def _fits(self, whole: str, parts: tuple[str, ...]) -> bool:
        """Whether all are of one kind, nobody notices that they lie in one memory, and a call can write one of them there."""
        values = [self.graph.value[n] for n in (*parts, whole)]
        return (
            len({(v.layout.dtype, v.layout.memory) for v in values}) == 1
            and len({*parts}) == len(parts)
            and not any(v.layout.extent == 0 or v.storage in self.changed for v in values)
            and in_rows(self.graph.value[whole].layout)
            and any(self._caller(whole, p) is not None for p in parts)
        )

    def _in_loops(self, name: str) -> bool:
        """Whether loops alone read a value, concatenations among them: they read it wherever it lies."""
        return name not in self.kept and all(op.name not in self.calls for op in self.readers.get(name, ()))

    def _caller(self, whole: str, part: str) -> Op | None:
        """The library call that can write a part where it belongs, if nobody else wants its result elsewhere."""
        if not self._in_loops(part):
            return None
        op, made = self.maker.get(part), part
        while op is not None and op.view:  # of a product as [batch, rows, columns]
            base = op.reads[0]
            plain = op.target in _SAME_ORDER and in_rows(self.graph.value[made].layout)
            if not plain or base in self.kept or len(self.readers[base]) != 1:
                return None
            op, made = self.maker.get(base), base
        if op is None or op.name not in self.calls or op.effect is not None or op.outputs != (made,):
            return None
        facts = self.facts.get(op.name, OpFacts())
        writes = facts.out is not None and not facts.restride and not op.mutates
        return op if writes and self._stride(whole, part, made) is not None else None

    def _stride(self, whole: str, part: str, made: str) -> tuple[Dim, ...] | None:
        """Of what a call makes, where it belongs: it is the part, or the part is a view of all of it, row by row."""
        stride = self.graph.value[whole].layout.stride
        if part == made:
            return stride
        size, y = self.graph.value[part].layout.size, self.graph.value[made].layout
        return reshaped(size, stride, y.size) if in_rows(y) else None

    # -- where ---------------------------------------------------------------------------------------------------------

    def _place(self, op: Op, parts: tuple[str, ...], dim: int) -> None:
        """Make the memory before what writes the first part, and every part where it belongs."""
        whole = self.graph.value[op.name]
        kind = (("dtype", Atom("dtype", whole.layout.dtype)), ("device", Atom("device", whole.layout.device)))
        make = replace(op, target="aten.empty.memory_format", args=(whole.layout.size,), kwargs=kind)
        self.values[op.name] = whole
        self.instead[op.name] = []
        written: list[tuple[int, list[Op]]] = []
        begin = 0
        for p in parts:
            size = self.graph.value[p].layout.size
            there = replace(whole.layout, size=size, offset=begin * int_of(whole.layout.stride[dim]))
            call = self._caller(op.name, p)
            written.append(self._copied(op, p, there) if call is None else self._written(op, p, there, call))
            begin += int_of(size[dim])
        min(written, key=lambda x: x[0])[1].insert(0, make)

    def _written(self, whole: Op, part: str, there: Layout, call: Op) -> tuple[int, list[Op]]:
        """Have a call write a part where it belongs; where in the program that is, and what stands there now."""
        made, facts = str(call.outputs[0]), self.facts[call.name]
        stride = self._stride(whole.name, part, made)
        assert facts.out is not None and stride is not None
        into = (*call.kwargs, (facts.out_name, Ref(made)))
        writes = replace(
            call, name=f"{made}_call", target=facts.out, kwargs=into, outputs=(), returns="none", mutates=(made,)
        )
        if part != made:
            self.instead[self.maker[part].name] = [self._view(whole, part, there)]
        there = replace(there, size=self.graph.value[made].layout.size, stride=stride)
        self.instead[call.name] = [self._view(whole, made, there), writes]
        return self.at[call.name], self.instead[call.name]

    def _copied(self, whole: Op, part: str, there: Layout) -> tuple[int, list[Op]]:
        """Copy a part to where it belongs; where in the program that is, and what stands there now."""
        name, op = f"{part}_there", self.maker.get(part)
        into = (Ref(name), Ref(part))
        copy = Op(f"{part}_copy", "aten.copy_.default", into, (), (), "none", mutates=(name,), origin=whole.origin)
        if op is not None and not op.view and self._in_loops(part):
            self.moved[part] = Ref(name)
            at, ops = op.name, self.behind
        else:
            at, ops = whole.name, self.front
        ops.setdefault(at, []).extend((self._view(whole, name, there), copy))
        return self.at[at], ops[at]

    def _view(self, whole: Op, name: str, layout: Layout) -> Op:
        """The operation that makes ``name`` a view of the memory of the whole, which it is from now on."""
        self.values[name] = Value(name, layout, whole.name, whole.origin)
        args = (Ref(whole.name), layout.size, layout.stride, layout.offset)
        return Op(name, "aten.as_strided.default", args, (), (name,), view=True, origin=whole.origin)
