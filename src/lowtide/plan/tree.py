"""An allocation tree: which buffers share bytes, decided at hint sizes and right for any sizes.

Comes in: requests with a size that may be an expression, its hint, and live ranges. Goes out: the size of the tree and one
offset per request, as expressions (``ir.symbolic``) over size names and names that the tree defines for its own splits, so
that no expression grows with the tree. Promised: two requests whose live ranges overlap never share a byte, whatever
values the sizes have, 0 included; offsets are multiples of the alignment; deterministic; nothing recurses.

The idea of temporal and spatial splits is that of PyTorch Inductor's memory planning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowtide.core.errors import BugError
from lowtide.core.units import align_up
from lowtide.ir.symbolic import Dim, Expr
from lowtide.plan.ranges import LiveRanges, joined

LEAF, EMPTY, TEMPORAL, SPATIAL = "leaf", "empty", "temporal", "spatial"


@dataclass(frozen=True, slots=True)
class Request:
    """``nbytes`` alive in ``ranges``; ``hint`` is its value at example sizes (bytes). ``unbacked``: the size is not
    known before the request begins, and ``hint`` is a guess (``plan.pools`` keeps such requests by themselves).
    ``output``: the caller keeps it. ``allocator``: whose memory it is, as ``memory.graph.Buffer`` says."""

    name: str
    nbytes: Dim
    hint: int
    ranges: LiveRanges
    output: bool = False
    unbacked: bool = False
    device: str = "cpu"
    allocator: str = ""


class Node:
    """One node: a request (leaf), filler of a known hint (empty), children that are disjoint in time in one place
    (temporal), or two children side by side (spatial). ``hint`` (bytes) and ``ranges`` are always those of what is below;
    only a placement that succeeded changes them."""

    __slots__ = ("children", "hint", "kind", "parent", "ranges", "request")

    def __init__(self, kind: str, children: Sequence[Node] = (), request: Request | None = None, hint: int = 0) -> None:
        self.kind = kind
        self.children = list(children)
        self.request = request
        self.hint = hint if request is None else request.hint
        self.ranges = LiveRanges() if request is None else request.ranges
        self.parent: Node | None = None

    def is_empty(self) -> bool:
        """Pure filler: no request below."""
        return self.kind == EMPTY or (self.kind == TEMPORAL and all(c.kind == EMPTY for c in self.children))


def leaf(request: Request) -> Node:
    """A placed request; it can host no other."""
    return Node(LEAF, request=request)


def temporal(children: Sequence[Node], alignment: int) -> Node:
    """Children that are disjoint in time, in the same place."""
    return _adopt(Node(TEMPORAL, children), alignment)


def beside(left: Node, right: Node, alignment: int) -> Node:
    """Two regions: left, then right at the aligned end of left."""
    return _adopt(Node(SPATIAL, (left, right)), alignment)


def with_room(node: Node, hint: int, alignment: int) -> Node:
    """``node`` and beside it filler up to ``hint`` bytes; ``node`` itself where no aligned byte is left."""
    extra = hint - align_up(node.hint, alignment)
    if extra < 1:
        return node
    filler = temporal([Node(EMPTY, hint=extra)], alignment)
    hosting = temporal([node], alignment) if node.kind == LEAF else node
    return beside(hosting, filler, alignment)


def _adopt(node: Node, alignment: int) -> Node:
    for child in node.children:
        child.parent = node
    _refresh(node, alignment)
    return node


def _refresh(node: Node, alignment: int) -> None:
    if node.kind == SPATIAL:
        left, right = node.children
        node.hint = align_up(left.hint, alignment) + right.hint
    else:
        node.hint = max(c.hint for c in node.children)
    node.ranges = joined(c.ranges for c in node.children)


def allocate(root: Node, request: Request, alignment: int, *, last: bool) -> bool:
    """Whether ``root`` could host the request; only with ``last`` may that make it larger. A failed try changes nothing.

    Regions are tried from the left; a region in time whose one overlapping child may host the request asks that child.
    """
    todo = [(root, last)]
    while todo:
        node, may_grow = todo.pop()
        if node.kind == SPATIAL:
            todo.append((node.children[1], may_grow))
            todo.append((node.children[0], False))
        elif node.kind == TEMPORAL and (may_grow or request.hint <= node.hint):
            meeting = [c for c in node.children if c.ranges.overlaps(request.ranges)]
            if not meeting:
                _host(node, request, alignment)
                return True
            if len(meeting) == 1:
                todo.append((meeting[0], may_grow))
    return False


def _host(node: Node, request: Request, alignment: int) -> None:
    """Put the request beside the children of a temporal split, in time."""
    slot, fresh = node.hint, leaf(request)
    if request.hint < slot:
        fresh = with_room(fresh, slot, alignment)
    elif request.hint > slot:
        node.children = [c if c.kind == EMPTY else with_room(c, request.hint, alignment) for c in node.children]
    lone = len(node.children) == 1 and node.children[0].kind == EMPTY and fresh.hint >= slot
    node.children = [fresh] if lone else [*node.children, fresh]
    for child in node.children:
        child.parent = node
    above: Node | None = node
    while above is not None:
        _refresh(above, alignment)
        above = above.parent


@dataclass(frozen=True, slots=True)
class Laid:
    """A finished tree. ``sizes``: names of splits with their expression, each over names before it. ``nbytes``: of the
    whole; ``offsets``: per request name, in bytes; both over size names and the names of ``sizes``."""

    sizes: tuple[tuple[str, Dim], ...]
    nbytes: Dim
    offsets: tuple[tuple[str, Dim], ...]


def finalise(root: Node, alignment: int, prefix: str) -> Laid:
    """Fix all offsets, from 0 at the root. Filler takes no bytes, a split with one child is that child.

    Raises:
        BugError: a request stands in the tree twice.
    """
    order, todo = list[Node](), [root]
    while todo:
        node = todo.pop()
        order.append(node)
        todo.extend(node.children)
    named: list[tuple[str, Dim]] = []
    whole: set[str] = set()  # names of sizes that are multiples of the alignment

    def name(dim: Dim) -> Dim:
        if isinstance(dim, int) or dim.op == "sym":
            return dim
        named.append((f"{prefix}_n{len(named)}", dim))
        if is_multiple(dim, alignment, whole):
            whole.add(named[-1][0])
        return Expr("sym", (named[-1][0],))

    size: dict[int, Dim] = {}
    for node in reversed(order):
        size[id(node)] = name(_size(node, [size[id(c)] for c in node.children], alignment, whole))
    at: dict[int, Dim] = {id(root): 0}
    offsets: dict[str, Dim] = {}
    for node in order:
        if node.request is not None:
            if node.request.name in offsets:
                raise BugError(f"{node.request.name} is placed twice")
            offsets[node.request.name] = at[id(node)]
        for child in node.children:
            at[id(child)] = at[id(node)]
        if node.kind == SPATIAL and not node.children[1].is_empty():
            left, right = node.children
            step = aligned(size[id(left)], alignment, whole)
            at[id(right)] = name(plus(at[id(node)], step))
    return Laid(tuple(named), size[id(root)], tuple(sorted(offsets.items())))


def _size(node: Node, below: Sequence[Dim], alignment: int, whole: set[str]) -> Dim:
    if node.request is not None:
        return node.request.nbytes
    if node.kind == EMPTY:
        return 0
    if node.kind == TEMPORAL:
        return most(below)
    if node.children[1].is_empty():
        return below[0]
    return plus(aligned(below[0], alignment, whole), below[1])


def plus(a: Dim, b: Dim) -> Dim:
    """``a + b``, computed where both are numbers."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return b if a == 0 else a if b == 0 else Expr("+", (a, b))


def most(parts: Sequence[Dim]) -> Dim:
    """The largest of sizes that are never below 0."""
    number = max((p for p in parts if isinstance(p, int)), default=0)
    rest = [p for k, p in enumerate(parts) if not isinstance(p, int) and p not in parts[:k]]
    args: list[Dim] = [*rest, number] if number else list(rest)
    if not args:
        return 0
    return args[0] if len(args) == 1 else Expr("max", tuple(args))


def aligned(dim: Dim, alignment: int, whole: set[str] | frozenset[str] = frozenset()) -> Dim:
    """``dim`` rounded up to a multiple of ``alignment``; itself where it provably is one."""
    if isinstance(dim, int):
        return align_up(dim, alignment)
    if is_multiple(dim, alignment, whole):
        return dim
    return Expr("*", (Expr("ceildiv", (dim, alignment)), alignment))


def is_multiple(dim: Dim, alignment: int, whole: set[str] | frozenset[str] = frozenset()) -> bool:
    """Whether ``dim`` is provably a multiple of ``alignment``; ``whole``: names of which that is known."""
    todo = [dim]
    while todo:
        d = todo.pop()
        if isinstance(d, int):
            if d % alignment:
                return False
        elif d.op in ("+", "max", "min"):
            todo.extend(a for a in d.args if not isinstance(a, str))
        elif d.op == "sym":
            if d.args[0] not in whole and alignment != 1:
                return False
        elif d.op != "*" or not any(isinstance(a, int) and a % alignment == 0 for a in d.args):
            return alignment == 1
    return True
