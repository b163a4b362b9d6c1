"""Block + facts -> Lives: which storages are managed, when each needs its bytes, and which share them for sure.

Comes in: a Block, what was measured of its operations, and the sizes of the first run. Goes out: Lives. Promised: managed
are only results of operations that write into given bytes, and of loops, whose size is known before the line, and
that are neither inputs, constants nor results, nor stand on such; a life reaches to the last use of any alias; a branch's or
loop's own slab, one per device, is a buffer of the step that runs it. Lifetimes are those of ``memory.lifetime``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lowtide.executor.block import CALL, LOOP, NESTED, SCAN, STACK, Block, Line, needed, trusted
from lowtide.executor.groups import Life
from lowtide.ir.graph import Graph, Op, Ref, Value, refs_in, specialise
from lowtide.ir.symbolic import symbols_of
from lowtide.memory.graph import Buffer, MemoryGraph
from lowtide.memory.lifetime import lifetimes
from lowtide.plan.plan import alignment_of
from lowtide.schedule.schedule import OpFacts, memory_graph, schedule, swapped

_FOLDED = 4096  # bytes of a value that is kept because it depends on nothing
_UNSET = ("aten.empty", "aten.new_empty")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many values there are of each kind: results of lines that get bytes from the planner, and the rest.

    borrowed: views of managed values, which own nothing. plain: everything else that is a tensor.
    """

    managed: int
    plain: int
    scalars: int
    borrowed: int

    @property
    def unmanaged(self) -> int:
        """All that the planner gives no bytes."""
        return self.plain + self.scalars + self.borrowed


@dataclass(frozen=True)
class Lives:
    """``lives``: one per buffer, in order; a buffer is a chain of storages that continue in each other's bytes, or the
    slab of a nested block on one device. ``buffer``: managed storage (or a name in ``nested_slabs``) -> index of its buffer.
    ``order``: managed storages, in order of birth."""

    lives: tuple[Life, ...]
    buffer: Mapping[str, int]
    order: tuple[str, ...]
    counts: Counts


def nested_slabs(line: Line) -> dict[str, str]:
    """By device the name under which a branch's or loop's slab there is a buffer of the surrounding block; nothing for other
    lines."""
    return {d: f"~{line.op.name}@{d}" for b in line.blocks for d in b.devices}


def managed(
    block: Block, facts: Mapping[str, OpFacts], copied: frozenset[str], stays: Sequence[bool] = ()
) -> tuple[str, ...]:
    """Managed storages in order of birth, without what is always smaller than what each would take at least in a slab.
    ``copied``: operations whose results are not trusted. ``stays``: which of the first results of the block somebody copies as
    soon as it ended, so that they need no bytes of their own."""
    leaves = (a for k, a in enumerate(block.returns) if not any(stays[k : k + 1]))
    returned = frozenset(block.graph.value[n].storage for a in leaves for n in refs_in(a))
    found = _written(block, facts, copied, returned | block.given_storages | _given_away(block))
    layout = {n: block.graph.value[n].layout for n in found}
    return tuple(n for n in found if not (layout[n].static and layout[n].extent < alignment_of(layout[n].device)))


def _given_away(block: Block) -> frozenset[str]:
    """Storages that an operator from outside torch may keep, or that the program puts under another tensor."""
    storage = {v.name: v.storage for v in block.graph.values}
    kept = {storage[r] for line in block.lines if line.kind == CALL and not trusted(line.op) for r in line.op.reads}
    return swapped((line.op for line in block.lines), storage) | kept


def staying(block: Block) -> dict[str, tuple[bool, ...]]:
    """Per loop in a block, by the name of its operation: which results of a turn are copied as soon as it ended: carried
    values that end in planned bytes of the block, and rows. Says the same before anything was measured as after."""
    ours = frozenset(managed(block, {}, frozenset()))
    loops = [x for x in block.lines if x.kind in (LOOP, STACK, SCAN)]
    return {
        x.op.name: tuple(x.kind == STACK or k >= x.carried or o in ours for k, o in enumerate(x.op.outputs))
        for x in loops
    }


def managed_outputs(block: Block, facts: Mapping[str, OpFacts], copied: frozenset[str]) -> tuple[str, ...]:
    """Results of the block that could be written into bytes given to them, in order; none of a nested block."""
    if block.is_nested:
        return ()
    found = _written(block, facts, copied, block.given_storages)
    return tuple(n for n in found if n in block.returned)


def foldable(block: Block) -> frozenset[str]:
    """Operations whose one result is small, depends on nothing, and is only read: they are worked out once."""
    value = block.graph.value
    written = {value[m].storage for line in block.lines for m in line.op.mutates}
    taken = {value[r].storage for line in block.lines if not trusted(line.op) for r in line.op.reads} | block.returned
    out: set[str] = set()
    for line in block.lines:
        op = line.op
        if line.kind != CALL or op.reads or op.mutates or op.effect or not trusted(op) or needed(line):
            continue
        if len(op.outputs) != 1 or op.outputs[0] is None or op.target.startswith(_UNSET):
            continue
        made = value[op.outputs[0]]
        ours = made.storage == made.name and made.name not in written | taken
        if ours and made.layout.static and made.layout.extent <= _FOLDED:
            out.add(op.name)
    return frozenset(out)


def _written(
    block: Block, facts: Mapping[str, OpFacts], copied: frozenset[str], taken: frozenset[str]
) -> tuple[str, ...]:
    """Storages that lines could write into bytes given to them, in order, without those ``taken`` by others."""
    known, plain = block.known_at, copied | foldable(block)
    out: list[str] = []
    for i, line in enumerate(block.lines):
        values = [block.graph.value[o] for o in line.op.outputs if o is not None]
        sized = [v for v in values if all(known.get(s, i) < i for s in layout_symbols(v))]
        whole = line.op.name not in plain and len(sized) == len(line.op.outputs)
        if line.kind not in (LOOP, SCAN) and not (whole and _takes_bytes(line, facts.get(line.op.name))):
            continue
        ours = [v for v in sized if v.storage == v.name and v.storage not in taken]
        out += [v.name for v in ours if v.layout.offset == 0]
    return tuple(out)


def _takes_bytes(line: Line, facts: OpFacts | None) -> bool:
    """Whether a call writes its results into bytes that it is given."""
    if line.kind != CALL or facts is None or line.op.mutates:
        return False
    return facts.out is not None and not facts.restride


def layout_symbols(value: Value) -> frozenset[str]:
    """Symbols of a value's layout."""
    return frozenset(s for d in (*value.layout.size, *value.layout.stride, value.layout.offset) for s in symbols_of(d))


def static(block: Block, bindings: Mapping[str, int]) -> Graph:
    """The block's graph at given sizes."""
    graph = block.graph
    return specialise(graph, {s: int(bindings.get(s, 0)) for s in graph.symbols})


def lives_of(
    block: Block,
    facts: Mapping[str, OpFacts],
    copied: frozenset[str],
    bindings: Mapping[str, int],
    stays: Sequence[bool] = (),
) -> Lives:
    """The lives of a block's managed storages. ``bindings``: sizes of a run, for the library of schedules; they decide
    nothing that would be wrong at other sizes. ``stays``: as for ``managed``."""
    ours = managed(block, facts, copied, stays)
    graph = memory_of(block, facts, frozenset(ours), bindings, {})
    device = {n: block.graph.value[n].layout.device for n in ours}
    device |= {name: d for line in block.lines for d, name in nested_slabs(line).items()}
    root: dict[str, str] = {}
    spans: dict[str, tuple[int, int]] = {}
    for x in sorted(lifetimes(graph), key=lambda x: x.first):
        if x.name not in device:
            continue
        top = root.get(x.takes_over, x.name)
        root[x.name] = top
        first, end = spans.get(top, (x.first, x.end))
        spans[top] = (first, max(end, x.end))
    index = {name: i for i, name in enumerate(spans)}
    lives = tuple(Life(name, first, end, device[name]) for name, (first, end) in spans.items())
    buffer = {name: index[top] for name, top in root.items()}
    order = tuple(n for n in ours if n in buffer)
    return Lives(lives, buffer, order, _count(block, frozenset(order)))


def memory_of(
    block: Block,
    facts: Mapping[str, OpFacts],
    ours: frozenset[str],
    bindings: Mapping[str, int],
    inside: Mapping[str, int],
) -> MemoryGraph:
    """Lines as nodes, with the in-place pairs that hold at all sizes between managed storages (``ours``). ``inside``: bytes of
    the slabs of blocks inside, by the name of their buffer (one byte where that is not said)."""
    given = {name: replace(f, overwrite=None) for name, f in facts.items()}
    found = schedule(static(block, bindings), given)
    pairs = {s.op.name: _always(block.graph, s.op, s.inplace, ours) for s in found.steps}
    loops = [x for x in block.lines if x.kind in (LOOP, SCAN)]
    pairs |= {x.op.name: carried_pairs(block.graph, x, ours) for x in loops}
    graph = memory_graph(replace(found, steps=tuple(replace(s, inplace=pairs[s.op.name]) for s in found.steps)))
    return _with_nested(block, graph, inside)


def _always(
    graph: Graph, op: Op, pairs: tuple[tuple[str, str], ...], ours: frozenset[str]
) -> tuple[tuple[str, str], ...]:
    """Of the permitted in-place pairs those that hold at all sizes, between managed storages."""
    out: list[tuple[str, str]] = []
    for read, written in pairs:
        if read not in ours or written not in ours:
            continue
        result = graph.value[written].layout
        same = all(graph.value[r].layout == result for r in op.reads if graph.value[r].storage == read)
        if same:
            out.append((read, written))
    return tuple(out)


def carried_pairs(graph: Graph, line: Line, ours: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Carried values that may end where they began: a turn writes there when it has read everything, and no later turn reads
    what came in. No result of a turn may be a carried operand or stand on one, or one result would be written over another before
    that was copied: a nested block returns copies of such (``emit._result``)."""
    value, op = graph.value, line.op
    again = {value[n].storage for a in op.args[line.carried :] for n in refs_in(a)}
    again |= {value[m].storage for m in op.mutates}
    out: list[tuple[str, str]] = []
    for a, made in zip(op.args[: line.carried], op.outputs[: line.carried], strict=True):
        if isinstance(a, Ref) and made in ours and a.name in ours and a.name not in again:
            out += [(a.name, made)] if value[a.name].layout == value[made].layout else []
    return tuple(out)


def _with_nested(block: Block, graph: MemoryGraph, inside: Mapping[str, int]) -> MemoryGraph:
    """The memory graph with the slabs of each nested block as buffers of its line, and uses inside blocks as reads."""
    slabs = {line.op.name: nested_slabs(line) for line in block.lines if line.kind in NESTED}
    buffers = [Buffer(n, inside.get(n, 1), device) for names in slabs.values() for device, n in names.items()]
    nodes = [replace(n, writes=(*n.writes, *slabs.get(n.name, {}).values())) for n in graph.nodes]
    return MemoryGraph((*graph.buffers, *buffers), tuple(nodes))


def _count(block: Block, order: frozenset[str]) -> Counts:
    values = list(block.graph.values)
    ours = sum(v.name in order for v in values)
    borrowed = sum(v.storage in order and v.name not in order for v in values)
    inputs = {i.name for i in block.inputs if isinstance(i, Ref)} | set(block.graph.constants)
    plain = sum(v.storage not in order and v.name not in inputs for v in values)
    scalars = sum(len(line.binds) for line in block.lines if line.kind == "scalar")
    return Counts(ours, plain, scalars, borrowed)


def last_uses(block: Block) -> dict[str, int]:
    """Value -> index of the last line that mentions it; what is returned has none."""
    last: dict[str, int] = {}
    for i, line in enumerate(block.lines):
        for n in (*line.op.reads, *line.op.mutates, *(o for o in line.op.outputs if o is not None)):
            last[n] = i
    for n in (*block.graph.constants, *(n for a in block.returns for n in refs_in(a))):
        last.pop(n, None)
    return last
