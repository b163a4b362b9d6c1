"""A MemoryGraph as JSON of version 1: reader, writer. The format is docs/schemas/order-graph-1.schema.json.

Comes in: JSON text or a file. Goes out: a MemoryGraph of which every rule of ``memory.graph`` holds, or a FileError
with the place (``nodes[3].reads[0]``) and the reason. ``loads(dumps(g)) == g``, so every peak survives the trip. Nodes that
do not come in order are put in order (``memory.sort``).
"""

from __future__ import annotations

from pathlib import Path

from lowtide.core import codec
from lowtide.core.codec import VERSION, Cursor
from lowtide.core.errors import VerifyError
from lowtide.memory.graph import Buffer, MemoryGraph, Node, storages
from lowtide.memory.groups import gather, grouped
from lowtide.memory.sort import positions

_NODE = ("reads", "writes", "after", "workspace", "inplace", "device", "group")
_BUFFER = ("input", "freeable", "output", "device", "alias_of", "allocator")


def load(path: str | Path) -> MemoryGraph:
    """The graph of a file (``-``: standard input). Raises FileError with place and reason."""
    return _graph(codec.read(path))


def loads(text: str, file: str = "<text>") -> MemoryGraph:
    """The graph of a JSON text. Raises FileError with place and reason."""
    return _graph(codec.loads(text, file))


def dumps(graph: MemoryGraph, *, indent: int | None = None) -> str:
    """JSON text of ``graph``; fields at their defaults are left out."""
    return codec.dumps(to_json(graph), indent=indent)


def to_json(graph: MemoryGraph) -> dict[str, object]:
    """The JSON object of ``graph``."""
    buffers: list[dict[str, object]] = []
    for b in graph.buffers:
        x: dict[str, object] = {"name": b.name, "nbytes": b.nbytes}
        x |= {key: True for key in ("input", "freeable", "output") if getattr(b, key)}
        if b.device != "cpu":
            x["device"] = b.device
        if b.alias_of is not None:
            x["alias_of"] = b.alias_of
        if b.allocator:
            x["allocator"] = b.allocator
        buffers.append(x)
    nodes: list[dict[str, object]] = []
    for n in graph.nodes:
        x = {"name": n.name, "reads": list(n.reads), "writes": list(n.writes)}
        if n.after:
            x["after"] = list(n.after)
        if n.workspace:
            x["workspace"] = n.workspace
        if n.inplace:
            x["inplace"] = [list(pair) for pair in n.inplace]
        if n.device != "cpu":
            x["device"] = n.device
        if n.group:
            x["group"] = n.group
        nodes.append(x)
    return {"version": VERSION, "buffers": buffers, "nodes": nodes}


def _graph(root: Cursor) -> MemoryGraph:
    top = root.fields(("version", "buffers", "nodes"))
    top["version"].version()
    buffers: dict[str, Buffer] = {}
    for at in top["buffers"].items():
        b = _buffer(at, buffers)
        buffers[b.name] = b
    names: dict[str, int] = {}
    listed = list(top["nodes"].items())
    for i, at in enumerate(listed):
        field = at.fields(("name",), _NODE)["name"]
        name = _name(field)
        if name in names:
            field.fail(f"a node {name!r} stands already at nodes[{names[name]}]")
        names[name] = i
    try:
        order = positions([_named(at) for at in listed], buffers)
    except VerifyError as e:
        top["nodes"].fail(f"not all nodes can run: {e}")
    reader = _Reader(buffers, names)
    nodes = tuple(reader.node(listed[i]) for i in order)
    for at, b in zip(top["buffers"].items(), buffers.values(), strict=True):
        if b.output and reader.source(b.name) is None:
            at.fail(f"{b.name!r} is an output, but nothing writes it")
    found = MemoryGraph(tuple(buffers.values()), nodes)
    if grouped(found):
        try:
            gather(found)
        except VerifyError as e:
            top["nodes"].fail(f"a group cannot stand together: {e}")
    return found


def _name(at: Cursor) -> str:
    name = at.text()
    if not name:
        at.fail("a name cannot be empty")
    return name


def _buffer(at: Cursor, known: dict[str, Buffer]) -> Buffer:
    f = at.fields(("name", "nbytes"), _BUFFER)
    name = _name(f["name"])
    if name in known:
        f["name"].fail(f"a buffer {name!r} stands already at buffers[{list(known).index(name)}]")
    flag = {key: key in f and f[key].flag() for key in ("input", "freeable", "output")}
    alias = f["alias_of"].text() if "alias_of" in f else None
    if alias is not None and alias not in known:
        f["alias_of"].fail(f"{name!r} stands on {alias!r}, which is not declared before it")
    if flag["freeable"] and not flag["input"]:
        f["freeable"].fail(f"{name!r} is freeable but no input: only an input is the caller's to give away")
    if alias is not None and flag["freeable"]:
        f["freeable"].fail(f"{name!r} stands on {alias!r}: say there whether the bytes are freeable")
    if alias is not None and flag["input"] and not known[alias].input:
        f["input"].fail(f"{name!r} is an input, but {alias!r}, on which it stands, is not")
    device = _name(f["device"]) if "device" in f else "cpu"
    if alias is not None and "device" in f and device != known[alias].device:
        f["device"].fail(f"{name!r} is on {device!r}, but {alias!r}, on which it stands, is on {known[alias].device!r}")
    if alias is not None:
        device = known[alias].device
    allocator = f["allocator"].text() if "allocator" in f else ""
    if alias is not None and allocator:
        f["allocator"].fail(f"{name!r} stands on {alias!r}: say there whose memory it is")
    return Buffer(name, f["nbytes"].whole(), device, flag["input"], flag["freeable"], flag["output"], alias, allocator)


def _named(at: Cursor) -> Node:
    """A node with the names that say where it may stand."""
    f = at.fields(("name",), _NODE)
    reads, writes, after = (tuple(x.text() for x in f[key].items()) if key in f else () for key in _NODE[:3])
    return Node(f["name"].text(), reads, writes, after)


class _Reader:
    """Reads nodes in the order in which they run and remembers who wrote what."""

    def __init__(self, buffers: dict[str, Buffer], names: dict[str, int]) -> None:
        self.buffers, self.names = buffers, names
        self.writer: dict[str, str] = {}
        self.storage = storages(buffers.values())
        self.parts: dict[str, str] = {}  # storage -> a node that wrote some name of it

    def source(self, name: str) -> str | None:
        """What a name stands for now: the node that wrote it or the nearest thing under it, or the input; else None."""
        at: str | None = name
        while at is not None:
            if at in self.writer:
                return self.writer[at]
            if self.buffers[at].input:
                return at
            at = self.buffers[at].alias_of
        return self.parts.get(self.storage[name])

    def node(self, at: Cursor) -> Node:
        """The node at a place of the list."""
        f = at.fields(("name",), _NODE)
        name = f["name"].text()
        reads = tuple(self._read(x, name) for x in f["reads"].items()) if "reads" in f else ()
        after = tuple(self._after(x, name) for x in f["after"].items()) if "after" in f else ()
        writes: list[str] = []
        for x in f["writes"].items() if "writes" in f else ():
            writes.append(self._write(x, name))
            self.writer[writes[-1]] = name
            self.parts[self.storage[writes[-1]]] = name
        pairs = tuple(_pair(x, reads, writes) for x in f["inplace"].items()) if "inplace" in f else ()
        return Node(
            name,
            reads,
            tuple(writes),
            after,
            f["workspace"].whole() if "workspace" in f else 0,
            pairs,
            _name(f["device"]) if "device" in f else "cpu",
            _name(f["group"]) if "group" in f else "",
        )

    def _known(self, at: Cursor) -> str:
        name = at.text()
        if name not in self.buffers:
            at.fail(f"there is no buffer {name!r}")
        return name

    def _read(self, at: Cursor, node: str) -> str:
        name = self._known(at)
        if self.source(name) is None:
            at.fail(f"{node!r} reads {name!r}, which no other node writes and which is no input")
        return name

    def _after(self, at: Cursor, node: str) -> str:
        name = at.text()
        if name not in self.names:
            at.fail(f"there is no node {name!r}")
        if name == node:
            at.fail(f"{node!r} cannot run after itself")
        return name

    def _write(self, at: Cursor, node: str) -> str:
        name = self._known(at)
        if self.buffers[name].input:
            at.fail(f"{node!r} writes the input {name!r}: a mutation writes a buffer of its own that is alias_of it")
        if name in self.writer:
            at.fail(f"{node!r} writes {name!r}, which {self.writer[name]!r} has written already")
        return name


def _pair(at: Cursor, reads: tuple[str, ...], writes: list[str]) -> tuple[str, str]:
    ends = [x.text() for x in at.items()]
    if len(ends) != 2:
        at.fail("an in-place pair is [a read buffer, a written buffer]")
    if ends[0] not in reads:
        at.fail(f"{ends[0]!r} is not among the node's reads")
    if ends[1] not in writes:
        at.fail(f"{ends[1]!r} is not among the node's writes")
    return ends[0], ends[1]
