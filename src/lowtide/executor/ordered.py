"""A Block + what was measured of it -> the same lines in an order that needs fewer bytes, at the sizes of a run.

Comes in: a Block, facts, the sizes of a run. Goes out: a Block; the same one where no order that we know of is better.
Promised: the numbers are the same, and so is what a failing check leaves behind. Beside what storages and effects say
(``schedule.memory_graph``), a line runs after

* the view with a place of its own (it makes a symbol known, or may be a copy) on which what it reads stands;
* the line that binds a symbol which it needs, or which a view of what it reads needs: where several know a symbol, the
  first does;
* every check of a number on which a symbol that it needs depends;
* whatever acts in front of it, if it acts too: checks, what writes its operands or draws random numbers, operators from
  outside torch, and blocks inside, which so keep their order among themselves.

What is compared is what a run holds on the device that it holds most on: the slab, which is there from begin to end, and the
most that lies outside it at once. An order that lifts that of another device is none.
The entrants of the order engine are all that is tried: this happens between two calls of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lowtide.executor.block import NESTED, SCALAR, VIEW, Block, Line, needed, trusted
from lowtide.executor.capture import ASSERT, ITEM
from lowtide.executor.lives import layout_symbols, managed, memory_of
from lowtide.ir.graph import with_views
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.lifetime import timeline
from lowtide.order.engine import reorder
from lowtide.schedule.schedule import OpFacts


def ordered(
    block: Block,
    facts: Mapping[str, OpFacts],
    copied: frozenset[str],
    bindings: Mapping[str, int],
    inside: Mapping[str, int],
    stays: Sequence[bool] = (),
) -> Block:
    """The block in the best order known. ``inside``: bytes of the slabs of blocks inside, by the name of their buffer; the rest
    as for ``lives.lives_of``."""
    ours = frozenset(managed(block, facts, copied, stays))
    # A view that makes something known, or may turn out to be a copy, has a place of its own like any other line.
    fixed = tuple(x if _is_free(x) else replace(x, op=replace(x.op, view=False)) for x in block.lines)
    found = memory_of(_with_lines(block, fixed), facts, ours, bindings, inside)
    later = waits(block)
    nodes = tuple(replace(n, after=tuple(dict.fromkeys((*n.after, *later[n.name])))) for n in found.nodes)
    graph = MemoryGraph(found.buffers, nodes)
    in_slab = ours | inside.keys()
    slab = _only(graph, in_slab.__contains__, works=False)
    outside = _only(graph, lambda name: name not in in_slab, works=True)

    def held(order: Sequence[int], device: str) -> int:
        return timeline(slab, order, device=device).peak + timeline(outside, order, device=device).peak

    before = {d: held(range(len(nodes)), d) for d in block.devices}
    main = max(before, key=before.__getitem__, default="cpu")
    worst = sum(b.nbytes for b in graph.buffers) + sum(n.workspace for n in nodes)

    def objective(_: MemoryGraph, order: Sequence[int]) -> int:
        lifted = any(held(order, d) > nbytes for d, nbytes in before.items() if d != main)
        return worst if lifted else held(order, main)

    best = reorder(graph, budget_steps=0, objective=objective, device=main)
    if best.peak >= best.candidates["program"]:
        return block
    by_name = {x.op.name: x for x in block.lines}
    return _with_lines(block, _with_views([by_name[nodes[i].name] for i in best.order], block))


def waits(block: Block) -> dict[str, tuple[str, ...]]:
    """For each line that is more than a view the names of those that it must run after, though it takes no bytes from them."""
    known = block.known_at
    needs = _needs(block)
    made_by: dict[str, frozenset[str]] = {}  # value -> the line of a view with a place of its own under it
    roots: dict[str, frozenset[str]] = {}  # what was bound here of that from which a number was computed
    checks: list[tuple[str, frozenset[str]]] = []
    acted: str | None = None
    out: dict[str, tuple[str, ...]] = {}
    for i, line in enumerate(block.lines):
        made = [o for o in line.op.outputs if o is not None]
        under_views = frozenset[str]().union(*(made_by.get(r, frozenset()) for r in line.op.reads))
        if _is_free(line):
            made_by.update(dict.fromkeys(made, under_views))
            continue
        if line.kind == VIEW:
            made_by.update(dict.fromkeys(made, frozenset((line.op.name,))))
        wanted = sorted(s for s in needs[line.op.name] if 0 <= known.get(s, -1) < i)
        found = dict.fromkeys(block.lines[known[s]].op.name for s in wanted)
        under = frozenset[str]().union(*(roots.get(s, frozenset((s,))) for s in wanted))
        found |= dict.fromkeys(name for name, about in checks if about & under)
        found |= dict.fromkeys(sorted(under_views))
        if _acts(line):
            found |= {acted: None} if acted is not None else {}
            acted = line.op.name
        if line.op.target == ASSERT:
            checks.append((line.op.name, under))
        elif line.kind == SCALAR and line.op.target != ITEM:
            roots.update(dict.fromkeys((b.symbol for b in line.binds), under))
        out[line.op.name] = tuple(found)
    return out


def _is_free(line: Line) -> bool:
    """Whether a line is a view that costs nothing and makes nothing known, so that it stands wherever it is used."""
    return line.kind == VIEW and not line.computed and not line.binds


def _acts(line: Line) -> bool:
    """Whether a line does more than make its results."""
    if line.kind == SCALAR:
        return line.op.target == ASSERT
    return bool(line.op.mutates) or line.op.effect is not None or line.kind in NESTED or not trusted(line.op)


def _needs(block: Block) -> dict[str, frozenset[str]]:
    """Symbols that each line needs: in its arguments, in its results unless it binds them, and in views of what it reads."""
    value, views = block.graph.value, dict[str, frozenset[str]]()
    out: dict[str, frozenset[str]] = {}
    for line in block.lines:
        made = [o for o in line.op.outputs if o is not None]
        found = needed(line).union(*(layout_symbols(value[o]) for o in made))
        found = found.union(*(views.get(r, frozenset()) for r in line.op.reads)) - {b.symbol for b in line.binds}
        out[line.op.name] = found
        if _is_free(line):
            views.update(dict.fromkeys(made, found))
    return out


def _only(graph: MemoryGraph, kept: Callable[[str], bool], *, works: bool) -> MemoryGraph:
    """The graph with the bytes of some buffers alone; ``works``: and those of workspaces."""
    buffers = tuple(b if kept(b.name) else replace(b, nbytes=0) for b in graph.buffers)
    return MemoryGraph(buffers, graph.nodes if works else tuple(replace(n, workspace=0) for n in graph.nodes))


def _with_views(lines: Sequence[Line], block: Block) -> tuple[Line, ...]:
    """The lines with every view in front of the first that reads it, and views that only leave the block at the end."""
    (section,) = block.graph.sections
    views = replace(section, ops=tuple(x.op for x in block.lines if _is_free(x)), returns=())
    by_name = {x.op.name: x for x in block.lines}
    out = {op.name: by_name[op.name] for op in with_views(views, [x.op for x in lines])}
    return (*out.values(), *(x for x in block.lines if x.op.name not in out))


def _with_lines(block: Block, lines: Sequence[Line]) -> Block:
    """The block with its lines in another order, and its values as these define them."""
    at = {o: k for k, x in enumerate(lines, 1) for o in x.op.outputs if o is not None}
    (section,) = block.graph.sections
    graph = replace(
        block.graph,
        values=tuple(sorted(block.graph.values, key=lambda v: at.get(v.name, 0))),
        sections=(replace(section, ops=tuple(x.op for x in lines)),),
    )
    return replace(block, graph=graph, lines=tuple(lines))
