"""Packers against brute force, against their compiled twin, and on what only some problems have."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowtide.core.errors import FileError, OptionError, VerifyError
from lowtide.plan import compiled, greedy
from lowtide.plan import search as twin
from lowtide.plan import windows as windows_of_time
from lowtide.plan.check import check
from lowtide.plan.flat import flatten, lower_bound
from lowtide.plan.pack import pack
from lowtide.plan.pools import in_one_pool
from lowtide.plan.problem import FEASIBLE, INFEASIBLE, OPTIMAL, PackBuffer, PackProblem, total_size
from lowtide.plan.reduce import linearise
from lowtide.plan.sections import sections_of

needs_compiler = pytest.mark.skipif(compiled.library() is None, reason=compiled.why_not() or "")


@st.composite
def intervals(draw, most=8, parts=2):
    many = draw(st.integers(1, parts))
    times = sorted(draw(st.sets(st.integers(0, most), min_size=2 * many, max_size=2 * many)))
    return tuple((times[k], times[k + 1]) for k in range(0, len(times), 2))


@st.composite
def problems(draw, most=6, windows=False, exclusions=False):
    alignments = draw(st.sampled_from([(1,), (1, 2, 4), (4,), (64,)]))
    buffers = []
    for i in range(draw(st.integers(1, most))):
        life, size = draw(intervals()), draw(st.integers(0, 6))
        shape = ()
        if windows and size and draw(st.booleans()):
            low = draw(st.integers(0, size - 1))
            shape = tuple(draw(st.sampled_from([None, (low, size), (0, size - low)])) for _ in life)
        buffers.append(PackBuffer(str(i), size, life, draw(st.sampled_from(alignments)), windows=shape))
    pairs = list(itertools.combinations([b.id for b in buffers], 2))
    out = tuple(draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3))) if exclusions and pairs else ()
    return PackProblem(tuple(buffers), exclusions=out)


def least_height(problem: PackProblem) -> int:
    """The optimum: some order of placing at the lowest free offset reaches it."""
    flat = flatten(problem)
    return min(greedy.height_of(flat, greedy.place(flat, o)) for o in itertools.permutations(range(flat.count)))


@pytest.mark.spec("PP-32", "G9")
@settings(max_examples=150, deadline=None)
@given(problems())
def test_exact_search_finds_the_least_height_and_proves_it(problem):
    best = least_height(problem)
    result = pack(problem, seconds=30)
    check(problem, result.offsets, height=result.height)
    assert (result.height, result.status) == (best, OPTIMAL)
    assert result.lower_bound <= best
    if best > 0:
        tight = pack(replace(problem, capacity=best - 1), seconds=30)
        assert tight.status == INFEASIBLE
        assert tight.conflict
        few = tuple(b for b in problem.buffers if b.id in tight.conflict)
        assert least_height(PackProblem(few)) > best - 1


@pytest.mark.spec("PP-32", "G2")
@settings(max_examples=150, deadline=None)
@given(problems(windows=True, exclusions=True))
def test_every_packer_is_correct_and_never_below_the_bound(problem):
    result = pack(problem, seconds=0.05, nodes=200)
    check(problem, result.offsets, height=result.height)
    assert result.lower_bound <= least_height(problem) <= result.height
    assert all(height >= result.height for _, height in result.tried)


@pytest.mark.spec("G9")
@settings(max_examples=100, deadline=None)
@given(problems(most=12))
def test_planned_bytes_lie_between_the_bound_and_no_sharing_at_all(problem):
    result = greedy.pack_greedy(problem)
    check(problem, result.offsets, height=result.height)
    assert result.lower_bound <= result.height <= total_size(problem)


@needs_compiler
@settings(max_examples=150, deadline=None)
@given(problems(most=12, windows=True, exclusions=True), st.booleans())
def test_compiled_greedy_equals_its_twin(problem, best):
    flat = flatten(problem)
    place = compiled.placer(flat, compiled.library())
    for order in greedy.orders(flat).values():
        assert place(order, best=best) == greedy.place(flat, order, best=best)


@needs_compiler
@pytest.mark.spec("PP-32")
@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12), st.integers(1, 300)), min_size=1, max_size=80),
    st.sampled_from([1, 64]),
)
def test_the_short_way_of_best_fit_over_time_gives_the_places_of_the_scan(rows, alignment):
    buffers = tuple(PackBuffer(str(i), size, ((a, a + n),), alignment) for i, (a, n, size) in enumerate(rows))
    flat = flatten(PackProblem(buffers))
    order = greedy.order_by(flat, "time")
    fast, scan = (compiled.placer(flat, compiled.library(), scan=s)(order, best=True) for s in (False, True))
    assert fast == scan == greedy.place(flat, order, best=True)


@needs_compiler
@pytest.mark.spec("PP-32")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_repair_in_windows_is_correct_and_never_higher(seed):
    draw = random.Random(seed)
    rows = [(t, t + draw.randint(1, 9), draw.randint(1, 500)) for t in (draw.randrange(60) for _ in range(90))]
    problem = PackProblem(tuple(PackBuffer(str(i), s, ((a, z),), 64) for i, (a, z, s) in enumerate(rows)))
    flat = flatten(problem)
    start = greedy.place(flat, greedy.order_by(flat, "time"))
    offsets, _ = compiled.repair(compiled.library(), flat, start, lower_bound(flat), math.inf)
    height = greedy.height_of(flat, offsets)
    check(problem, {str(i): x for i, x in enumerate(offsets)}, height=height)
    assert height <= greedy.height_of(flat, start)


@needs_compiler
@pytest.mark.spec("PP-32")
@pytest.mark.parametrize("seed", range(6))
def test_repair_in_windows_equals_its_twin(seed):
    draw = random.Random(seed)
    rows = [(t, t + draw.randint(1, 9), draw.randint(1, 500)) for t in (draw.randrange(40) for _ in range(50))]
    grain, unit = (64, 1) if seed else (1, 4)  # sizes with a common divisor that is no alignment
    problem = PackProblem(tuple(PackBuffer(str(i), s * unit, ((a, z),), grain) for i, (a, z, s) in enumerate(rows)))
    flat = flatten(problem)
    start = greedy.place(flat, greedy.order_by(flat, "time"))
    twin = windows_of_time.repair(flat, start, lower_bound(flat), math.inf, 3000)
    assert compiled.repair(compiled.library(), flat, start, lower_bound(flat), math.inf, 3000) == twin
    height = greedy.height_of(flat, twin[0])
    check(problem, {str(i): x for i, x in enumerate(twin[0])}, height=height)


@needs_compiler
@pytest.mark.spec("PP-32", "G9")
def test_many_buffers_that_are_hard_in_few_moments_only_come_near_their_bound(monkeypatch):
    monkeypatch.setattr("lowtide.plan.pack.EXACT_LIMIT", 1000)
    draw = random.Random(3)
    rows = [(t, t + draw.randint(1, 40), draw.randint(1, 1 << 20)) for t in (draw.randrange(1500) for _ in range(1500))]
    problem = PackProblem(tuple(PackBuffer(str(i), s, ((a, z),), 64) for i, (a, z, s) in enumerate(rows)))
    result = pack(problem, seconds=60, packers=("time", "exact"))
    check(problem, result.offsets, height=result.height)
    assert result.height <= 1.005 * result.lower_bound < dict(result.tried)["time/best"]


@needs_compiler
@settings(max_examples=200, deadline=None)
@given(problems(most=10), st.integers(0, 4), st.integers(1, 60), st.sampled_from([None, 0, 4]))
def test_compiled_search_visits_the_same_nodes_as_its_twin(problem, slack, budget, fixed):
    if fixed is not None and fixed % problem.buffers[0].alignment == 0:
        first = replace(problem.buffers[0], offset=fixed)
        problem = PackProblem((first, *problem.buffers[1:]))
    flat = flatten(problem)
    sections, capacity = sections_of(flat), lower_bound(flat) + slack
    fast = compiled.decide(compiled.library(), sections, capacity, budget, 60.0)
    slow = twin.search(sections, capacity, budget, 60.0)
    assert fast == slow


@needs_compiler
def test_compiled_and_python_give_the_same_result_of_the_portfolio():
    problem = staircase(40)
    fast, slow = (pack(problem, seconds=60, nodes=400, native=n, packers=("size", "exact")) for n in (True, False))
    assert fast.offsets == slow.offsets
    assert fast.nodes == slow.nodes


def staircase(n: int) -> PackProblem:
    return PackProblem(
        tuple(PackBuffer(f"s{i}", 64 * (1 + i * 7 % 5), ((i, i + 2 + i * 3 % 4),)) for i in range(n)),
    )


def test_same_problem_same_answer():
    problem = staircase(60)
    assert pack(problem, nodes=1000, seconds=60).offsets == pack(problem, nodes=1000, seconds=60).offsets


def test_nothing_to_place():
    assert pack(PackProblem(())).height == 0
    alone = PackProblem((PackBuffer("never", 10, ()), PackBuffer("empty", 0, ((0, 4),))))
    result = pack(alone)
    assert (result.height, result.status) == (0, OPTIMAL)
    check(alone, result.offsets, height=0)


def test_large_sizes_do_not_overflow():
    big = 1 << 45
    problem = PackProblem(tuple(PackBuffer(str(i), big + i, ((i, i + 3),)) for i in range(40)))
    result = pack(problem, seconds=30)
    check(problem, result.offsets, height=result.height)
    assert result.height >= 3 * big


@pytest.mark.spec("PP-31")
def test_fixed_places_stay_and_others_go_around():
    problem = PackProblem((
        PackBuffer("in", 10, ((0, 9),), 1, offset=5),
        PackBuffer("a", 5, ((1, 3),), 1),
        PackBuffer("b", 6, ((1, 3),), 1),
    ))  # fmt: skip
    result = pack(problem)
    check(problem, result.offsets, height=result.height)
    assert result.offsets == {"in": 5, "a": 0, "b": 15}
    assert result.status == OPTIMAL


def test_fixed_places_that_collide_are_infeasible_and_named():
    problem = PackProblem((
        PackBuffer("x", 10, ((0, 5),), 1, offset=0),
        PackBuffer("y", 10, ((4, 9),), 1, offset=8),
        PackBuffer("z", 10, ((4, 9),), 1),
    ))  # fmt: skip
    result = pack(problem)
    assert (result.status, result.conflict) == (INFEASIBLE, ("x", "y"))


def test_conflict_is_irreducible():
    buffers = tuple(PackBuffer(f"b{i}", 10 + i, ((i % 2, 3),), 1) for i in range(8))
    result = pack(PackProblem(buffers, capacity=40))
    assert result.status == INFEASIBLE
    sizes = [b.size for b in buffers if b.id in result.conflict]
    assert sum(sizes) > 40 >= sum(sizes) - min(sizes)


def test_conflict_that_needs_search_is_small():
    """Bound 7 everywhere, yet nothing fits 7; a crowd of harmless buffers beside it is left out."""
    hard = PackProblem((
        PackBuffer("a", 3, ((0, 2),), 1), PackBuffer("b", 4, ((1, 4),), 1), PackBuffer("c", 3, ((3, 6),), 1),
        PackBuffer("d", 4, ((0, 1),), 1), PackBuffer("e", 3, ((2, 3),), 1), PackBuffer("f", 4, ((5, 7),), 1),
        PackBuffer("g", 2, ((4, 5),), 1), PackBuffer("h", 2, ((4, 5),), 1), PackBuffer("i", 3, ((6, 9),), 1),
    ))  # fmt: skip
    best = least_height(hard)
    bound = lower_bound(flatten(hard))
    crowd = tuple(PackBuffer(f"x{i}", 2, ((20 + i, 22 + i),), 1) for i in range(20))
    if best > bound:
        result = pack(PackProblem(hard.buffers + crowd, capacity=best - 1), seconds=30)
        assert result.status == INFEASIBLE
        assert not [name for name in result.conflict if name.startswith("x")]


@pytest.mark.spec("PP-29")
def test_a_conditional_costs_the_most_of_its_arms_not_their_sum():
    problem = PackProblem((
        PackBuffer("before", 4, ((0, 6),), 1),
        PackBuffer("then", 10, ((1, 4),), 1, arms=(("if", 0),)),
        PackBuffer("else", 7, ((1, 4),), 1, arms=(("if", 1),)),
        PackBuffer("inner", 6, ((2, 3),), 1, arms=(("if", 1), ("deep", 0))),
        PackBuffer("other", 5, ((2, 3),), 1, arms=(("if", 1), ("deep", 1))),
        PackBuffer("late", 3, ((2, 9),), 1),
    ))  # fmt: skip
    result = pack(problem)
    check(problem, result.offsets, height=result.height)
    assert (result.height, result.status) == (4 + 7 + 6 + 3, OPTIMAL)
    assert all(not b.arms for b in linearise(problem).buffers)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(intervals(), st.integers(1, 6), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=7)
)
def test_conditionals_are_packed_correctly(rows):
    def arms(kind, nested):
        return () if kind == 0 else (("c", kind),) if nested == 0 else (("c", kind), (f"n{kind}", nested))

    buffers = tuple(PackBuffer(str(i), s, life, 1, arms=arms(k, n)) for i, (life, s, k, n) in enumerate(rows))
    problem = PackProblem(buffers)
    result = pack(problem, seconds=0.2, nodes=500)
    check(problem, result.offsets, height=result.height)
    plain = pack(PackProblem(tuple(replace(b, arms=()) for b in buffers)), seconds=0.2, nodes=500)
    if plain.status == result.status == OPTIMAL:
        assert result.height <= plain.height


@pytest.mark.spec("PP-34")
def test_merges_are_chosen_when_they_help_and_only_then():
    chain = tuple(PackBuffer(f"v{i}", 64, ((i, i + 2),)) for i in range(5))
    merges = tuple((f"v{i}", f"v{i + 1}") for i in range(4))
    problem = PackProblem(chain, merges=merges)
    result = pack(problem)
    check(problem, result.offsets, height=result.height)
    assert (result.height, result.status) == (64, OPTIMAL)
    assert pack(replace(problem, merges=())).height == 128


@pytest.mark.spec("PP-34")
def test_a_merge_is_chosen_globally_not_first_come():
    """Two born at one step may take over the same dying buffer; the right choice is the larger one."""
    problem = PackProblem(
        (PackBuffer("x", 8, ((0, 2),), 1), PackBuffer("small", 2, ((1, 3),), 1), PackBuffer("large", 8, ((1, 3),), 1)),
        merges=(("x", "small"), ("x", "large")),
    )
    result = pack(problem)
    check(problem, result.offsets, height=result.height)
    assert result.height == 10


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 6)), min_size=2, max_size=7))
def test_merges_give_correct_placements_not_above_those_without(rows):
    buffers = tuple(PackBuffer(str(i), size, ((a, a + n),), 1) for i, (a, n, size) in enumerate(rows))
    merges = tuple(
        (a.id, b.id)
        for a in buffers
        for b in buffers
        if a is not b and b.size <= a.size and a.intervals[0][1] == b.intervals[0][0] + 1
    )
    problem = PackProblem(buffers, merges=merges)
    result = pack(problem, seconds=1, nodes=2000)
    check(problem, result.offsets, height=result.height)
    assert result.lower_bound <= result.height <= greedy.pack_greedy(replace(problem, merges=())).height


def test_unknown_packer_and_nonsense_are_refused():
    with pytest.raises(OptionError, match="no packer 'magic'"):
        pack(PackProblem(()), packers=("magic",))
    with pytest.raises(FileError, match=r"buffers\[1\]\.id"):
        pack(PackProblem((PackBuffer("a", 1, ((0, 1),)), PackBuffer("a", 1, ((0, 1),)))))
    with pytest.raises(FileError, match=r"buffers\[0\]\.intervals"):
        pack(PackProblem((PackBuffer("a", 1, ((3, 1),)),)))


@pytest.mark.spec("PP-36")
def test_without_a_compiler_the_python_twins_serve(monkeypatch):
    monkeypatch.setattr(compiled, "library", lambda: None)
    monkeypatch.setattr(compiled, "why_not", lambda: "no C++ compiler was found")
    problem = staircase(50)
    result = pack(problem, seconds=30, nodes=300)
    check(problem, result.offsets, height=result.height)
    assert any("no C++ compiler" in note for note in result.notes)


def test_capacity_in_between_is_feasible_not_optimal():
    problem = PackProblem((PackBuffer("a", 5, ((0, 2),), 1), PackBuffer("b", 5, ((3, 4),), 1, offset=3)), capacity=9)
    result = pack(problem)
    assert result.status in (OPTIMAL, FEASIBLE)
    check(problem, result.offsets, height=result.height)


@pytest.mark.spec("PP-35", "G2")
@settings(max_examples=100, deadline=None)
@given(problems(most=8), st.data())
def test_checker_refuses_a_moved_buffer_that_runs_into_another(problem, data):
    offsets = greedy.pack_greedy(problem).offsets
    check(problem, offsets)
    meeting = [
        (a, b)
        for a, b in itertools.combinations(problem.buffers, 2)
        if a.size and b.size and any(x < w and y < z for x, z in a.intervals for y, w in b.intervals)
    ]
    if not meeting:
        return
    a, b = data.draw(st.sampled_from(meeting))
    with pytest.raises(VerifyError, match=r"overlap|misaligned"):
        check(problem, {**offsets, a.id: offsets[b.id]})


@pytest.mark.spec("G2")
def test_in_ten_thousand_random_sets_of_lives_nothing_alive_shares_a_byte():
    """Each set goes to one of the greedy orders, with first or best fit, or to the tree; the pairs are looked at here."""
    ways = [(name, best) for name in (*greedy.ORDERS, "tree") for best in (False, True)]
    draw = random.Random(2)
    for k in range(10_000):
        lives = [
            (draw.randrange(9), draw.randint(1, 5), draw.choice((0, 1, 3, 64, 100))) for _ in range(draw.randint(2, 9))
        ]
        alignment = draw.choice((1, 8, 64))
        buffers = [PackBuffer(str(i), n, ((t, t + life),), alignment) for i, (t, life, n) in enumerate(lives)]
        flat, (name, best) = flatten(PackProblem(tuple(buffers))), ways[k % len(ways)]
        at = in_one_pool(flat) if name == "tree" else greedy.place(flat, greedy.order_by(flat, name), best=best)
        for (t, life, n), x in zip(lives, at, strict=True):
            assert x % alignment == 0
            others = [(m, y) for (u, more, m), y in zip(lives, at, strict=True) if u < t + life and t < u + more]
            assert sum(n > 0 < m and y < x + n and x < y + m for m, y in others) == (n > 0), "but itself"
