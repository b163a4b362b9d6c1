"""A self-contained HTML page: a table of figures, charts drawn as SVG, and facts about how they came about.

Comes in: frozen values below. Goes out: the text of one HTML file. Promised: it loads nothing from anywhere, works
without scripts (they only add the read-out under the pointer), and stays small however long the curves are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 340, 64, 16, 16, 44
_COLUMNS = 1200
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line through ``points`` (x ascending). ``steps``: constant between points. ``level``: a dashed line."""

    name: str
    points: tuple[tuple[float, float], ...]
    steps: bool = False
    level: float | None = None
    level_name: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over one x axis. ``marks`` are (x, text): vertical lines with a text to their left."""

    title: str
    note: str
    x_name: str
    y_name: str
    curves: tuple[Curve, ...]
    marks: tuple[tuple[float, str], ...] = ()
    zero: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a head; the first column is text, the others are figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def page(title: str, intro: str, table: Table, charts: Sequence[Chart], facts: Mapping[str, str]) -> str:
    """The whole page as text."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    drawn = [_drawn(c) for c in charts]
    return env.get_template("page.html").render(title=title, intro=intro, table=table, charts=drawn, facts=facts)


def thinned(points: Sequence[tuple[float, float]], columns: int = _COLUMNS) -> tuple[tuple[float, float], ...]:
    """At most about four points per column that draw the same outline: first, lowest, highest and last of each."""
    if len(points) <= 4 * columns:
        return tuple(points)
    low, span = points[0][0], (points[-1][0] - points[0][0]) or 1.0
    kept: list[tuple[float, float]] = []
    column: list[tuple[float, float]] = []
    at = 0
    for p in points:
        here = min(int((p[0] - low) / span * columns), columns - 1)
        if here != at:
            kept += _outline(column)
            column, at = [], here
        column.append(p)
    return (*kept, *_outline(column))


def _outline(column: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(column) <= 4:
        return list(column)
    ends = {0, len(column) - 1}
    ends |= {min(range(len(column)), key=lambda i: column[i][1]), max(range(len(column)), key=lambda i: column[i][1])}
    return [column[i] for i in sorted(ends)]


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _drawn(chart: Chart) -> dict[str, object]:
    """What the template needs: positions in the drawing's own units."""
    levels = [c.level for c in chart.curves if c.level is not None]
    xs = [x for c in chart.curves for x, _ in c.points] or [0.0, 1.0]
    ys = [y for c in chart.curves for _, y in c.points] + levels or [0.0, 1.0]
    x0, x1 = min(xs), max(xs)
    y0, y1 = (min(0.0, *ys) if chart.zero else min(ys)), max(ys)
    y1 += 0.06 * (y1 - y0) or 1.0

    def px(x: float) -> float:
        return round(_LEFT + (x - x0) / ((x1 - x0) or 1.0) * (_WIDTH - _LEFT - _RIGHT), 1)

    def py(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - (y - y0) / (y1 - y0) * (_HEIGHT - _TOP - _BOTTOM), 1)

    curves: list[dict[str, object]] = []
    for c in chart.curves:
        points = thinned(c.points)
        level = None if c.level is None else {"y": py(c.level), "text": c.level_name}
        drawn: dict[str, object] = {"name": c.name, "path": _path([(px(x), py(y)) for x, y in points], c.steps)}
        curves.append(drawn | {"level": level, "data": [[px(x), round(y, 4)] for x, y in points]})
    return {
        "chart": chart,
        "curves": curves,
        "x_ticks": [(px(x), f"{x:g}") for x in ticks(x0, x1, 8)] if not chart.marks else [],
        "y_ticks": [(py(y), f"{y:g}") for y in ticks(y0, y1, 8)],
        "marks": [(px(x), text) for x, text in chart.marks],
        "box": {"width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "right": _WIDTH - _RIGHT, "top": _TOP}
        | {"bottom": _HEIGHT - _BOTTOM},
    }


def _path(points: Sequence[tuple[float, float]], steps: bool) -> str:
    """SVG path through points; with ``steps`` it stays level until the next point."""
    words: list[str] = []
    for x, y in points:
        words.append(f"{'L' if words else 'M'}{x:g} {y:g}" if not steps or not words else f"H{x:g}V{y:g}")
    return "".join(words)
