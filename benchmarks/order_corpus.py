"""Captured memory graphs on disk, and their parts. No torch.

A file ``NAME.json.gz`` holds the joint graph of one compiled training graph; ``parts`` gives the forward and the backward
alone as the order engine would see them if they were compiled apart.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.memory.json import dumps, loads

FOLDER = Path(__file__).parent / "corpus/order"
CALL = "call:"


def shortened(graph: MemoryGraph) -> MemoryGraph:
    """The same graph with numbers for names; calls of a section keep theirs."""
    buffer = {b.name: f"b{i}" for i, b in enumerate(graph.buffers)}
    node = {n.name: n.name if n.name.startswith(CALL) else f"n{i}" for i, n in enumerate(graph.nodes)}
    buffers = [replace(b, name=buffer[b.name], alias_of=b.alias_of and buffer[b.alias_of]) for b in graph.buffers]
    nodes = [
        replace(
            n,
            name=node[n.name],
            reads=tuple(buffer[x] for x in n.reads),
            writes=tuple(buffer[x] for x in n.writes),
            after=tuple(node[x] for x in n.after),
            inplace=tuple((buffer[r], buffer[w]) for r, w in n.inplace),
        )
        for n in graph.nodes
    ]
    return MemoryGraph(tuple(buffers), tuple(nodes))


def write(folder: Path, name: str, graph: MemoryGraph) -> int:
    """Write one graph; the bytes of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    data = gzip.compress(dumps(shortened(graph)).encode(), 9, mtime=0)
    (folder / f"{name}.json.gz").write_bytes(data)
    return len(data)


def read(path: Path) -> MemoryGraph:
    """The graph of a file, packed or not."""
    data = path.read_bytes()
    return loads((gzip.decompress(data) if path.suffix == ".gz" else data).decode(), path.name)


def parts(graph: MemoryGraph) -> dict[str, MemoryGraph]:
    """``joint``; where the graph has two sections also ``forward``, which keeps what is read later, and ``backward``,
    which is given that and may free it, unless the caller keeps it."""
    cuts = [i for i, n in enumerate(graph.nodes) if n.name.startswith(CALL)]
    if len(cuts) != 1:
        return {"joint": graph}
    early, late = graph.nodes[: cuts[0]], graph.nodes[cuts[0] + 1 :]
    storage = graph.storage
    made = {storage[x] for n in early for x in n.writes}
    later = {storage[x] for n in late for x in (*n.reads, *n.writes)}

    def forward(b: Buffer) -> Buffer:
        return replace(b, output=b.output or (b.name in made & later))

    def backward(b: Buffer) -> Buffer:
        if storage[b.name] not in made:
            return b
        kept = graph.buffer[storage[b.name]].output or b.output
        return replace(b, input=True, freeable=b.alias_of is None and not kept, output=False)

    return {
        "forward": _cut(graph, early, forward),
        "backward": _cut(graph, late, backward),
        "joint": graph,
    }


def _cut(graph: MemoryGraph, nodes: tuple[Node, ...], change) -> MemoryGraph:
    names = {n.name for n in nodes}
    used = {x for n in nodes for x in (*n.reads, *n.writes)}
    used |= {graph.storage[x] for x in used}
    kept = [change(b) for b in graph.buffers if b.name in used]
    return MemoryGraph(tuple(kept), tuple(replace(n, after=tuple(a for a in n.after if a in names)) for n in nodes))
