"""The checker accepts what is right and names the clause that is broken."""

from __future__ import annotations

import pytest

from lowtide.core.errors import VerifyError
from lowtide.plan.check import check
from lowtide.plan.problem import PackBuffer, PackProblem

A = PackBuffer("a", 8, ((0, 4),), 4)
B = PackBuffer("b", 8, ((3, 6),), 4)
C = PackBuffer("c", 4, ((5, 9),), 4, offset=0)
PROBLEM = PackProblem((A, B, C), capacity=16)
GOOD = {"a": 0, "b": 8, "c": 0}


def test_a_correct_placement_passes():
    check(PROBLEM, GOOD, height=16)


@pytest.mark.spec("PP-35")
@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"b": 4}, "overlap"),
        ({"b": 10}, "misaligned"),
        ({"b": -8}, "negative"),
        ({"b": 12}, "capacity"),
        ({"c": 4}, "moved"),
        ({"d": 0}, "unknown"),
        ({"a": None}, "missing"),
    ],
)
def test_each_corruption_is_named(change, clause):
    offsets = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    with pytest.raises(VerifyError) as caught:
        check(PROBLEM, offsets)
    assert caught.value.clause == clause


def test_the_promised_height_must_be_exact():
    with pytest.raises(VerifyError) as caught:
        check(PROBLEM, GOOD, height=20)
    assert caught.value.clause == "height"


def test_windows_share_a_buffers_place_only_outside_of_them():
    outer = PackBuffer("outer", 10, ((0, 2), (2, 4), (4, 6)), 1, windows=(None, (0, 4), None))
    guest = PackBuffer("guest", 6, ((2, 4),), 1)
    check(PackProblem((outer, guest)), {"outer": 0, "guest": 4}, height=10)
    with pytest.raises(VerifyError, match="step 2"):
        check(PackProblem((outer, guest)), {"outer": 0, "guest": 3})
    with pytest.raises(VerifyError, match="step 3"):
        check(PackProblem((outer, PackBuffer("long", 6, ((3, 5),), 1))), {"outer": 0, "long": 3})


def test_exclusions_and_arms_may_share():
    a, b = PackBuffer("a", 4, ((0, 3),), 1), PackBuffer("b", 4, ((1, 2),), 1)
    check(PackProblem((a, b), exclusions=(("b", "a"),)), {"a": 0, "b": 2})
    armed = [PackBuffer(x.id, 4, x.intervals, 1, arms=(("if", k),)) for k, x in enumerate((a, b))]
    check(PackProblem(tuple(armed)), {"a": 0, "b": 2})
    same_arm = PackBuffer("b", 4, ((1, 2),), 1, arms=(("if", 0),))
    with pytest.raises(VerifyError):
        check(PackProblem((armed[0], same_arm)), {"a": 0, "b": 2})


@pytest.mark.spec("PP-34")
def test_a_merge_permits_the_same_offset_in_the_one_common_step_and_nothing_else():
    a, b = PackBuffer("a", 8, ((0, 3),), 1), PackBuffer("b", 6, ((2, 5),), 1)
    merges = (("a", "b"),)
    check(PackProblem((a, b), merges=merges), {"a": 0, "b": 0})
    with pytest.raises(VerifyError):
        check(PackProblem((a, b), merges=merges), {"a": 0, "b": 1})
    with pytest.raises(VerifyError):
        check(PackProblem((a, b)), {"a": 0, "b": 0})
    early = PackBuffer("b", 6, ((1, 5),), 1)
    with pytest.raises(VerifyError):
        check(PackProblem((a, early), merges=merges), {"a": 0, "b": 0})
