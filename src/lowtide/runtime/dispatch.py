"""A captured program as callables: picks, or builds at first need, the variant for the sizes of each call.

Comes in: a Graph (sizes may be symbols), its constants, and a function that compiles a static graph. Goes out: one
callable per section. Promised: every call runs code that was planned for exactly its sizes, or, where a stage of ours is
wrong at these sizes, what was captured; the least recently used variants are dropped first; a backward call whose saved
tensors must survive it, or are not as the forward call left them, runs a stand-alone program that destroys nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lowtide.core.errors import Unsupported
from lowtide.core.reason import Reason
from lowtide.ir.graph import Graph, Ref, specialise
from lowtide.runtime.load import Captured, LoadedSection, exact
from lowtide.torch_compat import keeps_graph

Build = Callable[[Graph], Sequence[LoadedSection | Captured]]
Binding = tuple[str, int, int | None]
Variants = dict[int | None, Sequence[LoadedSection | Captured]]
Sizes = tuple[tuple[str, int], ...]


class Dispatch:
    """Variants of one program by its sizes. Safe from several threads."""

    def __init__(
        self, graph: Graph, build: Build, recent: int, first: Sequence[LoadedSection | Captured] | None = None
    ) -> None:
        """``first``: of a graph without symbols, its sections where they are built already."""
        self.graph, self.build, self.recent = graph, build, recent
        self.bindings = [_bindings(graph, i) for i in range(len(graph.sections))]
        self.lock = threading.RLock()
        self.variants: OrderedDict[Sizes, Variants] = OrderedDict()
        if first is not None:
            self.variants[()] = {None: first}

    def variant(self, sizes: Sizes = (), lone: int | None = None) -> Sequence[LoadedSection | Captured]:
        """The sections for ``sizes``; with ``lone``, that section as a program of its own."""
        with self.lock:
            known = self.variants.setdefault(sizes, {})
            self.variants.move_to_end(sizes)
            while len(self.variants) > self.recent:
                self.variants.popitem(last=False)
            if lone not in known:
                graph = specialise(self.graph, dict(sizes))
                known[lone] = self.build(graph if lone is None else alone(graph, lone))
            return known[lone]

    def section(self, index: int) -> Callable[[list[Any]], list[Any]]:
        """The callable of one section; takes a list of arguments and empties it."""
        bindings = self.bindings[index]

        def call(args: list[Any]) -> list[Any]:
            sizes = tuple((name, args[i] if dim is None else args[i].shape[dim]) for name, i, dim in bindings)
            if index == 0:
                return self.variant(sizes)[0](args)
            joint = self.variant(sizes)[index]
            if isinstance(
                joint, Captured
            ):  # ours alone would need these inputs laid out; this takes any, and destroys none
                return joint(args)
            odd = joint.misfits(args)
            if not odd and not keeps_graph() and joint.owns(args):
                return joint(args)
            for i in odd:
                args[i] = exact(args[i], args[i].shape, joint.strides[i] or ())
            return self.variant(sizes, index)[0](args)

        return call


def alone(graph: Graph, index: int) -> Graph:
    """One section as a program of its own: all its inputs, saved tensors included, belong to the caller.

    A constant that was saved for it is an input alone. Where only views of a storage come in, the first of them stands for it.
    """
    section = graph.sections[index]
    taken = {i.name: None for i in section.inputs if isinstance(i, Ref)}
    constants = tuple(c for c in graph.constants if c not in taken)
    given = [*taken, *constants]
    made = {o for op in section.ops for o in op.outputs if o is not None}
    root = {graph.value[n].storage: graph.value[n].storage for n in (*given, *made) if graph.value[n].storage in made}
    for n in given:
        storage = graph.value[n].storage
        root.setdefault(storage, storage if storage in given else n)
    values = tuple(replace(v, storage=root[v.storage]) for v in graph.values if v.name in made or v.name in given)
    return Graph(f"{graph.name}.{section.name}", values, (section,), constants, graph.symbols)


def _bindings(graph: Graph, index: int) -> list[Binding]:
    """How to read every symbol's size off a section's arguments: (symbol, argument, its dimension or None for an int).

    Raises:
        Unsupported: a symbol stands nowhere by itself.
    """
    out: dict[str, Binding] = {}
    for i, given in enumerate(graph.sections[index].inputs):
        dims: Sequence[Any] = graph.value[given.name].layout.size if isinstance(given, Ref) else [given]
        for d, dim in enumerate(dims):
            if getattr(dim, "op", "") == "sym":
                name = str(dim.args[0])
                out.setdefault(name, (name, i, d if isinstance(given, Ref) else None))
    missing = [s for s in graph.symbols if s not in out]
    if missing:
        raise Unsupported(
            Reason(f"size {missing[0]}", f"cannot be read off the inputs of {graph.sections[index].name}")
        )
    return [out[s] for s in graph.symbols]
