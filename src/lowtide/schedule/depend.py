"""Which operations of a section must run before which: from what they read, make and change, from their effects, and from what
they are said to come after.

Comes in: a Graph. Goes out: ``Dependencies`` of each section. Promised: storages are compared, not names, so views and
aliases count; any order that keeps ``before`` computes the same; time and room grow with the number of accesses, nothing
recurses. Views are no operations here: they cost nothing and stand wherever they are used.

Ancestors are bitsets, one whole number per operation: 10,000 operations take some 12 MB and a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lowtide.ir.graph import Graph, Op, Section, refs_in


@dataclass(frozen=True)
class Dependencies:
    """``before``: for each operation of a section those that must run earlier, in program order. ``ordering``: those of
    them from which it takes nothing (it changes what they read, has the same effect, or is said to come after them)."""

    names: tuple[str, ...]
    before: Mapping[str, tuple[str, ...]]
    ordering: Mapping[str, frozenset[str]]

    @cached_property
    def after(self) -> Mapping[str, tuple[str, ...]]:
        """For each operation those that must run later."""
        out: dict[str, list[str]] = {n: [] for n in self.names}
        for n in self.names:
            for b in self.before[n]:
                out[b].append(n)
        return {n: tuple(found) for n, found in out.items()}

    @cached_property
    def ancestors(self) -> Mapping[str, int]:
        """For each operation the set of all that must run earlier: bit k stands for ``names[k]``."""
        at = {n: k for k, n in enumerate(self.names)}
        out: dict[str, int] = {}
        for n in self.names:
            bits = 0
            for b in self.before[n]:
                bits |= out[b] | 1 << at[b]
            out[n] = bits
        return out

    @cached_property
    def distance(self) -> Mapping[str, tuple[int, int]]:
        """Fewest and most steps from an operation that waits for nothing."""
        out: dict[str, tuple[int, int]] = {}
        for n in self.names:
            found = [out[b] for b in self.before[n]]
            out[n] = (min(lo for lo, _ in found) + 1, max(hi for _, hi in found) + 1) if found else (0, 0)
        return out

    @cached_property
    def waves(self) -> tuple[tuple[str, ...], ...]:
        """Operations by greatest distance: those of one wave are independent."""
        out: list[list[str]] = []
        for n in self.names:
            k = self.distance[n][1]
            while len(out) <= k:
                out.append([])
            out[k].append(n)
        return tuple(map(tuple, out))


def dependencies(graph: Graph, section: Section) -> Dependencies:
    """Of one section of a graph."""
    storage = {v.name: v.storage for v in graph.values}
    writer: dict[str, str] = {}
    readers: dict[str, dict[str, None]] = {}
    effect: dict[str, str] = {}
    before: dict[str, tuple[str, ...]] = {}
    ordering: dict[str, frozenset[str]] = {}
    for op in section.ops:
        if op.view:
            continue
        takes: dict[str, None] = {}
        waits: dict[str, None] = {}
        read, changed, made = accesses(op, storage)
        for s in read:
            if s in writer:
                takes[writer[s]] = None
            readers.setdefault(s, {})[op.name] = None
        for s in (*changed, *made):
            waits.update(readers.get(s, {}))
            writer[s], readers[s] = op.name, {}
        if op.effect is not None:
            if op.effect in effect:
                waits[effect[op.effect]] = None
            effect[op.effect] = op.name
        waits.update(dict.fromkeys(op.after))
        waits.pop(op.name, None)
        before[op.name] = tuple(takes | waits)
        ordering[op.name] = frozenset(waits.keys() - takes.keys())
    return Dependencies(tuple(before), before, ordering)


def accesses(op: Op, storage: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Storages that an operation reads (those it changes too), changes, and makes."""
    read = dict.fromkeys(storage[r] for r in (*op.reads, *op.mutates))
    changed = dict.fromkeys(storage[m] for m in op.mutates)
    made = dict.fromkeys(storage[o] for o in op.outputs if o is not None and storage[o] not in read)
    return tuple(read), tuple(changed), tuple(made)


def needed_operations(graph: Graph, removable: str) -> frozenset[str]:
    """Names of the operations that must stay: all that are not called ``removable``, and of these what something that is
    returned, changed or in turn needed takes from them."""
    storage = {v.name: v.storage for v in graph.values}
    wanted = {storage[n] for s in graph.sections for n in _returned(s)}
    changed_ever = {storage[m] for op in graph.ops for m in op.mutates}
    kept: set[str] = set()
    for op in reversed(graph.ops):
        if op.view:
            continue
        read, changed, made = accesses(op, storage)
        if op.target != removable or changed or any(s in wanted or s in changed_ever for s in made):
            kept.add(op.name)
            wanted.update(read)
    return frozenset(kept)


def _returned(section: Section) -> Sequence[str]:
    return [n for a in section.returns for n in refs_in(a)]
