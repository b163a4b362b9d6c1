"""CP-SAT as a cross-check of the exact search."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import given, settings
from test_packers import problems

from lowtide.core.errors import UserError
from lowtide.plan.check import check
from lowtide.plan.cpsat import pack_cpsat
from lowtide.plan.pack import pack
from lowtide.plan.problem import OPTIMAL, PackBuffer, PackProblem

installed = importlib.util.find_spec("ortools") is not None


@pytest.mark.skipif(installed, reason="OR-tools is installed")
def test_missing_extra_is_said_kindly():
    with pytest.raises(UserError, match=r"lowtide\[solvers\]"):
        pack_cpsat(PackProblem((PackBuffer("a", 1, ((0, 1),)),)))


@pytest.mark.skipif(not installed, reason="needs the extra 'solvers'")
@pytest.mark.spec("PP-32")
@settings(max_examples=60, deadline=None)
@given(problems(most=9))
def test_the_exact_search_and_cpsat_agree(problem):
    other = pack_cpsat(problem, seconds=60)
    ours = pack(problem, seconds=60)
    check(problem, other.offsets, height=other.height)
    assert other.status == ours.status == OPTIMAL
    assert other.height == ours.height
