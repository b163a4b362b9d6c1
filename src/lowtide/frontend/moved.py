"""Copies between devices that need not run at every call.

Comes in: a Graph and its constants. Goes out: the same with fewer copies, and the constants that it then names. A constant that
is copied to another device lies there from the beginning; what is computed of nothing but numbers and constants (a mask of
``arange``, ``full`` and comparisons) and copied is computed where it is needed, as long as every operation of it is one that all
devices do alike. What must be copied at every call is written into memory that is planned, where the copy lies row by row, and
begun and waited for apart, where one of the two devices is the host. Promised: a copy goes only where nobody can tell: every
device makes the same numbers, nothing changes the original, the copy or anything between, the copy has the same type, size and
strides, and the caller does not get to keep it. A graph on one device comes back as it is, and so does one that asks for the
places of its operations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import replace

import torch

from lowtide.ir.graph import WAIT, Arg, Atom, Graph, Layout, Op, Ref, Section, Value, refs_in
from lowtide.ir.strides import filled
from lowtide.schedule.schedule import kept_by_caller
from lowtide.torch_compat import Constants, real_tensors

_COPY, _WRITE = "aten._to_copy.default", "aten.copy_.default"
_SAME = ("aten.lift_fresh_copy.default", "aten.clone.default", "aten.alias.default", "aten.detach.default")
_MADE = ("full", "zeros", "ones", "arange", "scalar_tensor", "eye")
# What every device does to the last bit: it rounds nothing, or once.
_EXACT = frozenset(
    (
        "add", "sub", "rsub", "mul", "neg", "abs", "sign", "minimum", "maximum", "clamp", "clamp_min", "clamp_max", "eq", "ne",
        "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "logical_not", "bitwise_and", "bitwise_or",
        "bitwise_xor", "bitwise_not", "where", "masked_fill", "tril", "triu", "cat", "repeat", "flip", "constant_pad_nd",
        "floor", "ceil", "round", "trunc", "_to_copy",
    )
)  # fmt: skip
_EXACT_OF_WHOLE = frozenset(("cumsum", "sum"))
_EXACT_BY_A_NUMBER = frozenset(("remainder", "floor_divide"))  # of whole numbers; by zero, some devices raise
_LONGEST = 64  # operations of a chain


def made_in_place(graph: Graph, constants: Constants) -> tuple[Graph, Constants]:
    """The graph without copies of constants and of what is computed of them, the other copies into memory of ours, and its
    constants by name."""
    if len(graph.devices) < 2 or graph.placed_by_hand:
        return graph, dict(constants)
    moving = _Moving(graph, constants)
    for section in graph.sections:
        moving.section(section)
    made, held = moving.result() if moving.instead else (graph, dict(constants))
    return _into_given_memory(made), held


def _into_given_memory(graph: Graph) -> Graph:
    """Copies to another device as memory that is planned and a call that writes into it: ATen has no form of a copy that does,
    and allocates what it returns. Between host and device the call only begins the copy, and an operation of its own waits for
    it. Those that the caller gets, that lie otherwise than their source, or whose elements do not lie row by row (as ``empty``
    makes them), stay as they are."""
    kept, names = kept_by_caller(graph), {op.name for op in graph.ops}

    def fresh(name: str) -> str:
        while name in names:
            name += "_r"
        names.add(name)
        return name

    def written(op: Op) -> tuple[Op, ...]:
        if op.target != _COPY or not isinstance(op.args[0], Ref):
            return (op,)
        source, made = graph.value[op.args[0].name], graph.value[str(op.outputs[0])]
        x = made.layout
        moved = replace(source.layout, device=x.device, offset=x.offset, pinned=x.pinned)
        alike = moved == x and x.stride == filled(x.size)
        if source.layout.device == x.device or not alike or made.storage in kept:
            return (op,)
        kind = (("dtype", Atom("dtype", x.dtype)), ("device", Atom("device", x.device)))
        kind += (("pin_memory", True),) if x.pinned else ()
        memory = replace(op, target="aten.empty.memory_format", args=(x.size,), kwargs=kind)
        into, host = Ref(made.name), "cpu" in (x.device, source.layout.device)
        args = (into, op.args[0], True) if host else (into, op.args[0])
        copy = Op(fresh(f"{op.name}_copied"), _WRITE, args, (), (), "none", mutates=(made.name,), origin=op.origin)
        if not host:
            return memory, copy
        return memory, copy, _waiting(copy, fresh(f"{op.name}_waited"), to_host=x.device == "cpu")

    sections = tuple(replace(s, ops=tuple(x for op in s.ops for x in written(op))) for s in graph.sections)
    return replace(graph, sections=sections)


def _waiting(copy: Op, name: str, *, to_host: bool) -> Op:
    """Until a copy is done. What the host gets, nobody may read before; what it gives, nobody may write over: the device itself
    does one thing after the other."""
    into, source, *_ = copy.args
    given, changed = ((into,), copy.mutates) if to_host else ((into, source), ())
    return Op(name, WAIT, given, (), (), "none", mutates=changed, origin=copy.origin)


class _Moving:
    """One graph while copies are taken out of it; short-lived."""

    def __init__(self, graph: Graph, constants: Constants) -> None:
        self.graph, self.held = graph, dict(constants)
        self.fixed = kept_by_caller(graph) | {graph.value[m].storage for op in graph.ops for m in op.mutates}
        self.instead: dict[str, list[Op]] = {}  # copy -> what runs in its place
        self.there: dict[tuple[str, str], str] = {}  # value and device -> what it is there
        self.stands_on: dict[str, str] = {}  # copy -> the storage that it has now
        self.added: dict[str, list[Value]] = {}  # copy -> values that are defined before it
        self.rebuilt: set[str] = set()  # operations whose like runs elsewhere too
        self.taken = set(graph.value)

    def section(self, section: Section) -> None:
        """Find what goes of one section; what is computed in one is not seen in another."""
        self.there = {(n, d): to for (n, d), to in self.there.items() if n in self.held}
        own = {op.name for op in section.ops}
        for op in section.ops:
            source = _source(self.graph, op, self.fixed)
            if not source:
                continue
            made = self.graph.value[str(op.outputs[0])]
            known = self.there.get((source, made.layout.device))
            if known is not None:
                alias = Op(op.name, "aten.alias.default", (Ref(known),), (), (made.name,), view=True, origin=op.origin)
                owner = self.graph.value[source].storage
                self.instead[op.name], self.stands_on[made.name] = [alias], self.there[owner, made.layout.device]
            elif source in self.held:
                if (there := _copied(self.held[source], made.layout)) is not None:
                    self.there[source, made.layout.device], self.held[made.name] = made.name, there
                    self.instead[op.name] = []
            elif (chain := self._chain(source, own, made.layout.dtype)) is not None:
                self._rebuild(chain, op, made)

    def _chain(self, source: str, own: Set[str], dtype: str) -> list[Op] | None:
        """The operations that make a value of numbers and constants alone, in order; None where there is another, one whose
        result is pinned, or a value of a type that the other device may not have: it has ``dtype``, that of the copy, and those
        of masks and indices."""
        graph, found = self.graph, dict[str, Op]()
        device, waiting = graph.value[source].layout.device, [source]
        while waiting:
            name = waiting.pop()
            value, maker = graph.value[name], graph.maker.get(name)
            if value.layout.device != device or value.layout.pinned or value.storage in self.fixed:
                return None
            if value.layout.dtype not in (dtype, "bool", "i64"):
                return None
            if name in self.held or (maker is not None and maker.name in found):
                continue
            if maker is None or maker.name not in own or not _alike(graph, maker) or len(found) == _LONGEST:
                return None
            found[maker.name] = maker
            waiting += maker.reads
        return [op for op in graph.ops if op.name in found]

    def _rebuild(self, chain: Sequence[Op], copy: Op, made: Value) -> None:
        """The same operations on the other device in place of a copy; the last makes what the copy made."""
        device = made.layout.device
        added = self._constants({n for op in chain for n in op.reads if n in self.held}, device)
        if added is None:
            return
        made_of = list[Op]()
        for op in chain:
            last, output = op is chain[-1], str(op.outputs[0])
            self.rebuilt.add(op.name)
            if not last and (output, device) in self.there:
                continue
            name = made.name if last else self._named(output, device)
            value = self.graph.value[output]
            self.there[output, device] = name
            on = name if value.storage == output else self.there[value.storage, device]
            if last:
                self.stands_on[name] = on
            else:
                added.append(replace(value, name=name, storage=on, layout=replace(value.layout, device=device)))
            made_of.append(self._on(op, device, name))
        self.instead[copy.name], self.added[made.name] = made_of, added

    def _on(self, op: Op, device: str, made: str) -> Op:
        """An operation of a chain on another device."""

        def arg(a: Arg) -> Arg:
            if isinstance(a, Ref):
                return Ref(self.there[a.name, device])
            if isinstance(a, Atom) and a.kind == "device":
                return Atom("device", device)
            return tuple(map(arg, a)) if isinstance(a, tuple) else a

        kwargs = tuple((k, arg(a)) for k, a in op.kwargs if k != "pin_memory")
        return replace(op, name=made, args=tuple(map(arg, op.args)), kwargs=kwargs, outputs=(made,))

    def _constants(self, names: Set[str], device: str) -> list[Value] | None:
        """Let constants lie on another device too: those that are new there, or None, and none, where one cannot be copied."""
        new = [v for v in self.graph.values if v.name in names and (v.name, device) not in self.there]
        layouts = [replace(v.layout, device=device) for v in new]
        copies = [_copied(self.held[v.name], x) for v, x in zip(new, layouts, strict=True)]
        if any(c is None for c in copies):
            return None
        added = list[Value]()
        for v, layout, copy in zip(new, layouts, copies, strict=True):
            assert copy is not None
            name = self.there[v.name, device] = self._named(v.name, device)
            self.held[name] = copy
            added.append(Value(name, layout, name, v.origin))
        return added

    def _named(self, name: str, device: str) -> str:
        found = re.sub(r"\W", "_", f"{name}_on_{device}")
        while found in self.taken:
            found += "_r"
        self.taken.add(found)
        return found

    def result(self) -> tuple[Graph, Constants]:
        """The graph without the copies, and without what was only there for them."""
        graph = self.graph
        sections = tuple(
            replace(s, ops=tuple(x for op in s.ops for x in self.instead.get(op.name, (op,)))) for s in graph.sections
        )
        values = tuple(
            replace(v, storage=self.stands_on.get(v.storage, v.storage))
            for old in graph.values
            for v in (*self.added.get(old.name, ()), old)
        )
        made = _read(replace(graph, values=values, sections=sections, constants=tuple(self.held)), self.rebuilt)
        return made, {c: self.held[c] for c in made.constants}


def _copied(constant: torch.Tensor, layout: Layout) -> torch.Tensor | None:
    """A constant as it lies on another device; None where that refuses it, or has no memory left: the program then copies it
    when it runs, and fails where eager does."""
    with real_tensors():
        try:
            there = torch.empty_strided(layout.size, layout.stride, dtype=constant.dtype, device=layout.device)
            return there.copy_(constant)
        except (RuntimeError, TypeError):
            return None


def _source(graph: Graph, op: Op, fixed: frozenset[str]) -> str:
    """What a copy to another device is a copy of, if nothing but the device differs and nobody can tell; else nothing."""
    if op.target != _COPY or not isinstance(op.args[0], Ref):
        return ""
    source, made = op.args[0].name, graph.value[str(op.outputs[0])]
    chain = [source, made.name]
    while (maker := graph.maker.get(source)) is not None and maker.target in _SAME and isinstance(maker.args[0], Ref):
        source = maker.args[0].name
        chain.append(source)
    moved = replace(graph.value[source].layout, device=made.layout.device)
    if moved != made.layout or made.layout.device == graph.value[source].layout.device:
        return ""
    return "" if any(graph.value[n].storage in fixed for n in chain) else source


def _is_recipe(op: Op) -> bool:
    library, name, *_ = op.target.split(".")
    if library != "aten" or name not in _MADE or not any(k == "device" for k, _ in op.kwargs):
        return False
    if name == "arange" and any(isinstance(a, float) for a in (*op.args, *(a for _, a in op.kwargs))):
        return False  # what is not whole, devices round otherwise
    return not op.reads and op.effect is None and len(op.outputs) == 1


def _alike(graph: Graph, op: Op) -> bool:
    """Whether all devices make the same of the same operands."""
    library, name, *_ = op.target.split(".")
    if library != "aten" or op.mutates or op.effect is not None or len(op.outputs) != 1:
        return False
    if op.view or op.target in _SAME or _is_recipe(op):
        return True
    if any(k == "alpha" for k, _ in op.kwargs):
        return False  # a product that some devices do not round before they add
    layouts = [graph.value[n].layout for n in (*op.reads, str(op.outputs[0]))]
    if any(x.dtype[0] == "c" for x in layouts) or op.target == "aten.round.decimals":
        return False  # several roundings in one operation
    whole = [x.dtype == "bool" or x.dtype[0] in "iu" for x in layouts]
    if name == "_to_copy" and whole[-1] and not whole[0]:
        return False  # what a whole number cannot hold, devices cut off otherwise
    if name in _EXACT_BY_A_NUMBER:
        by = op.args[1] if len(op.args) > 1 else None
        return all(whole) and isinstance(by, int) and by != 0
    return name in _EXACT or (name in _EXACT_OF_WHOLE and all(whole))


def _read(graph: Graph, rebuilt: Set[str]) -> Graph:
    """Without what is only there for copies that went, constants included. ``rebuilt``: operations whose like runs elsewhere."""
    while True:
        read = {n for op in graph.ops for n in (*op.reads, *op.mutates)}
        read |= {n for s in graph.sections for a in s.returns for n in refs_in(a)}
        gone = {
            op.name for op in graph.ops
            if (op.target in _SAME or op.name in rebuilt) and not any(o in read for o in op.outputs)
        }  # fmt: skip
        if not gone:
            break
        sections = tuple(replace(s, ops=tuple(op for op in s.ops if op.name not in gone)) for s in graph.sections)
        graph = replace(graph, sections=sections)
    named = read & set(graph.constants)
    constants = tuple(v.name for v in graph.values if v.name in named)
    made = {o for op in graph.ops for o in op.outputs} | set(constants)
    made |= {i.name for s in graph.sections for i in s.inputs if isinstance(i, Ref)}
    return replace(graph, constants=constants, values=tuple(v for v in graph.values if v.name in made))
