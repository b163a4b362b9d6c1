"""A picture of a placement: time across, offset up; hovering tells buffer, bytes and the user's line.

Comes in: a ``PackProblem`` and a ``PackResult``. Goes out: one HTML page that needs no network and no server (a canvas that
draws only what is in view, so 20,000 buffers stay smooth), or an SVG. Promised: every segment that occupies bytes is drawn
where the result puts it; all text from outside is escaped.
"""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from lowtide.core.units import format_bytes
from lowtide.plan.problem import PackProblem, PackResult, total_size
from lowtide.plan.problem_json import occupancy_steps

_WIDTH, _HEIGHT, _MARGIN = 1200.0, 560.0, 48.0
_COLOURS = 24


def page(problem: PackProblem, result: PackResult, title: str = "Placement") -> str:
    """A self-contained HTML page of a placement."""
    source = files("lowtide.report").joinpath("templates/packing.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
    return template.render(
        title=title,
        facts=_facts(problem, result),
        data=_script_safe({
            "segments": _segments(problem, result),
            "names": [b.id for b in problem.buffers],
            "sizes": [b.size for b in problem.buffers],
            "lines": [b.line or "" for b in problem.buffers],
            "occupancy": occupancy_steps(problem),
            "height": result.height,
            "bound": result.lower_bound,
            "capacity": problem.capacity,
        }),
    )  # fmt: skip


def _script_safe(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _facts(problem: PackProblem, result: PackResult) -> list[tuple[str, str]]:
    facts = [
        ("status", result.status),
        ("height", f"{format_bytes(result.height)} ({result.height:,} bytes)"),
        ("lower bound", f"{format_bytes(result.lower_bound)} (gap {100 * result.gap:.2f} %)"),
        ("without sharing", format_bytes(total_size(problem))),
        ("buffers", f"{len(problem.buffers):,}"),
        ("found by", result.packer),
    ]
    if problem.capacity is not None:
        facts.insert(1, ("capacity", format_bytes(problem.capacity)))
    return facts


def _segments(problem: PackProblem, result: PackResult) -> list[int]:
    """Five numbers per segment: buffer, first, end, lowest byte, top."""
    out: list[int] = []
    for i, b in enumerate(problem.buffers):
        at = result.offsets[b.id]
        for first, end, low, high in b.segments():
            out += [i, first, end, at + low, at + high]
    return out


def colour(index: int) -> str:
    """One of a fixed circle of light hues; neighbours in the list are far apart on it."""
    return f"hsl({index * 137 % 360},{52 + index % 3 * 8}%,{68 + index // 3 % 3 * 5}%)"


def svg(problem: PackProblem, result: PackResult) -> str:
    """A stand-alone SVG of a placement; its tooltips are title elements."""
    numbers = _segments(problem, result)
    rows = [numbers[k : k + 5] for k in range(0, len(numbers), 5)]
    start = min((r[1] for r in rows), default=0)
    length = max((r[2] for r in rows), default=1) - start
    top = max(result.height, result.lower_bound, problem.capacity or 0, 1)
    wide, high = (_WIDTH - 2 * _MARGIN) / length, (_HEIGHT - 2 * _MARGIN) / top
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" font-family="sans-serif">',
        f'<rect width="{_WIDTH:g}" height="{_HEIGHT:g}" fill="#fff"/>',
    ]
    for i, first, end, low, up in rows:
        b = problem.buffers[i]
        tip = f"{b.id}: {format_bytes(b.size)} at {low}, steps [{first}, {end})" + (f", {b.line}" if b.line else "")
        parts.append(
            f'<rect x="{_MARGIN + (first - start) * wide:.2f}" y="{_HEIGHT - _MARGIN - up * high:.2f}" '
            f'width="{(end - first) * wide:.2f}" height="{(up - low) * high:.2f}" fill="{colour(i % _COLOURS)}" '
            f'stroke="#333" stroke-width="0.3"><title>{escape(tip)}</title></rect>'
        )
    lines = [("lower bound", result.lower_bound, "#070"), ("height", result.height, "#b00")]
    if problem.capacity is not None:
        lines.append(("capacity", problem.capacity, "#00b"))
    for name, at, ink in lines:
        y = _HEIGHT - _MARGIN - at * high
        parts.append(
            f'<line x1="{_MARGIN:g}" x2="{_WIDTH - _MARGIN:g}" y1="{y:.2f}" y2="{y:.2f}" stroke="{ink}" '
            f'stroke-dasharray="5 3"><title>{name}: {escape(format_bytes(at))}</title></line>'
        )
    caption = f"{len(problem.buffers)} buffers, {format_bytes(result.height)}, bound {format_bytes(result.lower_bound)}"
    parts.append(f'<text x="{_MARGIN:g}" y="28" font-size="15">{escape(result.status)}: {escape(caption)}</text>')
    parts.append(
        f'<text x="{_WIDTH / 2:g}" y="{_HEIGHT - 14:g}" font-size="12">steps {start} to {start + length}</text>'
    )
    return "\n".join([*parts, "</svg>", ""])
