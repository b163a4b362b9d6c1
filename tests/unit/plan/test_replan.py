"""Planning anew per shape: correct at any sizes, tight, and remembered."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowtide.core.errors import BugError, UserError
from lowtide.plan import backtrack, compiled, descent, peaks, replan
from lowtide.plan.check import check
from lowtide.plan.descent import Work, order_of, peak_of
from lowtide.plan.flat import flatten, lower_bound
from lowtide.plan.layers import layers, settle
from lowtide.plan.problem import PackBuffer, PackProblem
from lowtide.plan.replan import Replanned, replanner
from lowtide.plan.sections import sections_of


def network(n: int = 120) -> PackProblem:
    draw = random.Random(5)
    rows = [(i, i + draw.choice((1, 2, 3, 20))) for i in range(n)]
    return PackProblem(tuple(PackBuffer(f"t{i}", 64, (row,)) for i, row in enumerate(rows)))


def sound(problem: PackProblem, sizes: Sequence[int], got: Replanned) -> None:
    """The independent checker takes a placement for these sizes."""
    sized = replace(problem, buffers=tuple(replace(b, size=s) for b, s in zip(problem.buffers, sizes, strict=True)))
    check(sized, dict(zip((b.id for b in problem.buffers), got.offsets, strict=True)), height=got.height)


@pytest.mark.spec("PP-28", "PP-16")
def test_a_hundred_shapes_are_all_valid_and_near_their_bound():
    problem = network()
    plan, draw = replanner(problem), random.Random(9)
    kind = [draw.choice(((1, 0), (0, 1), (1, 1))) for _ in problem.buffers]
    for _ in range(100):
        batch, length = draw.randint(0, 64), draw.randint(0, 512)
        sizes = [4 * (batch if b else 1) * (length if n else 1) * 16 for b, n in kind]
        got = plan(sizes)
        sound(problem, sizes, got)
        assert got.lower_bound <= got.height <= 1.01 * got.lower_bound


@pytest.mark.spec("PP-28")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_sizes_at_all(data):
    problem = network(30)
    sizes = data.draw(st.lists(st.integers(0, 5000), min_size=30, max_size=30))
    work, back = data.draw(st.sampled_from((0, 3000, 20_000, None))), data.draw(st.booleans())
    fast, slow = (replanner(problem, native=native, work=work, back=back)(sizes) for native in (True, False))
    assert fast == slow
    sound(problem, sizes, fast)


def test_recent_shapes_are_remembered_and_old_ones_forgotten():
    plan = replanner(network(10), recent=2)
    first = plan([1] * 10)
    assert plan([1] * 10) is first
    plan([2] * 10)
    assert plan([1] * 10) is first
    plan([3] * 10)
    plan([4] * 10)
    assert plan([1] * 10) is not first


def test_what_cannot_be_replanned_is_refused():
    windowed = PackProblem((PackBuffer("a", 4, ((0, 1), (1, 2)), windows=(None, (0, 2))),))
    with pytest.raises(UserError, match="windows"):
        replanner(windowed)
    with pytest.raises(UserError, match="3 sizes"):
        replanner(network(3))([1, 2])


def mixed(n: int, draw: random.Random) -> tuple[PackProblem, list[tuple[int, int, int]]]:
    """Lives up to 40 steps, and sizes that are products of two symbols, as (constant, power, power)."""
    forms = [(16, 1, 1), (64, 1, 1), (4096, 1, 0), (4096, 0, 1), (1024, 1, 0)]
    rows = [(i, i + draw.randint(1, 40)) for i in range(n)]
    problem = PackProblem(tuple(PackBuffer(f"t{i}", 64, (row,)) for i, row in enumerate(rows)))
    return problem, [draw.choice(forms) for _ in range(n)]


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize(("native", "shapes"), [(True, 60), (False, 12)])
def test_shapes_that_greedy_orders_miss_are_searched_to_within_a_per_cent(native, shapes):
    draw = random.Random(7)
    problem, forms = mixed(200, draw)
    plan = replanner(problem, recent=100, native=native)
    searched = 0
    for _ in range(shapes):
        s0, s1 = draw.randint(1, 128), draw.randint(1, 128)
        sizes = [c * s0**a * s1**b for c, a, b in forms]
        got = plan(sizes)
        assert got.height <= 1.01 * got.lower_bound
        sound(problem, sizes, got)
        searched += got.packer in ("descent", "backtrack")
    assert searched > 5


def crowded(n: int, draw: random.Random) -> tuple[PackProblem, list[tuple[int, int, int]]]:
    """As ``mixed``, with lives from anywhere to anywhere."""
    problem, forms = mixed(n, draw)
    spans = [tuple(sorted(draw.sample(range(2 * n), 2))) for _ in range(n)]
    return PackProblem(
        tuple(replace(b, intervals=(row,)) for b, row in zip(problem.buffers, spans, strict=True))
    ), forms


@pytest.mark.spec("PP-28")
def test_where_many_meet_descents_come_within_a_per_cent():
    draw = random.Random(7)
    problem, forms = crowded(500, draw)
    plan, packers = replanner(problem), set()
    if not compiled.library():
        pytest.skip("slow without a compiler")
    for _ in range(10):
        s0, s1 = draw.randint(1, 128), draw.randint(1, 128)
        sizes = [c * s0**a * s1**b for c, a, b in forms]
        got = plan(sizes)
        assert got.height <= 1.01 * got.lower_bound
        sound(problem, sizes, got)
        packers.add(got.packer)
    assert "descent" in packers


def hard() -> tuple[PackProblem, list[int]]:
    """A problem, and sizes at which descents do not place a peak within a per cent."""
    problem, forms = mixed(60, random.Random(9))
    return problem, [c * 109**a * 60**b for c, a, b in forms]


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize(("seed", "shape", "near"), [(24, 5, 1.01), (24, 8, 1.021), (29, 1, 1.04)])
def test_where_the_first_aim_takes_too_much_work_there_is_some_left_for_others(seed, shape, near):
    if not compiled.library():
        pytest.skip("slow without a compiler")
    draw = random.Random(seed)
    forms = [draw.choice(((16, 1, 1), (64, 1, 1), (4096, 1, 0), (4096, 0, 1), (1024, 1, 0))) for _ in range(160)]
    rows = [(i, i + draw.randint(1, 40)) for i in range(160)]
    problem = PackProblem(tuple(PackBuffer(f"t{i}", 64, (row,)) for i, row in enumerate(rows)))
    s0, s1 = [(draw.randint(1, 128), draw.randint(1, 128)) for _ in range(shape)][-1]
    sizes = [c * s0**a * s1**b for c, a, b in forms]
    got = replanner(problem)(sizes)
    assert got.packer == "backtrack" and got.height <= near * got.lower_bound
    sound(problem, sizes, got)


@pytest.mark.spec("PP-28")
def test_where_too_many_meet_descents_do_not_go_back_and_what_comes_nearest_is_looked_for(monkeypatch):
    problem, sizes = hard()
    assert replanner(problem, native=False)(sizes).packer == "backtrack"
    monkeypatch.setattr(backtrack, "_CROWDED", 0)
    without = replanner(problem, native=False)(sizes)
    assert without.packer == "descent" and 1.01 < without.height / without.lower_bound <= 1.04
    assert without == replanner(problem, back=False)(sizes) == replanner(problem, native=False, back=False)(sizes)
    sound(problem, sizes, without)


@pytest.mark.spec("PP-28")
def test_what_a_descent_could_not_place_goes_forward_for_the_next(monkeypatch):
    problem, forms = mixed(200, random.Random(7))
    shapes = [[c * s0**a * s1**b for c, a, b in forms] for s0 in (23, 56, 95, 38) for s1 in (41, 32, 113, 30)]

    def reached() -> list[bool]:
        found = [replanner(problem, native=False, back=False)(s) for s in shapes]
        return [x.height <= 1.01 * x.lower_bound for x in found]

    again = reached()
    monkeypatch.setattr(peaks, "DESCENTS", 1)
    assert sum(again) > sum(reached())


@pytest.mark.spec("PP-28")
@settings(deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=20, max_size=20), st.sampled_from((1, 64)))
def test_the_lower_bound_by_vectors_is_the_lower_bound(sizes, alignment):
    rows = network(20).buffers
    flat = flatten(PackProblem(tuple(replace(b, alignment=alignment) for b in rows)))
    sized = replace(flat, size=sizes, high=sizes)
    assert peaks.lower_bound(sized, peaks.lives_of(flat)) == lower_bound(sized)


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize("native", [True, False])
def test_layers_of_the_most_like_proportions_are_tried_and_those_that_serve_no_longer_are_forgotten(
    monkeypatch, native
):
    monkeypatch.setattr(replan, "_KNOWN", 2)
    monkeypatch.setattr(replan, "_TRIED", 1)
    problem, forms = mixed(60, random.Random(3))

    def sizes(s0: int, s1: int) -> list[int]:
        return [c * s0**a * s1**b for c, a, b in forms]

    plan = replanner(problem, native=native, recent=1)
    assert plan(sizes(64, 64)).packer != "layers"
    assert plan(sizes(2, 128)).packer != "layers"  # not of those proportions, and now known
    assert plan(sizes(65, 64)).packer == "layers"  # used later than the others
    assert plan(sizes(128, 2)).packer != "layers"
    assert plan(sizes(64, 64)).packer == "layers"
    assert plan(sizes(2, 128)).packer != "layers"


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize("make", [mixed, crowded])
@pytest.mark.parametrize("alignment", [(1,), (64,), (64, 256)])
def test_descents_and_their_twin_place_alike(make, alignment):
    draw = random.Random(4)
    problem, forms = make(50 if make is mixed else 150, draw)
    problem = PackProblem(
        tuple(replace(b, alignment=alignment[i % len(alignment)]) for i, b in enumerate(problem.buffers))
    )
    fast, slow = (replanner(problem, native=native, back=False) for native in (True, False))
    packers = set()
    for _ in range(20):
        s0, s1 = draw.randint(0, 40), draw.randint(1, 40)
        sizes = [c * s0**a * s1**b // 16 for c, a, b in forms]
        assert fast(sizes) == slow(sizes)
        packers.add(fast(sizes).packer)
    assert "descent" in packers


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize("alignment", [(64,), (64, 4096)])
def test_descents_that_go_back_and_their_twin_place_alike(alignment):
    draw = random.Random(9)
    problem, forms = mixed(60, draw)
    rows = (replace(b, alignment=alignment[i % len(alignment)]) for i, b in enumerate(problem.buffers))
    problem = PackProblem(tuple(rows))
    fast, slow = (replanner(problem, native=native, work=200_000) for native in (True, False))
    packers = set()
    for _ in range(25):
        s0, s1 = draw.randint(0, 128), draw.randint(1, 128)
        sizes = [c * s0**a * s1**b for c, a, b in forms]
        assert fast(sizes) == slow(sizes)
        packers.add(fast(sizes).packer)
    assert packers >= {"descent", "backtrack"}


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize("listed", [True, False])
def test_what_is_taken_back_stands_in_the_order_of_now(listed):
    problem, sizes = hard()
    flat = replace(flatten(problem), size=sizes, high=sizes)
    near = peaks.lives_of(flat).vectors if listed else []
    state = backtrack._State(backtrack.rows_of(peak_of(flat, near, range(60))), 2 * lower_bound(flat))
    for _ in range(12):
        assert state.place(state.pick())
    state.turn(backtrack.ORDERS[-1])
    state.take_back(4)
    free = [row for row in range(60) if row not in state.steps]
    assert len(free) == 56
    assert [state.key[row] % 60 for row in free] == [state.rank[row] for row in free]
    state.take_back(0)
    assert state.key[:-1].tolist() == state.rank[:-1].tolist()
    assert state.bar.tolist() == [(state.room + 1 - x) * 60 for x in state.peak.total.tolist()]


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize("listed", [True, False])
def test_what_nothing_could_wake_is_not_put_to_sleep_and_the_step_before_goes_back_too(listed):
    spans = ((0, 10), (0, 2), (3, 5))  # the last two do not meet
    flat = flatten(PackProblem(tuple(PackBuffer(f"t{i}", 64, (span,)) for i, span in enumerate(spans))))
    near = peaks.lives_of(flat).vectors if listed else []
    state = backtrack._State(backtrack.rows_of(peak_of(flat, near, range(3))), 2 * 64)
    assert state.place(0) and state.place(2)
    assert state.go_back()
    assert not state.steps and state.asleep == {0}
    assert state.pick() == 2  # the latest to end of those awake


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize(("seed", "shape"), [(5, 3), (27, 3)])
def test_a_descent_that_goes_back_and_changes_its_order_ends_where_its_twin_does(monkeypatch, seed, shape):
    draw = random.Random(seed)
    problem, forms = mixed(200, draw)
    s0, s1 = [(draw.randint(1, 128), draw.randint(1, 128)) for _ in range(shape + 1)][-1]
    sizes = [c * s0**a * s1**b for c, a, b in forms]
    orders, turn = [], backtrack._State.turn

    def turned(state, order):
        orders.append((order, len(state.steps)))
        turn(state, order)

    monkeypatch.setattr(backtrack._State, "turn", turned)
    slow = replanner(problem, native=False)(sizes)
    assert any(order != backtrack.ORDERS[0] and depth for order, depth in orders)  # back some way
    fast = replanner(problem)(sizes)
    assert fast == slow and fast.packer == "backtrack"
    assert fast.height <= 1.01 * fast.lower_bound
    sound(problem, sizes, fast)


@pytest.mark.spec("PP-28")
def test_several_lives_fixed_places_and_exclusions_are_planned_anew_too():
    rows = (
        PackBuffer("a", 64, ((0, 2), (4, 6))), PackBuffer("b", 64, ((1, 5),)), PackBuffer("c", 64, ((2, 4),)),
        PackBuffer("d", 64, ((0, 9),), offset=128), PackBuffer("e", 64, ((1, 3),)),
    )  # fmt: skip
    problem = PackProblem(rows, exclusions=(("b", "e"),))
    for sizes in ([640, 64, 64, 128, 64], [0, 64, 1, 64, 200], [64, 0, 0, 64, 0]):
        got = replanner(problem)(sizes)
        sound(problem, sizes, got)
    never = PackProblem(
        (PackBuffer("a", 64, ()), PackBuffer("b", 64, ((0, 1), (4, 5))), PackBuffer("d", 64, ((0, 1),)))
    )
    for sizes in ([0, 1024, 64], [64, 64, 1024]):  # as many lives as buffers, but not one each
        fast, slow = (replanner(never, native=native)(sizes) for native in (True, False))
        assert fast == slow
        sound(never, sizes, fast)


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize("native", [True, False])
def test_layers_of_an_earlier_shape_serve_one_of_like_proportions(native):
    problem, forms = mixed(60, random.Random(3))
    plan = replanner(problem, native=native)
    first, again = ([c * s**a * 64**b for c, a, b in forms] for s in (64, 65))
    assert plan(first).packer != "layers"
    got = plan(again)
    assert got.packer == "layers" and got.height <= 1.01 * got.lower_bound
    sound(problem, again, got)


@pytest.mark.spec("PP-28")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_layers_settle_correctly_at_any_sizes_and_refuse_a_byte_less(data):
    problem = network(20)
    vectors = st.lists(st.integers(0, 5000), min_size=20, max_size=20)
    made, sizes = data.draw(vectors), data.draw(vectors)
    flat = flatten(problem)
    known = layers(flat, replanner(problem, native=False)(made).offsets)
    sized = replace(flat, size=sizes, high=sizes)
    offsets = settle(sized, known, 1 << 40)
    assert offsets is not None
    height = max((x + n for x, n in zip(offsets, sizes, strict=True) if n), default=0)
    sound(problem, sizes, Replanned(tuple(offsets), height, 0, "layers"))
    assert settle(sized, known, height) == offsets
    assert not height or settle(sized, known, height - 1) is None


def test_numbers_of_both_twins_are_the_same():
    text = (Path(backtrack.__file__).parent / "backtrack.cpp").read_text()
    (line,) = re.findall(r"^constexpr i64 (.*);", text, re.M)
    found = dict(re.findall(r"(\w+) = ([^,]+)", line.replace("'", "")))
    expected = (backtrack._CROWDED, backtrack._PATIENCE, backtrack._BACK, backtrack._LOOKS)
    assert tuple(int(found[name]) for name in ("kCrowded", "kPatience", "kBack", "kLooks")) == expected
    assert found["kKeys"] == "i64(1) << 61" and backtrack._KEYS == 1 << 61
    text = (Path(replan.__file__).parent / "replan.cpp").read_text()
    assert f"kTurns = {peaks._TURNS}, kMade = {peaks._MADE};" in text and f"kNear = {replan._NEAR};" in text
    tries = ", ".join(f"{{{above}, {hot}, {part}}}" for above, hot, part in peaks._TRIES)
    assert f"kTries[] = {{{tries}}};" in text
    letters = ", ".join(f'"0{letters}"' for letters in ("TWA", *backtrack.ORDERS))
    assert f"kPeaks[] = {{{letters}}};" in text
    text = (Path(replan.__file__).parent / "repair.cpp").read_text()
    numbers = f"kDescents = {descent.DESCENTS}, kLeftOver = {descent._LEFT_OVER}, kStuck = {descent._STUCK};"
    assert numbers in text


@pytest.mark.spec("PP-28")
def test_a_feature_that_is_none_is_a_bug():
    with pytest.raises(BugError, match="called S"):
        order_of(peak_of(flatten(network()), [], range(120)), "TS")


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize("back", [True, False])
def test_all_stages_take_from_one_work_and_twins_end_it_alike(monkeypatch, back):
    problem, sizes = hard()
    left, found = [], []

    class Watched(Work):
        def __setattr__(self, name, value):
            left.append(value)
            super().__setattr__(name, value)

    monkeypatch.setattr(replan, "Work", Watched)
    most_over = 2 * 60**2 + 64 * 60  # of one descent, one round around it, and what making a peak takes
    for work in (0, 20_000, 60_000, 200_000, 600_000, 2_000_000):
        left.clear()
        found.append(replanner(problem, native=False, work=work, back=back)(sizes))
        sound(problem, sizes, found[-1])
        assert found[-1] == replanner(problem, work=work, back=back)(sizes)
        assert left[0] == work // 2 and min(left) >= -most_over
        assert back or work > 60_000 or min(left) <= 0
    assert found[0].packer in ("size", "breadth") and found[0].height > found[-1].height
    assert not back or (found[-1].packer == "backtrack" and found[-1].height <= 1.01 * found[-1].lower_bound)


@pytest.mark.spec("PP-28")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(((1,), (64,), (64, 256))))
def test_around_peaks_lists_vectors_and_further_rounds_place_alike(seed, strides):
    draw = random.Random(seed)
    problem, _ = crowded(30, draw)
    rows = (replace(b, alignment=strides[i % len(strides)]) for i, b in enumerate(problem.buffers))
    flat = replace(
        flatten(PackProblem(tuple(rows))), size=[draw.choice((0, 1, 64, draw.randint(1, 2000))) for _ in range(30)]
    )
    lives = peaks.lives_of(flat)
    by_vectors = replace(lives, near=[])
    order = sorted(range(30), key=lambda i: -flat.size[i])
    a, b = draw.sample([i for i in order if flat.size[i]], 2)
    for ways in (lives, by_vectors):
        before: list[int] = []
        for places in ({a: 0}, {a: 0, b: 4096}, {a: 2048, b: 4096}, {a: 2048, b: 0}):
            work = Work(0)
            before = peaks._around(flat, ways, places, order, before, work)
            whole = Work(0)
            assert before == peaks._around(flat, lives, places, order, [], whole)
            assert whole.left <= work.left <= 0


@pytest.mark.spec("PP-28")
def test_a_further_round_looks_only_at_what_meets_something_that_moved():
    rows = [(0, 4), (1, 5), (2, 6), (10, 14), (11, 15), (12, 16)]
    flat = flatten(PackProblem(tuple(PackBuffer(f"t{i}", 64, (row,)) for i, row in enumerate(rows))))
    lives, order, work = peaks.lives_of(flat), range(6), Work(0)
    before = peaks._around(flat, lives, {0: 0}, order, [], work)
    assert work.left == -5 * 6
    again = peaks._around(flat, lives, {0: 64}, order, before, work)
    assert work.left == -7 * 6  # the two that live with the first
    assert again[3:] == before[3:] and again[:3] == [64, 0, 128]


@pytest.mark.spec("PP-28")
def test_descents_of_both_twins_take_the_same_work():
    problem, forms = mixed(200, random.Random(7))
    found = set()
    for s0, s1 in ((23, 41), (56, 32)):
        sizes = [c * s0**a * s1**b for c, a, b in forms]
        for work in range(50_000, 1_000_000, 150_000):
            fast, slow = (replanner(problem, native=native, work=work, back=False)(sizes) for native in (True, False))
            assert fast == slow
            found.add(fast)
    assert len(found) > 3


@pytest.mark.spec("PP-28")
def test_vectors_serve_where_many_meet():
    few, many = (
        peaks.lives_of(flatten(PackProblem(tuple(make(n, random.Random(1))[0].buffers))))
        for make, n in ((mixed, 200), (crowded, 250))
    )
    assert few.near and not many.near
    assert [x.tolist() for x in few.vectors] == few.near


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize("strides", [(64,), (64, 4096)])
@pytest.mark.parametrize("back", [True, False])
def test_descents_place_alike_whether_what_meets_is_listed_or_not(monkeypatch, strides, back):
    problem, forms = mixed(60, random.Random(9))
    rows = (replace(b, alignment=strides[i % len(strides)]) for i, b in enumerate(problem.buffers))
    problem = PackProblem(tuple(rows))
    shapes = [[c * s0**a * s1**b for c, a, b in forms] for s0, s1 in ((109, 60), (23, 41), (56, 32), (95, 113))]
    listed = [replanner(problem, native=False, work=200_000, back=back)(sizes) for sizes in shapes]
    monkeypatch.setattr(peaks, "_MANY", 0)
    assert [replanner(problem, native=False, work=200_000, back=back)(sizes) for sizes in shapes] == listed
    assert {x.packer for x in listed} & {"descent", "backtrack"}


@pytest.mark.spec("PP-28")
def test_descents_place_sizes_that_need_more_than_64_bits_with_a_place_in_the_order():
    problem, forms = mixed(60, random.Random(3))
    problem = PackProblem(tuple(replace(b, alignment=1) for b in problem.buffers))
    sizes = [(c * 64**a * 64**b << 36) + k for k, (c, a, b) in enumerate(forms)]
    got = replanner(problem, native=False)(sizes)
    assert got.packer == "descent" and got.height <= 1.01 * got.lower_bound
    assert got.lower_bound > (1 << 63) // 60
    sound(problem, sizes, got)


@pytest.mark.spec("PP-28")
def test_after_every_step_each_section_is_asked(monkeypatch):
    problem, sizes = hard()
    said = []

    def by_definition(state, first, end):
        answer = can(state, first, end)
        rows = range(state.count)
        least = [state.room if state.placed[row] else int(state.key[row]) // state.count for row in rows]
        covered = [[q for q in rows if state.lo[q] <= s < state.hi[q]] for s in range(len(state.peak.total))]
        left = [sum(int(state.peak.size[q]) for q in row if not state.placed[q]) for row in covered]
        said.append(all(min(least[q] for q in row) + x <= state.room for row, x in zip(covered, left, strict=True)))
        assert answer == said[-1]
        return answer

    can = backtrack._State.all_can
    monkeypatch.setattr(backtrack._State, "all_can", by_definition)
    replanner(problem, native=False)(sizes)
    assert 10 < sum(said) < len(said) - 10


@pytest.mark.spec("PP-28")
def test_orders_of_descents_are_those_of_the_exact_search():
    problem, forms = mixed(80, random.Random(2))
    flat = flatten(problem)
    sized = replace(flat, size=[c * 3**a * 5**b for c, a, b in forms])
    names = ("lowest:TWA", *(f"lowest:{x}" for x in backtrack.ORDERS), *(f"lowest:{x}" for x in "TWALFOH"))
    ranks = sections_of(sized, names).ranks
    peak = peak_of(sized, [], range(80))
    for name, rank in zip(names, ranks, strict=True):
        assert [rank[i] for i in order_of(peak, name.partition(":")[2])] == list(range(80))
