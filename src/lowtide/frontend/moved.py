"""Copies between devices that need not run at every call.

Comes in: a Graph and its constants. Goes out: the same with fewer copies, and the constants that it then names. A constant that
is copied to another device lies there from the beginning; what is made of nothing but numbers (``full``, ``arange`` of whole
ones) and copied is made where it is needed. Promised: only where nobody can tell: every device makes the same numbers, nothing
changes the original or the copy, the copy has the same type, size and strides, and the caller does not get to keep it. A graph
on one device comes back as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from lowtide.ir.graph import Atom, Graph, Op, Ref, refs_in
from lowtide.schedule.schedule import kept_by_caller
from lowtide.torch_compat import real_tensors

_COPY = "aten._to_copy.default"
_SAME = ("aten.lift_fresh_copy.default", "aten.clone.default", "aten.alias.default", "aten.detach.default")
_MADE = ("full", "zeros", "ones", "arange", "scalar_tensor", "eye")


def made_in_place(graph: Graph, constants: Mapping[str, torch.Tensor]) -> tuple[Graph, dict[str, torch.Tensor]]:
    """The graph without copies of constants and of recipes, and its constants by name."""
    held = dict(constants)
    if len({v.layout.device for v in graph.values}) < 2:
        return graph, held
    instead: dict[str, Op | None] = {}
    first: dict[tuple[str, str], str] = {}  # original and device -> the constant there
    storage: dict[str, str] = {}
    fixed = kept_by_caller(graph) | {graph.value[m].storage for op in graph.ops for m in op.mutates}
    for op in graph.ops:
        source = _source(graph, op, fixed)
        if not source:
            continue
        made, layout = str(op.outputs[0]), graph.value[str(op.outputs[0])].layout
        if source in held:
            known = first.setdefault((source, layout.device), made)
            instead[op.name] = None
            if known != made:
                storage[made] = known
                instead[op.name] = Op(
                    op.name, "aten.alias.default", (Ref(known),), (), (made,), view=True, origin=op.origin
                )
                continue
            with real_tensors():
                there = torch.empty_strided(layout.size, layout.stride, dtype=held[source].dtype, device=layout.device)
                held[made] = there.copy_(held[source])
        elif (recipe := graph.maker.get(source)) is not None and _is_recipe(recipe):
            device = Atom("device", layout.device)
            kwargs = tuple((k, device if k == "device" else a) for k, a in recipe.kwargs if k != "pin_memory")
            instead[op.name] = replace(recipe, name=op.name, kwargs=kwargs, outputs=op.outputs, origin=op.origin)
    if not instead:
        return graph, held
    sections = tuple(
        replace(s, ops=tuple(x for op in s.ops if (x := instead.get(op.name, op)) is not None)) for s in graph.sections
    )
    values = tuple(replace(v, storage=storage.get(v.storage, v.storage)) for v in graph.values)
    made = _read(replace(graph, values=values, sections=sections, constants=tuple(held)))
    return made, {c: held[c] for c in made.constants}


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


def _read(graph: Graph) -> Graph:
    """Without what is only there for copies that went, constants included."""
    while True:
        read = {n for op in graph.ops for n in (*op.reads, *op.mutates)}
        read |= {n for s in graph.sections for a in s.returns for n in refs_in(a)}
        gone = {
            op.name for op in graph.ops
            if (op.target in _SAME or _is_recipe(op)) and not any(o in read for o in op.outputs)
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
