"""The picture of a placement: complete, offline, and safe with any text."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest

from lowtide.plan.pack import pack
from lowtide.plan.problem import PackBuffer, PackProblem
from lowtide.report.packing import page, svg

NASTY = "</script><script>alert(1)</script>"
PROBLEM = PackProblem(
    (
        PackBuffer("h", 64, ((0, 4), (6, 8)), line="model.py:41"),
        PackBuffer(NASTY, 32, ((2, 7),), line='"&<>'),
        PackBuffer("w", 64, ((8, 10), (10, 12)), windows=(None, (0, 16))),
    ),
    capacity=256,
)


@pytest.mark.spec("PP-35")
def test_the_page_holds_every_segment_and_needs_no_network():
    result = pack(PROBLEM)
    text = page(PROBLEM, result, title=NASTY)
    assert not re.search(r"(?:src|href)=|https?://|@import|url\(", text)
    assert text.count("<script") == 2
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["names"][1] == NASTY
    segments = [data["segments"][k : k + 5] for k in range(0, len(data["segments"]), 5)]
    assert [0, 0, 4, result.offsets["h"], result.offsets["h"] + 64] in segments
    assert [2, 10, 12, result.offsets["w"], result.offsets["w"] + 16] in segments
    assert len(segments) == 5
    assert data["height"] == result.height


def test_the_svg_is_well_formed_and_has_one_tip_per_segment():
    result = pack(PROBLEM)
    root = ET.fromstring(svg(PROBLEM, result))
    tips = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sum("steps [" in t for t in tips) == 5
    assert any("model.py:41" in t for t in tips)
    assert any("capacity" in t for t in tips)


def test_an_empty_problem_has_a_picture_too():
    nothing = PackProblem(())
    ET.fromstring(svg(nothing, pack(nothing)))
    assert "<canvas" in page(nothing, pack(nothing))
