"""Every packer on captured training graphs of the suite: what each reaches, and that the automatic choice takes the best."""

from __future__ import annotations

import statistics
from functools import cache

import pytest
from benchmarks.order_corpus import FOLDER, parts, read
from benchmarks.packing_suite import BY_ITSELF, problem_of
from hypothesis import given, settings
from test_packers import problems

from lowtide.plan.check import check
from lowtide.plan.flat import flatten
from lowtide.plan.pack import pack
from lowtide.plan.pools import serves
from lowtide.plan.problem import OPTIMAL, PackProblem, PackResult

NAMES = ("gpt2-plain.1", "gpt2-checkpointed", "distilbert-checkpointed", "bert-checkpointed", "vit-checkpointed")


@cache
def _found(name: str) -> dict[str, dict[str, PackResult]]:
    """Part -> packer, "" for the automatic choice -> its result, checked."""
    out: dict[str, dict[str, PackResult]] = {}
    for part, graph in parts(read(FOLDER / f"{name}.json.gz")).items():
        if part == "joint":
            continue
        problem, nodes = problem_of(graph), 20_000
        found = {packer: pack(problem, seconds=60, nodes=nodes, packers=(packer,)) for packer in BY_ITSELF}
        found[""] = pack(problem, seconds=60, nodes=nodes)
        for result in found.values():
            check(problem, result.offsets, height=result.height)
        out[part] = found
    return out


@pytest.mark.spec("PP-32", "G9")
@pytest.mark.parametrize("name", NAMES)
def test_each_packer_has_bound_height_and_gap_and_the_choice_is_the_lowest(name: str):
    for found in _found(name).values():
        assert len({r.lower_bound for r in found.values()}) == 1, "the bound is the problem's, whoever packs"
        for packer, result in found.items():
            assert result.height >= result.lower_bound > 0
            assert result.gap == result.height / result.lower_bound - 1
            assert packer in ("", "exact") or result.packer.partition("/")[0] == packer
        chosen = found[""]
        assert chosen.height == min(r.height for r in found.values())
        assert (chosen.gap, chosen.status) == (0, OPTIMAL)
        assert dict(chosen.tried)[chosen.packer] == chosen.height


@pytest.mark.spec("PP-32")
def test_by_size_the_median_gap_is_none_and_the_tree_is_seldom_at_the_bound():
    gaps = {packer: [] for packer in BY_ITSELF}
    for name in NAMES:
        for found in _found(name).values():
            for packer in BY_ITSELF:
                gaps[packer].append(found[packer].gap)
    assert statistics.median(gaps["size"]) == 0 and max(gaps["exact"]) == 0
    assert max(gaps["tree"]) > max(gaps["size"]) > 0 and max(gaps["time"]) > 0


@pytest.mark.spec("PP-32")
@settings(max_examples=150, deadline=None)
@given(problems(most=10, windows=True, exclusions=True))
def test_the_tree_places_what_it_serves_and_orders_by_size_the_rest(problem: PackProblem):
    result = pack(problem, packers=("tree",))
    check(problem, result.offsets, height=result.height)
    assert result.packer.partition("/")[0] == ("tree" if serves(flatten(problem)) else "size")
