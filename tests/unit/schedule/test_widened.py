"""A pointwise loop widened to a slightly larger one's points: one pass, the same numbers, nothing out of range."""

from __future__ import annotations

import numpy as np
import pytest
from small_loops import flat

from lowtide.ir.graph import Graph
from lowtide.ir.interpret import interpret
from lowtide.ir.lowered import LOOP, Lowered, check_lowered
from lowtide.ir.task import Task
from lowtide.ir.text import parse
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.joined import joined
from lowtide.schedule.rules import CACHED
from lowtide.schedule.schedule import schedule

LARGE = CACHED.large

ROWS, STRIDE = 128, 200


def rows(columns: int, text: str = "c = add a a", at: int = 0) -> Task:
    """From columns of a tensor of 128 rows of 200 numbers."""
    body = f"a = load 0 {STRIDE}*r0+r1+{at}; {text}; store 1 {columns}*r0+r1 c"
    return Task(flat(1, 1, (ROWS, columns), body), ("x",), (f"y{columns}",))


@pytest.mark.spec("SC-38")
@pytest.mark.parametrize("small_first", [True, False])
def test_both_are_computed_in_one_pass_and_nothing_lies_out_of_range(small_first: bool) -> None:
    """The smaller one reads a buffer of its own size, too; the interpreter refuses what lies behind a buffer's end."""
    body = f"a = load 0 {STRIDE}*r0+r1; b = load 1 130*r0+r1; c = add a b; store 2 130*r0+r1 c"
    small = Task(flat(2, 1, (ROWS, 130), body), ("x", "w"), ("y130",))
    large = rows(140, "c = mul a a")
    first, second = (small, large) if small_first else (large, small)
    found = joined(first, second, {"y130", "y140"})
    assert isinstance(found, Task), found
    assert [s.inner for s in found.loop.stages] == [(ROWS, 140)]
    held = {"x": np.arange(ROWS * STRIDE, dtype="i8"), "w": np.arange(ROWS * 130, dtype="i8")[::-1].copy()}
    made = {name: np.full(ROWS * int(name[1:]), -7, "i8") for name in found.makes}
    interpret(found.loop, [held[n] for n in found.given] + list(made.values()))
    grid = held["x"].reshape(ROWS, STRIDE)
    np.testing.assert_array_equal(made["y130"].reshape(ROWS, 130), grid[:, :130] + held["w"].reshape(ROWS, 130))
    np.testing.assert_array_equal(made["y140"].reshape(ROWS, 140), grid[:, :140] ** 2)


@pytest.mark.spec("SC-38", "SC-37")
@pytest.mark.parametrize(
    ("other", "why"),
    [
        (rows(199), "much smaller"),
        (rows(140, at=1), "read nothing at the same points"),
        (Task(flat(1, 1, (ROWS * 140,), "a = load 0 r0; store 1 r0 a"), ("x",), ("z",)), "points of its own"),
        (Task(flat(2, 1, (ROWS, 140), f"a = load 0 {STRIDE}*r0+r1; b = load 1 r1; c = add a b; store 2 140*r0+r1 c"),
              ("x", "y130"), ("z",)), "one takes from the other"),
    ],
    ids=["waste", "other elements", "other ranges", "a reader"],
)  # fmt: skip
def test_what_does_not_pay_or_is_not_independent_stays_apart(other: Task, why: str) -> None:
    found = joined(rows(130), other, {"y130", *other.makes})
    assert isinstance(found, str) and why in found


@pytest.mark.spec("SC-38")
def test_what_acts_at_every_point_is_not_widened() -> None:
    small = Task(flat(1, 1, (LARGE,), "a = load 0 r0; b = const 1; c = lt b a; check c; store 1 r0 a"), ("x",), ("y",))
    large = Task(flat(1, 1, (LARGE + 9,), "a = load 0 r0; b = add a a; store 1 r0 b"), ("x",), ("z",))
    found = joined(small, large, {"y", "z"})
    assert isinstance(found, str) and "cannot be left out" in found


@pytest.mark.spec("SC-38")
def test_a_part_and_the_whole_share_a_pass_in_a_program() -> None:
    graph: Graph = parse(f"""graph g version 1
  section inference
    input %x: i64[{LARGE + 64}]{{1}} @cpu
    %y: i64[{LARGE}]{{1}} @cpu = {LOOP}(%x)
    %z: i64[{LARGE + 64}]{{1}} @cpu = {LOOP}(%x)
    return [%y, %z]
""")
    text = "a = load 0 r0; b = add a a; store 1 r0 b"
    lowered = Lowered(graph, {"y": flat(1, 1, (LARGE,), text), "z": flat(1, 1, (LARGE + 64,), text)})
    found = fuse_loops(lowered, schedule(graph, {}, loops=lowered.loops))
    check_lowered(found.lowered)
    (loop,) = found.lowered.loops.values()
    assert [s.inner for s in loop.stages] == [(LARGE + 64,)]
