"""The memory lines of a schedule: what is allocated, reused, viewed and freed, and where.

Comes in: a schedule in its final order; for sizes that vary also the graph it was specialised from. Goes out: lines for
``plan.pool_lines`` and what is known about every buffer that we make. Promised: an allocate line stands before the step that
fills a buffer with nothing but memory lines between, once per buffer, and only for what we make: not for inputs, results that
an operation allocates itself, mutated names or empty buffers; a free line stands behind the last step that uses a storage
through any name; a reuse line hands bytes on where layouts are equal as expressions, not by their hints; a view stands before
its first use; a section is a sub-program; every operation keeps its line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lowtide.ir.graph import ITEMSIZE, Graph, Layout, Op, Ref, Section, refs_in
from lowtide.ir.symbolic import Dim, Expr
from lowtide.memory.lifetime import Lifetime, lifetimes
from lowtide.plan.pool_lines import ALLOCATE, DROP, ENTER, EXIT, FREE, OTHER, REUSE, VIEW, Info, Line
from lowtide.schedule.schedule import CALL, Schedule, Step, memory_graph


@dataclass(frozen=True, slots=True)
class _Known:
    """What all sections ask: the graph, the position of every step, lifetimes, and which section's scope owns a storage
    that we make."""

    graph: Graph
    at: Mapping[str, int]
    alive: Mapping[str, Lifetime]
    scope: Mapping[str, int]


def memory_lines(schedule: Schedule, varying: Graph | None = None) -> tuple[tuple[Line, ...], dict[str, Info]]:
    """Lines and infos of a static schedule. ``varying``: the same graph with symbols; sizes are then expressions, with those
    of the schedule as hints. What outlives its section counts as an output of it."""
    graph, nodes = schedule.graph, memory_graph(schedule).nodes
    alive = {a.name: a for a in lifetimes(memory_graph(schedule))}
    if varying is not None:
        alive = _at_any_sizes(schedule, varying, alive)
    cuts = [t for t, n in enumerate(nodes) if n.name.startswith(CALL)]
    ends = [*cuts, len(nodes)]
    known = _Known(graph, {n.name: t for t, n in enumerate(nodes)}, alive, _scopes(schedule, alive))
    infos: dict[str, Info] = {}
    for name, k in known.scope.items():
        a, shapes = alive[name], varying or graph
        kept = a.escapes or a.end > ends[k]
        layout = _layout(shapes.value[name].layout)
        infos[name] = Info(nbytes_of(shapes, name), a.nbytes, layout, kept, a.device, a.allocator)
    lines: list[Line] = []
    for i, section in enumerate(graph.sections):
        steps = [s for s in schedule.steps if s.section == i]
        lines += [
            Line(ENTER, text=section.name),
            *_section(known, section, steps, i, ends[i]),
            Line(EXIT, text=section.name),
        ]
    return tuple(lines), infos


def scope_peaks(lines: Sequence[Line], nbytes: Mapping[str, int]) -> dict[str, int]:
    """Sub-program -> most bytes that its own lines hold at once. ``nbytes`` of every name that is allocated."""
    peaks: dict[str, int] = {}
    held: list[tuple[str, int]] = []
    size: dict[str, int] = {}
    for line in lines:
        if line.kind == ENTER:
            held.append((line.text, 0))
            peaks[line.text] = 0
            continue
        if not held:
            continue
        scope, now = held.pop()
        if line.kind == EXIT:
            continue
        if line.kind == ALLOCATE:
            size[line.names[0]] = nbytes.get(line.names[0], 0)
            now += size[line.names[0]]
        elif line.kind == REUSE:
            size[line.names[0]] = size.pop(line.names[1], 0)
        elif line.kind == FREE:
            now -= size.pop(line.names[0], 0)
        peaks[scope] = max(peaks[scope], now)
        held.append((scope, now))
    return peaks


def _at_any_sizes(schedule: Schedule, varying: Graph, alive: Mapping[str, Lifetime]) -> dict[str, Lifetime]:
    """``alive`` without the takeovers that hold at the hints alone: a result continues in an operand's bytes where all that
    its operation reads of them has the result's layout, as expressions."""
    maker = {o: s.op for s in schedule.steps for o in s.op.outputs if o is not None}

    def holds(name: str, over: str) -> bool:
        met = [n for n in (over, *maker[name].reads) if varying.value[n].storage == over]
        return all(varying.value[n].layout == varying.value[name].layout for n in met)

    return {
        a.name: a if a.takes_over is None or holds(a.name, a.takes_over) else replace(a, takes_over=None)
        for a in alive.values()
    }


def _scopes(schedule: Schedule, alive: Mapping[str, Lifetime]) -> dict[str, int]:
    """Storages that we make, and the section that does: written through ``out``, or continuing in such bytes of the same
    section."""
    scope: dict[str, int] = {}
    for step in schedule.steps:
        for o in step.op.outputs:
            if o is None or o not in alive or not alive[o].nbytes:
                continue
            over = alive[o].takes_over
            direct = step.facts.out is not None and not step.facts.restride and len(step.op.outputs) == 1
            if (direct and over is None) or (over is not None and scope.get(over) == step.section):
                scope[o] = step.section
    return scope


def _section(known: _Known, section: Section, steps: Sequence[Step], index: int, end: int) -> list[Line]:
    graph, out = known.graph, list[Line]()
    views = {o: op for op in section.ops if op.view for o in op.outputs if o is not None}
    inputs = [i.name for i in section.inputs if isinstance(i, Ref)]
    last = _last_uses(graph, section, steps)
    taken = {a.takes_over for a in known.alive.values() if a.takes_over is not None}
    dying: dict[int, list[str]] = {}
    for name, k in known.scope.items():
        if k == index and known.alive[name].end <= end and not known.alive[name].escapes and name not in taken:
            dying.setdefault(known.alive[name].end - 1, []).append(name)
    done: set[str] = set()
    for k, step in enumerate(steps):
        op = step.op
        out += _views(graph, views, op.reads, done)
        for o in (o for o in op.outputs if o is not None):
            over = known.alive[o].takes_over if o in known.alive else None
            if over is not None:
                out.append(Line(REUSE, (o, over)))
            elif known.scope.get(o) == index:
                out.append(Line(ALLOCATE, (o,)))
        used = dict.fromkeys(graph.value[n].storage for n in (*op.reads, *(o for o in op.outputs if o is not None)))
        out.append(Line(OTHER, tuple(used), text=op.name))
        out += [Line(FREE, (name,)) for name in dying.get(known.at[op.name], ())]
        out += [Line(DROP, (name,)) for name in inputs if last.get(name, -1) == k]
    return out


def _last_uses(graph: Graph, section: Section, steps: Sequence[Step]) -> dict[str, int]:
    """Input -> the step that uses its storage last; what is returned, or shares bytes with something returned, has none."""
    by_storage: dict[str, int] = {}
    for k, step in enumerate(steps):
        for n in (*step.op.reads, *step.op.mutates):
            by_storage[graph.value[n].storage] = k
    kept = {graph.value[n].storage for a in section.returns for n in refs_in(a)}
    names = [i.name for i in section.inputs if isinstance(i, Ref)]
    return {n: by_storage[s] for n in names if (s := graph.value[n].storage) in by_storage and s not in kept}


def _views(graph: Graph, views: Mapping[str, Op], wanted: Sequence[str], done: set[str]) -> list[Line]:
    """Lines for views among ``wanted`` that are not there yet, each behind what it is a view of."""
    out: list[Line] = []
    stack = list(reversed(wanted))
    while stack:
        name = stack[-1]
        op = views.get(name)
        missing = [r for r in op.reads if r in views and r not in done] if op is not None and name not in done else []
        if missing:
            stack.extend(reversed(missing))
            continue
        stack.pop()
        if op is not None and name not in done:
            layout = graph.value[name].layout
            done.add(name)
            out.append(
                Line(VIEW, (name, op.reads[0]), _times(layout.offset, ITEMSIZE[layout.dtype]), layout=_layout(layout))
            )
    return out


def _layout(x: Layout) -> str:
    return f"{x.dtype}, ({', '.join(map(str, x.size))}), ({', '.join(map(str, x.stride))})"


def nbytes_of(graph: Graph, storage: str) -> Dim:
    """Bytes of a storage: the furthest reach of what stands on it; where sizes vary an expression, never below it."""
    out: Dim = 0
    for reach in (_reach(v.layout) for v in graph.values if v.storage == storage):
        out = max(out, reach) if isinstance(out, int) and isinstance(reach, int) else _max(out, reach)
    return out


def _reach(x: Layout) -> Dim:
    if x.static:
        return x.extent
    total: Dim = _plus(x.offset, 1)
    for n, stride in zip(x.size, x.stride, strict=True):
        total = _plus(total, _times(_plus(n, -1), stride))
    return _max(0, _times(total, ITEMSIZE[x.dtype]))


def _plus(a: Dim, b: Dim) -> Dim:
    return a + b if isinstance(a, int) and isinstance(b, int) else a if b == 0 else b if a == 0 else Expr("+", (a, b))


def _times(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return 0 if 0 in (a, b) else a if b == 1 else b if a == 1 else Expr("*", (a, b))


def _max(a: Dim, b: Dim) -> Dim:
    return a if a == b else Expr("max", (a, b))
