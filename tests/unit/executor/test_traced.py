"""Noted allocations analysed: no torch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.executor.traced import Allocation, analyse, caching


@st.composite
def noted(draw: st.DrawFn) -> tuple[list[Allocation], int]:
    """Every event is a moment of its own."""
    events: list[tuple[str, int]] = []
    alive: list[int] = []
    sizes: list[int] = []
    for _ in range(draw(st.integers(0, 30))):
        if alive and draw(st.booleans()):
            events.append(("free", alive.pop(draw(st.integers(0, len(alive) - 1)))))
        else:
            sizes.append(draw(st.sampled_from([0, 1, 64, 600, 5000, 2 << 20, 11 << 20])))
            alive.append(len(sizes) - 1)
            events.append(("new", len(sizes) - 1))
    first = {k: t for t, (what, k) in enumerate(events) if what == "new"}
    end = {k: t for t, (what, k) in enumerate(events) if what == "free"}
    made = [
        Allocation(n, first[k], end.get(k, len(events)), k not in end, f"op{k}", f"a.py:{k}")
        for k, n in enumerate(sizes)
    ]
    return made, len(events)


@given(noted())
@pytest.mark.spec("G2", "G9")
def test_plan_bound_and_holders_of_any_trace(given_: tuple[list[Allocation], int]):
    made, moments = given_
    found = analyse(made, moments)
    live = [sum(a.nbytes for a in made if a.first <= t < a.end) for t in range(moments)]
    assert found.peak_nbytes == max(live, default=0) <= found.lower_bound
    assert found.slab_nbytes <= sum(-(-a.nbytes // 64) * 64 for a in made if not a.kept)
    assert sum(n for _, n in found.holders) == found.peak_nbytes
    assert found.caching_nbytes >= found.peak_nbytes
    for i, a in enumerate(made):
        if a.kept or not a.nbytes:
            assert found.offsets[i] == -1
            continue
        for j, b in enumerate(made[:i]):
            if not b.kept and b.nbytes and a.first < b.end and b.first < a.end:
                assert (
                    found.offsets[i] + a.nbytes <= found.offsets[j] or found.offsets[j] + b.nbytes <= found.offsets[i]
                )


def test_the_model_of_the_caching_allocator():
    mib = 1 << 20

    def at(*spans: tuple[int, int, int]) -> list[Allocation]:
        return [Allocation(n, first, end, False) for n, first, end in spans]

    assert caching(at((1, 0, 1)), 2) == 2 * mib  # small ones share segments of 2 MiB
    assert caching(at((mib, 0, 3), (mib, 1, 4)), 5) == 2 * mib
    assert caching(at((2 * mib, 0, 1)), 2) == 20 * mib  # middle ones segments of 20 MiB
    assert caching(at((11 * mib, 0, 1)), 2) == 12 * mib  # large ones their own, in steps of 2 MiB
    assert caching(at((11 * mib, 0, 1), (12 * mib, 2, 3)), 4) == 12 * mib
    # Two freed halves of one segment join again.
    assert caching(at((9 * mib, 0, 2), (9 * mib, 1, 3), (18 * mib, 4, 5)), 6) == 20 * mib


def test_the_report_names_lines_and_turns_into_json():
    found = analyse([Allocation(4096, 0, 2, False, "aten.mm", "net.py:7"), Allocation(64, 1, 3, True)], 3)
    assert "4.00 KiB  net.py:7 (aten.mm)" in str(found)
    told = found.to_json()
    assert told["version"] == 1 and told["peak_nbytes"] == 4160
    assert told["holders"][0] == {"line": "net.py:7 (aten.mm)", "nbytes": 4096}  # type: ignore[index]
