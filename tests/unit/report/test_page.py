"""The page stands alone, tells its figures, and stays small."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from lowtide.report.page import Chart, Curve, Table, page, thinned, ticks

CURVE = Curve("a <b> & c", ((0.0, 0.0), (1.0, 5.0), (2.0, 1.0)), steps=True, level=6.0, level_name="promised")
CHART = Chart("Memory", "a note", "", "MiB", (CURVE,), ((1.0, "half"),))


def made() -> str:
    return page("A <title>", "intro", Table(("", "peak"), (("a", "1 MiB"),)), [CHART], {"date": "today"})


class _Parts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_loads_nothing():
    text = made()
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|\bhref=|fetch\(|<link|<iframe", text)


def test_page_tells_figures_and_escapes_names():
    parts = _Parts()
    parts.feed(made())
    text = " ".join(parts.text)
    assert all(word in text for word in ("A <title>", "intro", "1 MiB", "a <b> & c", "promised", "half", "today"))
    (path,) = [a["d"] for tag, a in parts.tags if tag == "path"]
    assert path is not None and path.count("M") == 1 and path.count("H") == 2
    (level,) = [a for tag, a in parts.tags if tag == "line" and "level" in (a["class"] or "")]
    top = min(float(y) for y in re.findall(r"V([\d.]+)", path))
    assert float(level["y1"] or 0) < top  # 6 is drawn above the curve's highest, 5


def test_empty_curves_are_drawn():
    text = page("t", "i", Table((), ()), [Chart("c", "", "x", "y", (Curve("none", ()),))], {})
    assert '<path class="curve k0" d="">' in text


@given(st.lists(st.integers(0, 9), min_size=30, max_size=400), st.integers(1, 5))
def test_thinning_keeps_the_outline(heights: list[int], columns: int):
    points = [(float(i), float(h)) for i, h in enumerate(heights)]
    kept = thinned(points, columns)
    assert len(kept) <= max(4 * columns, 4)
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert max(y for _, y in kept) == max(heights) and min(y for _, y in kept) == min(heights)
    assert list(kept) == sorted(kept) and set(kept) <= set(points)


@given(st.floats(-1e6, 1e6), st.floats(0.001, 1e6))
def test_ticks_are_inside_and_few(low: float, span: float):
    found = ticks(low, low + span)
    slack = span * 1e-6
    assert 1 <= len(found) <= 13 and all(low - slack <= t <= low + span + slack for t in found)
