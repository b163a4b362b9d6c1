"""Fixed groups: members stay side by side in every order that the engine gives."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import graphs
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from order_oracle import replay

from lowtide.cli.main import main
from lowtide.core.errors import FileError, VerifyError
from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.memory.groups import gather
from lowtide.memory.json import dumps, loads
from lowtide.order.check import check_order
from lowtide.order.engine import reorder

# x makes something large that only y needs; u and v are as small as can be, and stand between the two.
LARGE = MemoryGraph(
    (Buffer("a", 100), Buffer("b", 1), Buffer("c", 1), Buffer("d", 1, output=True), Buffer("e", 50)),
    (
        Node("x", (), ("a",)),
        Node("u", (), ("e",)),
        Node("v", ("e",), ("c",)),
        Node("y", ("a",), ("b",)),
        Node("z", ("b", "c"), ("d",)),
    ),
)


def in_groups(graph: MemoryGraph, **groups: str) -> MemoryGraph:
    return replace(graph, nodes=tuple(replace(n, group=groups.get(n.name, "")) for n in graph.nodes))


def names(graph: MemoryGraph, order: tuple[int, ...]) -> str:
    return "".join(graph.nodes[i].name for i in order)


@pytest.mark.spec("SC-09")
def test_nothing_runs_between_members():
    free = reorder(LARGE)
    assert (free.peak, names(LARGE, free.order)) == (101, "xyuvz")
    g = in_groups(LARGE, x="g", v="g")
    assert names(g, gather(g).spelled(range(4))) == "uxvyz"  # what a member needs stands in front of them
    found = reorder(g)
    assert names(g, found.order) == "uxvyz"
    assert (found.peak, found.status, found.candidates["program"]) == (151, "FEASIBLE", 151)
    check_order(g, found.order)
    with pytest.raises(VerifyError, match=r"^group: y at 1 stands within the group g"):
        check_order(in_groups(LARGE, x="g", u="g"), [0, 3, 1, 2, 4])


@pytest.mark.spec("SC-09")
def test_groups_are_moved_as_a_whole_to_where_they_hold_least():
    buffers = (
        Buffer("in", 50, input=True, freeable=True),
        *(Buffer(name, nbytes) for name, nbytes in (("wide", 30), ("half", 20), ("small", 10))),
        Buffer("out", 5, output=True),
    )
    nodes = (
        Node("w", (), ("wide",)),
        Node("h", ("in",), ("half",), group="g"),
        Node("s", ("half",), ("small",), group="g"),
        Node("j", ("wide", "small"), ("out",)),
    )
    found = reorder(MemoryGraph(buffers, nodes))
    assert (names(MemoryGraph(buffers, nodes), found.order), found.peak, found.candidates["program"]) == (
        "hswj",
        70,
        100,
    )
    assert (found.status, found.stopped_by) == ("OPTIMAL", "proved")


@pytest.mark.spec("SC-09")
def test_a_group_is_one_node_that_holds_what_its_members_hold_at_once():
    g = in_groups(LARGE, x="g", y="g", z="h")
    found = gather(g)
    (node,) = (n for n in found.graph.nodes if n.name == "x")
    assert (node.reads, node.writes, node.workspace) == ((), ("b",), 100)
    assert found.members == ((0, 3), (1,), (2,), (4,))
    chain = (
        Node("p", (), ("s",), group="g"),
        Node("q", ("s",), ("t",), workspace=5, group="g"),
        Node("r", ("t",), ("u",), workspace=20, group="g"),
    )
    sizes = (Buffer("s", 100), Buffer("t", 10), Buffer("u", 60, output=True))
    (node,) = gather(MemoryGraph(sizes, chain)).graph.nodes
    assert (node.writes, node.workspace) == (("u",), 115)  # while q runs; s has ended when r does


@pytest.mark.spec("SC-09")
def test_bytes_of_a_group_count_on_their_own_device():
    buffers = (Buffer("s", 100, "cuda:0"), Buffer("t", 10), Buffer("u", 60, "cuda:0", output=True))
    nodes = (
        Node("p", (), ("s",), group="g"),
        Node("q", ("s",), ("t",), workspace=5, group="g"),
        Node("r", ("t",), ("u",), workspace=20, group="g", device="cuda:0"),
    )
    g = MemoryGraph(buffers, nodes)
    found = [gather(g, device).graph.nodes[0] for device in (None, "cpu", "cuda:0")]
    assert [(n.workspace, n.device) for n in found] == [(115, "cpu"), (15, "cpu"), (100, "cuda:0")]
    assert [reorder(g, device=device).peak for device in (None, "cpu", "cuda:0")] == [115, 15, 100]


@pytest.mark.spec("SC-09")
def test_every_order_that_was_tried_is_judged_with_its_groups_by_the_objective_too():
    g = in_groups(LARGE, x="g", v="g")
    plain = reorder(g)
    assert {"program", "search"} < set(plain.candidates) == set(reorder(LARGE).candidates)

    def late(graph: MemoryGraph, order: Sequence[int]) -> int:
        return 1000 - 10 * list(order).index(0)

    found = reorder(g, objective=late)
    assert set(found.candidates) == set(plain.candidates)
    assert found.peak == late(g, found.order) == min(found.candidates.values())


@pytest.mark.spec("SC-09")
def test_steps_of_groups_stay_within_the_budget_and_progress_tells_the_bound_of_the_whole():
    mixed = graphs.make("gnp", 3, 40)
    mixed = replace(mixed, nodes=tuple(replace(n, group="g" if k < 2 else "") for k, n in enumerate(mixed.nodes)))
    none = reorder(mixed, budget_steps=0)
    assert (none.steps, none.stopped_by) == (0, "budget")
    told: list[tuple[int, int, int]] = []
    found = reorder(mixed, progress=lambda *now: told.append(now))
    assert found.steps > 0
    assert told and all(bound <= found.lower_bound for _, _, bound in told)


@pytest.mark.spec("SC-09")
def test_a_group_that_something_must_divide_is_refused():
    g = in_groups(LARGE, x="g", z="g")
    with pytest.raises(VerifyError, match=r"^group: group g needs y needs group g$"):
        gather(g)
    with pytest.raises(FileError, match="nodes: a group cannot stand together: group: group g needs y needs group g"):
        loads(dumps(g))


@pytest.mark.spec("SC-09", "SC-05")
def test_groups_and_dependencies_by_hand_on_the_command_line(tmp_path, capsys: pytest.CaptureFixture[str]):
    g = in_groups(LARGE, x="g", v="g")
    path = tmp_path / "g.json"
    path.write_text(dumps(g))
    assert loads(path.read_text()) == g
    assert main(["order", str(path), "--json"]) == 0
    assert "".join(json.loads(capsys.readouterr().out)["order"]) == "uxvyz"
    by_hand = replace(LARGE, nodes=tuple(replace(n, after=("y",)) if n.name == "u" else n for n in LARGE.nodes))
    path.write_text(dumps(by_hand))
    assert main(["order", str(path), "--json"]) == 0
    assert "".join(json.loads(capsys.readouterr().out)["order"]) == "xyuvz"


@pytest.mark.spec("SC-09")
@settings(max_examples=25)
@given(st.sampled_from(sorted(graphs.SHAPES)), st.integers(0, 10**6), st.integers(2, 5))
def test_small_graphs_against_all_orders(shape: str, seed: int, n: int):
    g, draw = graphs.make(shape, seed, n), random.Random(seed)
    assume(len(g.nodes) <= 6)
    mixed = replace(g, nodes=tuple(replace(x, group=draw.choice(("", "p", "p", "q"))) for x in g.nodes))
    try:
        gather(mixed)
    except VerifyError:
        reject()
    found = reorder(mixed)
    peaks: list[int] = []
    for order in permutations(range(len(mixed.nodes))):
        try:
            check_order(mixed, order)
        except VerifyError:
            continue
        peaks.append(max(replay(mixed, list(order))))
    assert found.peak == max(replay(mixed, list(found.order))) >= min(peaks) >= found.lower_bound
    assert found.peak <= found.candidates["program"]
    assert found.status != "OPTIMAL" or found.peak == min(peaks)
