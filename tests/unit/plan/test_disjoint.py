"""The checker before use: it takes every real plan, finds what brute force finds, and refuses what ``plan.replay`` refuses."""

from __future__ import annotations

import inspect
import random
from array import array
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_replay import DAMAGES, Damage, planned, with_place

from lowtide.core import native
from lowtide.core.errors import VerifyError
from lowtide.core.options import Options
from lowtide.plan import disjoint
from lowtide.plan.choose import plan_memory
from lowtide.plan.disjoint import Sweep, check_plan, check_rows
from lowtide.plan.plan import MemoryPlan, Place
from lowtide.plan.replay import replay
from lowtide.schedule.schedule import Schedule, memory_graph, schedule
from plans import plans_of, schedules, training
from strategies import static_graphs

OURS = {
    "missing",
    "twice",
    "undefined",
    "freed",
    "overlap",
    "inplace",
    "bounds",
    "misaligned",
    "held",
    "device",
    "escape",
}
# What no place shows: which operations can do what, orders of effects, promised bytes.
REPLAYS = {"nobody permitted it", "takes over what is read later"}

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(-1, 9), st.integers(0, 4)), max_size=7)


@pytest.fixture(autouse=True)
def built():
    native.opened(disjoint._LIBRARY)


@pytest.mark.spec("PP-36")
@pytest.mark.parametrize("compiled", [False, True])
@given(ROWS)
def test_two_meet_where_brute_force_says_so(compiled: bool, rows: list[tuple[int, int, int, int]]):
    """Rows are (first, end, low, room) within 10 bytes, empty lives and rooms among them."""
    if compiled and disjoint._library() is None:
        pytest.skip(native.opened(disjoint._LIBRARY)[1])
    held = {i for i, (first, end, _, room) in enumerate(rows) if first < end and room}
    outside = {(i, i) for i in held if not 0 <= rows[i][2] <= 10 - rows[i][3]}
    meeting = {
        (i, j)
        for i, j in combinations(sorted(held), 2)
        if max(rows[i][0], rows[j][0]) < min(rows[i][1], rows[j][1])
        and max(rows[i][2], rows[j][2]) < min(rows[i][2] + rows[i][3], rows[j][2] + rows[j][3])
    }
    low, room = array("q", [r[2] for r in rows]), array("q", [r[3] for r in rows])
    found = Sweep([r[:2] for r in rows]).fault(low, room, 10, compiled=compiled)
    if found is None:
        assert not outside | meeting
    else:
        assert found in outside or tuple(sorted(found)) in meeting
        assert rows[found[0]][0] <= rows[found[1]][0]


@pytest.mark.spec("PP-36")
@given(schedules(static_graphs(most=8)))
def test_every_real_plan_passes(made: Schedule):
    for plan in plans_of(made).values():
        check_plan(made, plan)


@pytest.mark.spec("PP-36")
@given(schedules(static_graphs(most=6, devices=("cpu", "cuda:0"))))
def test_plans_for_two_devices_pass(made: Schedule):
    for plan in plans_of(made).values():
        check_plan(made, plan)


@pytest.mark.spec("PP-36")
@pytest.mark.parametrize(
    ("clause", "damage"),
    [pytest.param(c.split()[0], d, id=f"{c}: {w}") for c, w, d in DAMAGES if c.split()[0] in OURS and w not in REPLAYS],
)
def test_damage_to_places_is_refused(clause: str, damage: Damage):
    """Without handovers, so that none of them is what is found to be wrong."""
    made, plan = damage(*planned(inplace=False))
    with pytest.raises(VerifyError, match=rf"^{clause}\b"):
        check_plan(made, plan)


@pytest.mark.spec("PP-36", "PP-31")
def test_a_slab_elsewhere_than_on_the_cpu_is_not_kept_with_saved_tensors_in_it():
    made = training()
    values = [replace(v, layout=replace(v.layout, device="cuda:0")) for v in made.graph.values]
    there = schedule(replace(made.graph, values=tuple(values)), {s.op.name: s.facts for s in made.steps})
    plan = plan_memory(there, Options(slabs="one"))
    check_plan(there, plan)
    assert not plan.slabs[0].kept
    kept = replace(plan, slabs=tuple(replace(s, kept=True) for s in plan.slabs))
    with pytest.raises(VerifyError, match=r"^held\b.*cuda:0"):
        check_plan(there, kept)
    moved = next(p for p in plan.places if p.slab is not None and p.over is None and p.offset)
    with pytest.raises(VerifyError, match=r"^misaligned\b.*512"):
        check_plan(there, with_place(plan, moved.storage, offset=moved.offset + 64))


def refused(check, made: Schedule, plan: MemoryPlan) -> bool:
    try:
        check(made, plan)
    except VerifyError:
        return True
    return False


@pytest.mark.spec("PP-36")
@given(schedules(static_graphs(most=8)), st.integers(0, 2**16))
def test_a_place_anywhere_else_is_refused_wherever_it_is_wrong(made: Schedule, seed: int):
    """One storage is moved within its slab, or its life is cut: the checker is at least as strict as the replay of bytes."""
    dice = random.Random(seed)
    plan = plan_memory(made, Options(slabs="one"))
    inside = [p for p in plan.places if p.slab is not None]
    if not inside:
        return
    p = dice.choice(inside)
    moved = with_place(plan, p.storage, offset=64 * dice.randrange(plan.slabs[0].nbytes // 64 + 1))
    cut = with_place(plan, p.storage, end=p.end - 1)
    for wrong in (moved, cut):
        if refused(replay, made, wrong):
            assert refused(check_plan, made, wrong)


def handed_over() -> tuple[Schedule, MemoryPlan, Place]:
    made, plan = planned()
    taker = next(p for p in plan.places if p.over is not None and p.slab is not None)
    return made, plan, taker


@pytest.mark.spec("PP-36")
@pytest.mark.parametrize(
    ("clause", "damage"),
    [
        ("inplace", lambda p, t: with_place(p, t.storage, offset=t.offset + 64)),
        ("inplace", lambda p, t: with_place(p, t.over, end=t.first + 2)),
        ("freed", lambda p, t: with_place(p, t.over, end=t.first)),
        ("inplace", lambda p, t: with_place(p, t.storage, over=t.storage)),
        ("bounds", lambda p, _: replace(p, slabs=())),
    ],
    ids=["elsewhere", "too late", "too early", "over itself", "no slab"],
)
def test_what_takes_over_lies_where_the_one_before_lay(clause: str, damage: Callable[[MemoryPlan, Place], MemoryPlan]):
    made, plan, taker = handed_over()
    with pytest.raises(VerifyError, match=rf"^{clause}\b"):
        check_plan(made, damage(plan, taker))


@pytest.mark.spec("PP-36")
def test_bytes_are_taken_over_once():
    made, plan, taker = handed_over()
    twin = Place("twin", taker.nbytes, taker.first, taker.end, taker.how, taker.over, taker.slab, taker.offset)
    nodes = list(memory_graph(made).nodes)
    node = nodes[taker.first]
    pairs = (*node.inplace, (taker.over or "", "twin"))
    nodes[taker.first] = replace(node, writes=(*node.writes, "twin"), inplace=pairs)
    graph = memory_graph(made)
    buffer = replace(graph.buffer[taker.storage], name="twin")
    again = replace(made)
    again.__dict__["memory"] = replace(graph, buffers=(*graph.buffers, buffer), nodes=tuple(nodes))
    with pytest.raises(VerifyError, match="inplace"):
        check_plan(again, replace(plan, places=(*plan.places, twin)))


@pytest.mark.spec("PP-36")
def test_rows_at_run_time_are_held_against_their_slab():
    sweep = Sweep([(0, 2), (1, 3)])
    check_rows(sweep, array("q", [0, 64]), array("q", [64, 64]), 128)
    check_rows(sweep, array("q", [0, 0]), array("q", [64, 0]), 64)
    for clause, offsets, nbytes in (("overlap", [0, 32], 128), ("bounds", [0, 64], 100), ("bounds", [-64, 64], 128)):
        with pytest.raises(VerifyError, match=clause):
            check_rows(sweep, array("q", offsets), array("q", [64, 64]), nbytes)
    with pytest.raises(VerifyError, match="missing"):
        check_rows(sweep, array("q", [0]), array("q", [64]), 128)


@pytest.mark.spec("PP-36")
def test_it_shares_no_code_with_what_places():
    """Plans and graphs as data, and nothing that finds or counts lives, offsets or bounds."""
    imported = {x.__module__ for x in vars(disjoint).values() if inspect.isfunction(x) or inspect.isclass(x)}
    ours = {m for m in imported if m.startswith("lowtide")} - {disjoint.__name__}
    assert ours == {"lowtide.core.errors", "lowtide.memory.graph", "lowtide.plan.plan", "lowtide.schedule.schedule"}
