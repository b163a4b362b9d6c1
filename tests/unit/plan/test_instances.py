"""minimalloc's eleven hard instances."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowtide.plan import compiled
from lowtide.plan.check import check
from lowtide.plan.pack import pack
from lowtide.plan.problem import OPTIMAL
from lowtide.plan.problem_csv import parse_csv

FILES = sorted((Path(__file__).parents[3] / "benchmarks/problems").glob("*.csv"))
needs_compiler = pytest.mark.skipif(compiled.library() is None, reason=compiled.why_not() or "")


@needs_compiler
@pytest.mark.spec("PP-32")
@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name[0])
def test_solved_at_its_capacity(file):
    problem = parse_csv(file.read_text(), file.name, 1 << 20)
    result = pack(problem, seconds=60, nodes=100_000)
    check(problem, result.offsets, height=result.height)
    assert result.nodes < 20_000  # steps, not seconds: the same on every machine


@needs_compiler
@pytest.mark.spec("PP-32", "G9")
@pytest.mark.parametrize("file", [f for f in FILES if f.name[0] not in "DJ"], ids=lambda p: p.name[0])
def test_least_height_found_and_proved(file):
    problem = parse_csv(file.read_text(), file.name)
    result = pack(problem, seconds=60, nodes=200_000)
    check(problem, result.offsets, height=result.height)
    assert result.status == OPTIMAL


def test_there_are_eleven():
    assert len(FILES) == 11
