"""A MemoryGraph as lists of small integers: what every order, bound and search computes with.

Comes in: a MemoryGraph (and the device whose bytes count; all of them added up by default). Goes out: ``Flat``, where
nodes and storages are numbers, storages that cost nothing are gone and what never changes is added up once.
``live_bytes`` replays an order over it. Promised: same bytes in every step as ``memory.lifetime.timeline``.

Alive bytes are a function of the *set* of nodes that have run: a storage is there when one of its makers has run and
not all of its holders have. The searches rest on that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lowtide.memory.graph import MemoryGraph, may_share


@dataclass(frozen=True, slots=True)
class Flat:
    """Nodes ``0..n-1`` and counted storages ``0..m-1``.

    preds, succs: direct ordering edges, each ascending.
    size: bytes per storage.
    holds: per node the storages that it reads or writes, ascending.
    makes: per node the storages whose bytes it may begin (those of ``holds`` that no earlier node surely began).
    makers: per storage the nodes that may begin it; empty if it is alive at the start.
    holders: per storage how many nodes hold it, and one more if it outlives the last step.
    outlives: per storage whether it is still alive after the last step.
    alloc: per node the bytes of storages that it alone can begin.
    shared: per node the storages that it or another node may begin.
    workspace: per node the bytes alive in its step only.
    pairs: per node the permitted (dying, begun) storages, all static conditions checked.
    base: bytes alive before the first step.
    """

    preds: list[list[int]]
    succs: list[list[int]]
    size: list[int]
    holds: list[list[int]]
    makes: list[list[int]]
    makers: list[list[int]]
    holders: list[int]
    outlives: list[bool]
    alloc: list[int]
    shared: list[list[int]]
    workspace: list[int]
    pairs: list[list[tuple[int, int]]]
    base: int

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.preds)

    @property
    def m(self) -> int:
        """Number of counted storages."""
        return len(self.size)


def flatten(graph: MemoryGraph, *, device: str | None = None) -> Flat:
    """The flat form of ``graph``; ``device`` keeps only the bytes of one device."""
    preds = [list(p) for p in graph.predecessors]
    number = _counted(graph, device)
    held = [
        sorted({number[s] for name in (*node.reads, *node.writes) if (s := graph.storage[name]) in number})
        for node in graph.nodes
    ]
    makers: list[list[int]] = [[] for _ in number]
    for i, node in enumerate(graph.nodes):
        for b in sorted({number[s] for name in node.writes if (s := graph.storage[name]) in number}):
            if not any(p in makers[b] for p in preds[i]):
                makers[b].append(i)
    outlives = [False] * len(number)
    size = [0] * len(number)
    for b in graph.buffers:
        at = number.get(graph.storage[b.name])
        if at is not None:
            outlives[at] |= b.output
            if b.alias_of is None:
                size[at] = b.nbytes
                if b.input:
                    makers[at] = []
    pairs: list[list[tuple[int, int]]] = []
    for i, node in enumerate(graph.nodes):
        kept: set[tuple[int, int]] = set()
        for read, written in node.inplace:
            r, w = number.get(graph.storage[read]), number.get(graph.storage[written])
            if r is None or w is None or r == w or r not in held[i] or i not in makers[w]:
                continue
            same = may_share(graph.buffer[graph.storage[read]], graph.buffer[graph.storage[written]])
            if same and size[r] >= size[w] and not outlives[r]:
                kept.add((r, w))
        pairs.append(sorted(kept))
    workspace = [x.workspace if device is None or x.device == device else 0 for x in graph.nodes]
    return build(preds, size, held, makers, outlives, workspace, pairs)


def _counted(graph: MemoryGraph, device: str | None) -> dict[str, int]:
    """Storage name -> number, for storages that cost bytes on the device and that some node touches."""
    touched: set[str] = set()
    for node in graph.nodes:
        for name in (*node.reads, *node.writes):
            touched.add(graph.storage[name])
    number: dict[str, int] = {}
    for b in graph.buffers:
        ours = b.alias_of is None and (b.freeable or not b.input) and b.nbytes > 0
        if ours and b.name in touched and (device is None or b.device == device):
            number[b.name] = len(number)
    return number


def build(
    preds: list[list[int]],
    size: list[int],
    holds: list[list[int]],
    makers: list[list[int]],
    outlives: list[bool],
    workspace: list[int],
    pairs: list[list[tuple[int, int]]],
    extra: int = 0,
) -> Flat:
    """A Flat from its independent parts; storages without makers are alive at the start, ``extra`` bytes always."""
    n = len(preds)
    succs: list[list[int]] = [[] for _ in range(n)]
    for i, before in enumerate(preds):
        for p in before:
            succs[p].append(i)
    holders = [1 if o else 0 for o in outlives]
    for held in holds:
        for b in held:
            holders[b] += 1
    makes: list[list[int]] = [[] for _ in range(n)]
    shared: list[list[int]] = [[] for _ in range(n)]
    alloc = [0] * n
    for b, nodes in enumerate(makers):
        for i in nodes:
            makes[i].append(b)
            if len(nodes) == 1:
                alloc[i] += size[b]
            else:
                shared[i].append(b)
    base = extra + sum(size[b] for b, nodes in enumerate(makers) if not nodes)
    return Flat(preds, succs, size, holds, makes, makers, holders, outlives, alloc, shared, workspace, pairs, base)


def saved_bytes(pairs: Iterable[tuple[int, int]], size: Sequence[int]) -> int:
    """Most bytes that in-place ``pairs`` (dying, begun), all of them possible now, save together."""
    options: dict[int, list[int]] = {}
    for r, w in pairs:
        options.setdefault(w, []).append(r)
    if len(options) <= 1:
        return sum(size[w] for w in options)
    holder: dict[int, int] = {}
    total = 0
    for w in sorted(options, key=lambda x: (-size[x], x)):
        if _serve(w, options, holder):
            total += size[w]
    return total


def _serve(w: int, options: dict[int, list[int]], holder: dict[int, int]) -> bool:
    """Give ``w`` one of its options, moving earlier holders along an augmenting path where that helps."""
    asked: dict[int, int] = {}
    queue = [w]
    for asking in queue:
        for r in options[asking]:
            if r in asked:
                continue
            asked[r] = asking
            if r in holder:
                queue.append(holder[r])
                continue
            back = {x: y for y, x in holder.items()}
            at = r
            while True:
                who = asked[at]
                holder[at] = who
                if who == w:
                    return True
                at = back[who]
    return False


def live_bytes(flat: Flat, order: Sequence[int]) -> list[int]:
    """Bytes alive while each step of ``order`` runs (workspace included, in-place pairs taken)."""
    left = flat.holders.copy()
    begun = [not nodes for nodes in flat.makers]
    size, holds, alloc, shared, pairs, workspace = (
        flat.size,
        flat.holds,
        flat.alloc,
        flat.shared,
        flat.pairs,
        flat.workspace,
    )
    total = flat.base
    out: list[int] = []
    for i in order:
        total += alloc[i]
        begins = 0
        for b in shared[i]:
            if not begun[b]:
                begins += size[b]
        total += begins
        live = total + workspace[i]
        if pairs[i]:
            possible = [(r, w) for r, w in pairs[i] if left[r] == 1 and not begun[w]]
            if possible:
                live -= saved_bytes(possible, size)
        out.append(live)
        for b in flat.makes[i]:
            begun[b] = True
        for b in holds[i]:
            left[b] -= 1
            if not left[b]:
                total -= size[b]
    return out


def peak_bytes(flat: Flat, order: Sequence[int]) -> int:
    """Most bytes alive at once under ``order``, the start included."""
    return max((flat.base, *live_bytes(flat, order)))
