"""Storage groups and learned sizes: no torch, many random cases."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.errors import BugError, OptionError
from lowtide.executor.groups import Life, StorageGroup, reused, storage_groups
from lowtide.executor.learned import Learned, Recent
from lowtide.executor.placing import STRATEGIES, grouped, packed, strategy_of


@st.composite
def programs(draw: st.DrawFn) -> list[Life]:
    spans = draw(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=14))
    return [Life(f"v{i}", first, first + n) for i, (first, n) in enumerate(spans)]


def meet(a: Life, b: Life) -> bool:
    return a.first < b.end and b.first < a.end


@given(programs())
@pytest.mark.spec("RT-04", "RT-06", "RT-08")
def test_members_of_a_group_never_live_at_once(lives: list[Life]):
    groups = storage_groups(lives)
    by_name = {x.name: x for x in lives}
    assert sorted(m for g in groups for m in g.members) == sorted(by_name)
    for g in groups:
        members = [by_name[m] for m in g.members]
        assert [m.first for m in members] == sorted(m.first for m in members)
        assert not any(meet(a, b) for i, a in enumerate(members) for b in members[:i])


@pytest.mark.spec("RT-08")
def test_the_region_that_was_freed_last_is_taken():
    lives = [Life("a", 0, 2), Life("b", 1, 3), Life("c", 3, 5), Life("d", 3, 4)]
    assert [g.members for g in storage_groups(lives)] == [("a", "d"), ("b", "c")]


@pytest.mark.spec("RT-04", "RT-08")
def test_what_ends_at_a_step_does_not_serve_that_step():
    """Inputs and results of one operation are alive together."""
    assert len(storage_groups([Life("a", 0, 2), Life("b", 1, 3)])) == 2
    assert len(storage_groups([Life("a", 0, 1), Life("b", 0, 1)])) == 2


@pytest.mark.spec("RT-06")
def test_a_group_without_members_cannot_be():
    with pytest.raises(BugError, match="at least one member"):
        StorageGroup(())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200)), max_size=9), st.randoms(use_true_random=False))
@pytest.mark.spec("RT-10")
def test_values_that_lie_where_earlier_ones_did_are_counted(rows: list[tuple[int, int]], dice: random.Random):
    lives = [Life(f"v{i}", i, i + 1 + n) for i, (n, _) in enumerate(rows)]
    dice.shuffle(lives)
    found = packed(lives)([rows[x.first][1] for x in lives])
    spans = {x.first: (o, o + n) for x, o, n in zip(lives, found.offsets, found.capacity, strict=True) if n}
    later = sum(any(a < d and c < b for k, (c, d) in spans.items() if k < i) for i, (a, b) in spans.items())
    assert found.shared == later


@pytest.mark.spec("RT-09", "RT-10")
def test_without_sharing_every_value_has_its_own_bytes():
    lives = [Life(f"v{i}", i, i + 1) for i in range(5)]
    found = grouped(lives, share=False)([1, 64, 65, 0, 200])
    assert found.nbytes == 64 + 64 + 128 + 0 + 256
    assert found.shared == 0
    assert grouped(lives)([1, 64, 65, 0, 200]).nbytes == 256


@pytest.mark.spec("RT-14")
def test_how_many_values_share_is_known():
    groups = storage_groups([Life(f"v{i}", i, i + 1) for i in range(5)])
    assert reused(groups, {f"v{i}": 8 for i in range(5)}) == 4
    assert reused(groups, {f"v{i}": 0 for i in range(5)}) == 0


@given(programs(), st.data(), st.sampled_from(sorted(STRATEGIES)))
@pytest.mark.spec("RT-08", "RT-10", "RT-13", "G2", "G9")
def test_no_strategy_lets_two_values_share_a_byte(lives: list[Life], data: st.DataObject, name: str):
    place = STRATEGIES[name](lives)
    for _ in range(3):
        sizes = data.draw(st.lists(st.integers(0, 500), min_size=len(lives), max_size=len(lives)))
        found = place(sizes)
        assert found.bound <= found.nbytes <= sum(-(-n // 64) * 64 for n in sizes)
        for i, a in enumerate(lives):
            assert found.offsets[i] % 64 == 0 and found.offsets[i] + sizes[i] <= found.nbytes
            assert sizes[i] <= found.capacity[i]
            for j, b in enumerate(lives[:i]):
                apart = (
                    found.offsets[i] + found.capacity[i] <= found.offsets[j]
                    or found.offsets[j] + found.capacity[j] <= found.offsets[i]
                )
                assert apart or not meet(a, b) or not sizes[i] or not sizes[j]


@pytest.mark.spec("RT-08", "RT-33")
def test_packed_is_within_one_per_cent_of_the_bound_where_groups_are_far():
    draw = random.Random(5)
    ratios = []
    for _ in range(30):
        lives, first = [], 0
        for i in range(40):
            first += draw.randint(0, 1)
            lives.append(Life(f"v{i}", first, first + draw.randint(1, 5)))
        sizes = [draw.randint(1, 400) * 64 for _ in lives]
        found = packed(lives)(sizes)
        assert found.nbytes <= 1.01 * found.bound
        ratios.append(grouped(lives)(sizes).nbytes / found.bound)
    assert sum(ratios) / len(ratios) > 1.2  # groups know no sizes


@pytest.mark.spec("RT-11")
def test_a_strategy_of_ones_own_and_a_wrong_name():
    mine = lambda lives: grouped(lives, share=False)  # noqa: E731
    assert strategy_of(mine) is mine
    with pytest.raises(OptionError, match="no strategy 'best'"):
        strategy_of("best")


@given(st.lists(st.lists(st.integers(0, 100), min_size=3, max_size=3), min_size=1, max_size=60), st.integers(1, 7))
@pytest.mark.spec("RT-07", "RT-15")
def test_learned_sizes_cover_the_last_runs_and_forget_the_old(runs: list[list[int]], window: int):
    learned = Learned([0, 0, 0], window)
    for k, sizes in enumerate(runs):
        before = learned.sizes
        assert learned.see(sizes) == (learned.sizes != before)
        lately = runs[max(0, k + 1 - window) : k + 1]
        assert all(learned.sizes[i] >= max(r[i] for r in lately) for i in range(3))
        # Two windows, and the first of them begins with the sizes of the run before.
        not_long = runs[max(0, k - 2 * window) : k + 1]
        assert all(learned.sizes[i] <= max(r[i] for r in not_long) for i in range(3))


@pytest.mark.spec("RT-07")
def test_one_huge_request_does_not_hold_memory_for_ever():
    learned = Learned([8], 4)
    learned.see([1000])
    for _ in range(3):
        learned.see([8])
        assert learned.sizes == (1000,)
    for _ in range(8):
        learned.see([8])
    assert learned.sizes == (8,)


@pytest.mark.spec("RT-33")
def test_what_was_used_least_recently_goes_first():
    kept: Recent[int, str] = Recent(2)
    kept.put(1, "a")
    kept.put(2, "b")
    assert kept.get(1) == "a"
    assert kept.of(3, lambda: "c") == "c"
    assert kept.get(2) is None and kept.get(1) == "a" and kept.of(3, lambda: "other") == "c"
