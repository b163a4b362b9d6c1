"""A picture of a schedule: its operations in planned order, beside them the buffers that they read and write.

Comes in: a Schedule, its MemoryPlan, and what is estimated of its steps (``schedule.estimate``). Goes out: an SVG, or an HTML
page around it that loads nothing and needs no script. Promised: a row per step, a bar per buffer over the rows in which it is
alive, marks where it is read and written; every row and every bar tells under the pointer what it is and which line of the
user's program it comes from; all text from outside is escaped; size grows with the number of steps and accesses alone.

Schedule and plan also have a JSON form together, which ``lowtide show`` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lowtide.core.codec import VERSION, dumps, loads
from lowtide.core.units import format_bytes
from lowtide.ir.graph import Graph
from lowtide.plan.memory_plan_json import read_memory_plan
from lowtide.plan.plan import DeviceFigures, MemoryPlan, Place
from lowtide.schedule.buffers import ScheduledBuffer, buffers
from lowtide.schedule.estimate import NodeEstimate
from lowtide.schedule.json import read_schedule, to_json
from lowtide.schedule.schedule import CALL, Schedule, Step, memory_graph

_ROW, _LINE, _HEAD = 18, 12, 26  # heights: a step, a line for each operation fused into it, a heading
_LIVE, _NAMES, _LANE, _NARROW = 130, 470, 10, 5  # widths: bytes alive, names, one lane of buffers
_SHOWN = 6  # operations of a kernel that are listed; the others are under the pointer
_SHADES = ("#d4e4f4", "#a8cbe8", "#6fa8d6", "#3a7fbd", "#1b5490")
_LONG = 24  # positions: what lives longer stands apart, in narrow lanes on the right
_STYLE = """
text{font-family:ui-monospace,Menlo,Consolas,monospace}
.step:hover .wire,.step:hover .box,.bar:hover{stroke:#e07b00;stroke-width:2}
"""
_BOX = {True: 'fill="#eef6ee" stroke="#7aa87a"', False: 'fill="#f4f4f4" stroke="#bbbbbb"'}  # whether we generate it


@dataclass(frozen=True, slots=True)
class _Row:
    """Where one position of the plan is drawn. ``step``: None where a section is called."""

    t: int
    top: int
    height: int
    step: Step | None


def svg(schedule: Schedule, plan: MemoryPlan, estimates: Mapping[str, NodeEstimate]) -> str:
    """The picture alone. ``estimates``: by name of the operation."""
    rows, height = _rows(schedule)
    lanes = _lanes(plan)
    left = 40 + _LIVE + _NAMES
    width = left + max((x + wide for x, wide in lanes.values()), default=0) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    titles = _titles(schedule)
    for row in rows:
        if row.t in titles:
            parts.append(_text(8, row.top - 9, titles[row.t], 13, "#222222", "bold"))
    parts += _bars(schedule, plan, rows, lanes, left)
    for row in rows:
        if row.step is not None:
            parts += _step(schedule, plan, row, row.step, lanes, left, estimates.get(row.step.op.name))
    return "\n".join((*parts, "</svg>\n"))


def page(schedule: Schedule, plan: MemoryPlan, estimates: Mapping[str, NodeEstimate]) -> str:
    """A page with the picture, what its marks mean, and the figures of the graph."""
    loops = sum(s.loop is not None for s in schedule.steps)
    facts = [
        f"{len(schedule.steps)} steps: {loops} generated kernels, {len(schedule.steps) - loops} library calls",
        *(_figures(schedule, plan, told) for told in plan.devices),
    ]
    if estimates:
        facts.append(f"estimated {sum(e.seconds for e in estimates.values()) * 1e3:.3g} ms")
    legend = (
        "Top to bottom: operations in planned order; green are generated kernels with the operations in them, grey are "
        "library calls. Orange: bytes held while the step runs, red at the peak. Right: one bar per buffer from the step "
        "that makes it to the last that needs it, darker if larger; a full mark writes, an open one reads. Rest the pointer "
        "on anything to see its bytes, its place and the line of the program that it comes from."
    )
    name = escape(schedule.graph.name)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n<style>'
        "body{font:14px system-ui,sans-serif;margin:24px;color:#222}p{max-width:60em}"
        f"</style></head><body>\n<h1>{name}</h1>\n<p>{escape('; '.join(facts))}.</p>\n<p>{legend}</p>\n"
        f"{svg(schedule, plan, estimates)}</body></html>\n"
    )


def _figures(schedule: Schedule, plan: MemoryPlan, told: DeviceFigures) -> str:
    value = schedule.graph.value
    many = sum(p.nbytes > 0 and value[p.storage].layout.memory == told.device for p in plan.places)
    facts = (
        f"{many} buffers, {format_bytes(told.sum_nbytes)} side by side",
        f"peak {format_bytes(told.promised_nbytes)} in step {told.peak_step}, bound {format_bytes(told.lower_bound)}",
        f"slabs: {told.chosen}",
    )
    return f"on {told.device}: {', '.join(facts)}"


def dump_steps(schedule: Schedule, plan: MemoryPlan) -> str:
    """Schedule and plan as one JSON text."""
    return dumps({"version": VERSION, "kind": "steps", "schedule": to_json(schedule), "plan": plan.to_json()})


def load_steps(text: str, file: str = "<text>") -> tuple[Schedule, MemoryPlan]:
    """What ``dump_steps`` wrote.

    Raises:
        FileError: with the place of the first fault, a plan that is of another schedule included.
    """
    at = loads(text, file)
    f = at.fields(("version", "kind", "schedule", "plan"))
    f["version"].version()
    if f["kind"].text() != "steps":
        f["kind"].fail(f"'steps' is expected, not {f['kind'].text()!r}")
    schedule, plan = read_schedule(f["schedule"]), read_memory_plan(f["plan"])
    count = len(memory_graph(schedule).nodes)
    if len(plan.live) != count or any(p.storage not in schedule.graph.value or p.end > count for p in plan.places):
        f["plan"].fail(f"it is of another schedule than this one of {count} steps")
    return schedule, plan


def _rows(schedule: Schedule) -> tuple[list[_Row], int]:
    """Rows in order, and the height of them all. Positions are those of ``memory_graph(schedule).nodes``."""
    top = _HEAD
    rows: list[_Row] = []
    for t, node in enumerate(memory_graph(schedule).nodes):
        step = None if node.name.startswith(CALL) else schedule.step[node.name]
        listed = 0 if step is None else min(len(_members(schedule, step)), _SHOWN + 1)
        height = _HEAD if step is None else _ROW + _LINE * listed
        rows.append(_Row(t, top, height, step))
        top += height
    return rows, top + 8


def _titles(schedule: Schedule) -> dict[int, str]:
    """Position of the first step of each section -> its name."""
    nodes = memory_graph(schedule).nodes
    starts = [0, *(t + 1 for t, n in enumerate(nodes) if n.name.startswith(CALL))]
    return {t: s.name for t, s in zip(starts, schedule.graph.sections, strict=True)}


def _members(schedule: Schedule, step: Step) -> tuple[str, ...]:
    return schedule.members.get(step.op.name, ())


def _lanes(plan: MemoryPlan) -> dict[str, tuple[int, int]]:
    """Left edge and width of the lane of each buffer, free of others while it is alive; what lives briefly stands beside the
    names, so that wires stay short."""
    places = sorted((p for p in plan.places if p.nbytes), key=lambda p: (p.first, -p.end, p.storage))
    out: dict[str, tuple[int, int]] = {}
    x = 0
    for wide, chosen in (
        (_LANE, [p for p in places if p.end - p.first <= _LONG]),
        (_NARROW, [p for p in places if p.end - p.first > _LONG]),
    ):
        free: list[int] = []  # first position at which each lane is free again
        for p in chosen:
            lane = next((k for k, end in enumerate(free) if end <= p.first), len(free))
            free[lane : lane + 1] = [p.end]
            out[p.storage] = x + lane * wide, wide
        x += len(free) * wide + 8
    return out


def _bars(
    schedule: Schedule, plan: MemoryPlan, rows: Sequence[_Row], lanes: Mapping[str, tuple[int, int]], left: int
) -> list[str]:
    known = buffers(schedule)
    largest = max((p.nbytes for p in plan.places), default=1)
    out: list[str] = []
    for p in plan.places:
        if p.storage not in lanes:
            continue
        top, last = rows[p.first], rows[p.end - 1]
        shade = _SHADES[min(len(_SHADES) - 1, int(len(_SHADES) * p.nbytes / (largest + 1)))]
        x, wide = lanes[p.storage]
        out.append(
            f'<rect class="bar" x="{left + x}" y="{top.top + 4}" width="{wide - 2}" '
            f'height="{last.top + last.height - top.top - 6}" rx="2" fill="{shade}">'
            f"<title>{escape(_buffer(schedule.graph, p, known[p.storage]))}</title></rect>"
        )
    return out


def _buffer(graph: Graph, p: Place, known: ScheduledBuffer) -> str:
    where = "an allocation of its own" if p.slab is None else f"slab {p.slab} at {p.offset}"
    over = f", in the bytes of %{p.over}" if p.over is not None else ""
    kept = ", the caller's to keep" if p.escapes else ""
    value = graph.value[p.storage]
    shape = f"{value.layout.dtype}{list(value.layout.size)}"
    return (
        f"%{p.storage} {shape}\n{format_bytes(p.nbytes)} ({p.nbytes} bytes), steps {p.first} to {p.end - 1}\n"
        f"{where}{over}{kept}\n{known.uses}\n{value.origin}"
    ).rstrip()


def _step(
    schedule: Schedule, plan: MemoryPlan, row: _Row, step: Step, lanes: Mapping[str, tuple[int, int]], left: int,
    estimate: NodeEstimate | None,
) -> list[str]:  # fmt: skip
    graph, op = schedule.graph, step.op
    held, most = plan.live[row.t], max(plan.promised_nbytes, 1)
    bar = round(_LIVE * held / most, 1)
    middle = row.top + _ROW // 2 + 1
    reads = dict.fromkeys(graph.value[n].storage for n in (*op.reads, *op.mutates))
    writes = dict.fromkeys(graph.value[n].storage for n in (*op.outputs, *op.mutates) if n is not None)
    at = {s: left + lanes[s][0] + lanes[s][1] / 2 - 1 for s in (*reads, *writes) if s in lanes}
    made = ", ".join(f"%{o}" for o in op.outputs if o is not None) or ", ".join(f"%{m} changed" for m in op.mutates)
    nbytes = sum(graph.nbytes[s] for s in writes if s in lanes)
    members = _members(schedule, step)
    label = "kernel" if step.loop is not None else op.target.removeprefix("aten.").removesuffix(".default")
    out = [f'<g class="step"><title>{escape(_hover(schedule, step, held, estimate, nbytes))}</title>']
    if at:
        out.append(
            f'<line class="wire" x1="{left - 12}" y1="{middle}" x2="{max(at.values())}" y2="{middle}" stroke="#d0d0da"/>'
        )
    shade = "#d9534f" if row.t == plan.peak_step else "#f5c79d"
    out.append(_text(34, row.top + 13, str(row.t), 11, "#8888aa", anchor="end"))
    out.append(f'<rect x="40" y="{row.top + 3}" width="{bar}" height="{_ROW - 6}" fill="{shade}"/>')
    out.append(_text(44, row.top + 12.5, format_bytes(held), 9.5, "#444455"))
    x = 40 + _LIVE + 8
    out.append(
        f'<rect class="box" x="{x}" y="{row.top + 1}" width="{_NAMES - 20}" height="{row.height - 2}" rx="3" '
        f"{_BOX[step.loop is not None]}/>"
    )
    text = f"{_cut(label, 24)} → {_cut(made, 24)} {format_bytes(nbytes) if nbytes else ''}"
    out.append(_text(x + 5, row.top + 13, text, 11, "#222222"))
    out.append(_text(x + _NAMES - 24, row.top + 13, _cut(str(op.origin), 22), 9.5, "#666677", anchor="end"))
    shown = list(members[:_SHOWN]) + ([f"and {len(members) - _SHOWN} more"] if len(members) > _SHOWN else [])
    for k, name in enumerate(shown):
        out.append(_text(x + 22, row.top + _ROW + 9 + k * _LINE, name, 9.5, "#556655"))
    for s, cx in at.items():
        fill = "#222222" if s in writes else "#ffffff"
        out.append(f'<circle cx="{cx}" cy="{middle}" r="2.8" fill="{fill}" stroke="#222222"/>')
    return [*out, "</g>"]


def _text(x: float, y: float, text: str, size: float, fill: str, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{x}" y="{y}" font-family="monospace" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}">{escape(text)}</text>'
    )


def _hover(schedule: Schedule, step: Step, held: int, estimate: NodeEstimate | None, nbytes: int) -> str:
    op = step.op
    lines = [
        f"{op.target} makes {', '.join(f'%{o}' for o in op.outputs if o is not None) or 'nothing'} ({format_bytes(nbytes)})",
        f"reads {', '.join(f'%{r}' for r in op.reads) or 'nothing'}",
        f"{format_bytes(held)} held while it runs, workspace {format_bytes(max(step.facts.workspace, step.facts.out_workspace))}",
    ]
    if members := _members(schedule, step):
        lines.append(f"one kernel of {len(members)}: {', '.join(members)}")
    if estimate is not None:
        lines.append(f"estimated {estimate}")
    return "\n".join((*lines, str(op.origin))).rstrip()


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
