"""The pieces of the exact search, each against a naive account: sets, closures, contraction, implied orderings."""

from __future__ import annotations

import random

import graphs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from order_oracle import Rules, optimum

from lowtide.memory.flat import flatten, live_bytes, peak_bytes
from lowtide.memory.graph import MemoryGraph
from lowtide.order.bounds import cut_bound, end_bound, holders_of, least_during
from lowtide.order.contract import contracted
from lowtide.order.descent import Decision
from lowtide.order.entrants import ENTRANTS
from lowtide.order.exact import close
from lowtide.order.implied import Implied, _Look, implied
from lowtide.order.masks import Masks, alive_after, alive_between, bits, cost, lowest, masks_of, worth
from lowtide.order.windows import improve, piece_of, pieces

SHAPES = st.sampled_from(sorted(graphs.SHAPES))
SEEDS = st.integers(0, 10**6)


def closed_sets(g: MemoryGraph) -> list[int]:
    """Every set of nodes that can have run."""
    needs = [sum(1 << p for p in x) for x in Rules(g).needs]
    seen, todo = {0}, [0]
    for done in todo:
        for i, need in enumerate(needs):
            following = done | 1 << i
            if not need & ~done and following not in seen:
                seen.add(following)
                todo.append(following)
    return todo


def members(done: int) -> set[int]:
    return set(bits(done))


@pytest.mark.spec("PK-05", "PK-16", "PK-19")
@given(SHAPES, SEEDS, st.integers(1, 8))
def test_costs_are_a_function_of_the_set(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    masks, rules = masks_of(flatten(g)), Rules(g)
    for done in closed_sets(g)[:200]:
        alive = sum(rules.buffer[s].nbytes for s in rules.alive(members(done)))
        assert alive_after(masks, done) == alive
        assert alive_between(masks, 0, masks.flat.base, done) == alive
        for i in range(masks.n):
            if not done >> i & 1 and not masks.pred[i] & ~done:
                hill, net = cost(masks, i, done)
                assert alive + hill == rules.step(members(done), i)
                assert alive + net == alive_after(masks, done | 1 << i)


@pytest.mark.spec("PK-18")
@given(SHAPES, SEEDS, st.integers(1, 9))
def test_the_cheapest_set_is_the_cheapest(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    masks, rng = masks_of(flatten(g)), random.Random(seed)
    sets = closed_sets(g)
    low, high = rng.choice(sets), rng.choice(sets)
    low &= high
    between = [x for x in sets if x & low == low and not x & ~high]
    found, _ = lowest(masks, low, bits(high & ~low))
    assert found in between
    assert alive_after(masks, found) == min(alive_after(masks, x) for x in between)


@pytest.mark.spec("PK-18")
@given(SHAPES, SEEDS, st.integers(1, 9))
def test_cut_bounds_hold_and_meet_the_best_set(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    flat, rules = flatten(g), Rules(g)
    sets = closed_sets(g)
    doubtful = any(flat.pairs) or any(flat.shared)
    for v in range(flat.n):
        true = min(rules.step(members(x), v) for x in sets if not x >> v & 1 and rules.needs[v] <= members(x))
        least, _ = least_during(flat, holders_of(flat), v, 10**6)
        assert least <= true
        assert doubtful or least == true
        assert least_during(flat, holders_of(flat), v, 1)[0] <= true


@pytest.mark.spec("PK-18")
@given(SHAPES, SEEDS, st.integers(1, 10))
def test_bounds_are_below_the_optimum(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    flat = flatten(g)
    order = list(range(flat.n))
    floor, _ = end_bound(flat)
    bound, *_ = cut_bound(flat, order, live_bytes(flat, order), floor, 10**6, [-1] * flat.n)
    assert floor <= bound <= optimum(g)


@pytest.mark.spec("PK-12", "PK-18")
@given(SHAPES, SEEDS, st.integers(1, 10))
def test_decisions_are_right_at_every_limit_around_the_optimum(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    flat, best = flatten(g), optimum(g)
    masks = masks_of(flat)
    for limit in {best - 1, best, best + 1, best * 2, best // 2}:
        decision = Decision(masks, limit)
        while not decision.run(7):
            pass
        assert (decision.order is not None) == (limit >= best)
        if decision.order is not None:
            assert peak_bytes(flat, decision.order) == worth(masks, decision.order) <= limit
        else:
            assert limit < decision.over <= best


@pytest.mark.spec("PK-12", "PK-18")
@pytest.mark.parametrize(
    ("shape", "seed", "n"), [("scratch", 75, 10), ("scratch", 294, 12), ("plain", 104, 14), ("scratch", 219, 14)]
)
def test_a_set_gives_way_to_a_cheaper_one_between(shape: str, seed: int, n: int):
    """Graphs on which going straight to the set found, past a cheaper one, loses the optimum."""
    g = graphs.make(shape, seed, n)
    decision = Decision(masks_of(flatten(g)), optimum(g))
    assert decision.run(10**6)
    assert decision.order is not None


def least_by_trying(masks: Masks, v: int) -> int:
    """Least bytes alive while ``v`` runs, over every set that can precede it."""
    seen, todo = {masks.before[v]}, [masks.before[v]]
    for done in todo:
        for x in bits(masks.full & ~(masks.behind[v] | 1 << v | done)):
            if not masks.pred[x] & ~done and done | 1 << x not in seen:
                seen.add(done | 1 << x)
                todo.append(done | 1 << x)
    return min(alive_after(masks, done) + cost(masks, v, done)[0] for done in todo)


@pytest.mark.spec("PK-18")
@given(SHAPES, SEEDS, st.integers(2, 12))
def test_what_is_implied_rests_on_true_costs(shape: str, seed: int, n: int):
    masks = masks_of(contracted(masks_of(flatten(graphs.make(shape, seed, n)))).flat)
    for v in range(masks.n):
        true = least_by_trying(masks, v)
        look = _Look(Implied(masks), masks, list(range(masks.n)), v, true)
        assert look.least <= true
        assert look.least == true or masks.pairs[v] or masks.begins[v]


@pytest.mark.spec("PK-12", "PK-18")
@given(SHAPES, SEEDS, st.integers(1, 10))
def test_implied_orderings_keep_every_order_within_the_limit(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    flat, best = flatten(g), optimum(g)
    masks = masks_of(flat)
    for limit in {best, best + 3}:
        found = implied(masks, limit, 10**6)
        assert found.masks is not None
        decision = Decision(found.masks, limit)
        assert decision.run(10**6)
        assert decision.order is not None
        assert peak_bytes(flat, decision.order) <= limit
        assert found.over > limit
    below = implied(masks, best - 1, 10**6)
    if below.masks is None:
        assert best - 1 < below.over <= best
    else:
        decision = Decision(below.masks, best - 1)
        assert decision.run(10**6)
        assert decision.order is None
        assert best - 1 < min(decision.over, below.over) <= best


@pytest.mark.spec("PK-12", "PK-18")
@given(SHAPES, SEEDS, st.integers(1, 11))
@example("inplace", 86, 5)  # a node that only reads keeps its operand from being taken over
@example("inplace", 165, 5)
def test_contraction_keeps_the_optimum(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    flat = flatten(g)
    smaller = contracted(masks_of(flat))
    start = list(range(smaller.flat.n))
    found = close(smaller.flat, start, 0, 10**6)
    order = smaller.expand(found.order)
    assert sorted(order) == list(range(flat.n))
    assert peak_bytes(flat, order) == found.peak == found.bound == optimum(g)
    assert smaller.contract(order) == found.order


def test_a_forward_pass_contracts_to_little():
    flat = flatten(graphs.make("checkpointed", 1, 200))
    assert contracted(masks_of(flat)).flat.n < 0.65 * flat.n


@pytest.mark.spec("PK-12")
@given(SHAPES, SEEDS, st.integers(1, 60))
def test_windows_never_make_it_worse_and_keep_their_books(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    flat = flatten(g)
    for name in ("program", "bfs"):
        start = ENTRANTS[name](flat)
        order, used, _ = improve(flat, start, 0, 3000)
        assert sorted(order) == list(range(flat.n))
        assert peak_bytes(flat, order) <= peak_bytes(flat, start)
        assert used < 40_000


@given(SHAPES, SEEDS, st.integers(1, 40))
def test_a_piece_lives_as_in_the_whole(shape: str, seed: int, n: int):
    g, rng = graphs.make(shape, seed, n), random.Random(seed)
    flat = flatten(g)
    order = ENTRANTS["list"](flat)
    start = rng.randrange(flat.n)
    stop = rng.randint(start + 1, flat.n)
    piece, nodes = piece_of(flat, order, start, stop)
    assert nodes == order[start:stop]
    assert live_bytes(piece, range(piece.n)) == live_bytes(flat, order)[start:stop]


@pytest.mark.spec("PK-18")
@given(SHAPES, SEEDS, st.integers(1, 40))
def test_pieces_lie_between_nodes_that_everything_passes(shape: str, seed: int, n: int):
    flat = flatten(graphs.make(shape, seed, n))
    masks, order = masks_of(flat), list(range(flat.n))
    runs = sorted(pieces(flat, order))
    assert [x for a, b in runs for x in range(a, b)] == order
    whole = [
        t for t in order[1:] if masks.before[order[t]].bit_count() + masks.behind[order[t]].bit_count() == flat.n - 1
    ]
    assert [a for a, _ in runs if a] == whole
