"""The compiled search against its twin, one order at a time, so that every rule decides from the first node on."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from lowtide.plan import compiled
from lowtide.plan import search as twin
from lowtide.plan.flat import flatten, lower_bound
from lowtide.plan.problem import PackBuffer, PackProblem
from lowtide.plan.sections import MORE_ORDERS, ORDERS, sections_of

needs_compiler = pytest.mark.skipif(compiled.library() is None, reason=compiled.why_not() or "")


def drawn(draw: random.Random) -> PackProblem:
    """A small problem that is seldom solved at once: few moments, several lives, equal buffers, fixed places."""
    grain = draw.choice((1, 1, 2, 4))
    buffers: list[PackBuffer] = []
    for i in range(draw.randint(6, 16)):
        times = sorted(draw.sample(range(12), 2 if draw.random() < 0.8 else 4))
        lives = tuple(zip(times[::2], times[1::2], strict=True))
        size = draw.choice((1, 2, 3, 5, 8, 13))
        alignment = grain * draw.choice((1, 1, 1, 2))
        if buffers and draw.random() < 0.3:
            lives, size, alignment = buffers[-1].intervals, buffers[-1].size, buffers[-1].alignment
        buffers.append(PackBuffer(str(i), size, lives, alignment))
    if draw.random() < 0.3:
        at = buffers[0].alignment * draw.randint(0, 4)
        buffers[0] = replace(buffers[0], offset=at)
    return PackProblem(tuple(buffers))


@needs_compiler
@pytest.mark.spec("PP-32")
@pytest.mark.parametrize("name", [*ORDERS, *MORE_ORDERS])
def test_every_order_visits_the_same_nodes_as_its_twin(name: str):
    draw, long = random.Random(name), 0
    for _ in range(60):
        problem = drawn(draw)
        flat = flatten(problem)
        sections = sections_of(flat, (name,))
        capacity = lower_bound(flat) + draw.choice((0, 0, 0, 1, 2, 5))
        budget = draw.choice((30, 200))
        fast = compiled.decide(compiled.library(), sections, capacity, budget, math.inf)
        assert fast == twin.search(sections, capacity, budget, math.inf)
        long += fast[2] > 2 * len(sections.size)
    assert long > 3


def crowd(draw: random.Random, n: int, unit: int) -> PackProblem:
    """Many that meet many, of sizes without a common divisor, so that many are deferred at once."""
    buffers: list[PackBuffer] = []
    for i in range(n):
        first = draw.randrange(12)
        size = unit * draw.randint(1, 9) + draw.randint(0, 1) * (unit > 1)
        buffers.append(PackBuffer(str(i), size, ((first, first + draw.randint(2, 7)),), 1))
    return PackProblem(tuple(buffers))


@needs_compiler
@pytest.mark.spec("PP-32")
@pytest.mark.parametrize("unit", [1, 1 << 28])
def test_many_deferred_rows_and_large_sizes_change_no_node(unit: int):
    draw, decided = random.Random(unit), 0
    for _ in range(25):
        problem = crowd(draw, 34, unit)
        flat = flatten(problem)
        sections, capacity = sections_of(flat, ("lowest:TOL",)), lower_bound(flat) + draw.choice((1, 3, 6)) * unit
        fast = compiled.decide(compiled.library(), sections, capacity, 160, math.inf)
        assert fast == twin.search(sections, capacity, 160, math.inf)
        decided += fast[0] is not None
    assert decided > 5
