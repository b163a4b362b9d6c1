"""A bug seeded in the output of every packer: the program runs unplanned, with a warning, and its numbers are right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lowtide import plan_at_run_time  # noqa: E402
from lowtide.core.errors import VerifyError  # noqa: E402
from lowtide.executor import placing  # noqa: E402
from lowtide.plan import choose, pack  # noqa: E402
from lowtide.plan.replan import Replanned  # noqa: E402
from lowtide.runtime.records import records  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
OPTIONS: dict[str, Any] = {"slabs": "one", "kernels": "aten"}


def f(x: torch.Tensor) -> torch.Tensor:
    """Temporaries whose lives overlap, one of them long, so that fewer bytes than all of theirs will do; some can take over
    others."""
    a, b = x * 2, x + 1
    c = a @ b
    d = (c @ x).exp() - a
    e = d @ b
    return ((e @ x) @ e * 2 + a) @ x


def at_zero(flat: Any, *_: object, **__: object) -> Callable[..., list[int]]:
    return lambda order, best=False: [0] * flat.count


def side_by_side(flat: Any, *_: object, **__: object) -> Callable[..., list[int]]:
    """Right, and as high as can be, so that other packers are asked."""
    return lambda order, best=False: list(accumulate(flat.size[:-1], initial=0))


def greedy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pack.compiled, "placer", at_zero)


def exact(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pack.compiled, "placer", side_by_side)
    patch.setattr(pack.compiled, "decide", lambda library, sections, *_: (True, [0] * len(sections.size), 1))


def windows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pack.compiled, "placer", side_by_side)
    patch.setattr(pack, "EXACT_LIMIT", 0)
    patch.setattr(pack.compiled, "repair", lambda library, flat, *_: ([0] * flat.count, 1))


def merges(patch: pytest.MonkeyPatch) -> None:
    def wrong(problem: Any, *_: object) -> pack.PackResult:
        most = max(b.size for b in problem.buffers)
        return pack.PackResult(dict.fromkeys((b.id for b in problem.buffers), 0), most, most, "merges")

    patch.setattr(pack.compiled, "placer", side_by_side)
    patch.setattr(pack.compiled, "decide", lambda *_: (None, [], 1))
    patch.setattr(pack, "_with_merges", wrong)


def holes(patch: pytest.MonkeyPatch) -> None:
    """All chains are left to be put into holes, of a slab for two of them."""

    def groupings(cuts: Sequence[int], chains: Sequence[Any], *_: object) -> list[tuple[str, list[list[int]]]]:
        longest = sorted((i for i, c in enumerate(chains) if c.eligible), key=lambda i: chains[i].first - chains[i].end)
        return [("one", [sorted(longest[:2])])]

    def fill(chains: Sequence[Any], slabs: Sequence[Any], where: Any, _: int) -> list[tuple[int, int, int]]:
        free = [i for i, c in enumerate(chains) if c.eligible and c.members[0].name not in where]
        return [(i, 0, 0) for i in free if slabs[0].first <= chains[i].first and chains[i].end <= slabs[0].end]

    patch.setattr(choose, "_groupings", groupings)
    patch.setattr(choose, "fill_holes", fill)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.spec("PP-36")
@pytest.mark.parametrize("seed", [greedy, exact, windows, merges, holes])
def test_a_packer_that_is_wrong_leaves_the_program_unplanned(
    seed: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    x = torch.linspace(-0.1, 0.1, 256).view(16, 16)
    seed(monkeypatch)
    assert torch.equal(torch.compile(f, backend="lowtide", options=OPTIONS)(x), f(x))
    (said,) = warnings(caplog)
    assert "runs as captured, unplanned" in said and "overlap" in said


@pytest.mark.spec("PP-36", "PP-28")
@pytest.mark.parametrize("seed", [greedy, holes])
def test_a_packer_that_is_wrong_at_a_further_size_leaves_that_unplanned(
    seed: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def at(n: int) -> tuple[torch.Tensor]:
        return (torch.linspace(-0.1, 0.1, n * n).view(n, n),)

    call = torch.compile(f, backend="lowtide", options=OPTIONS, dynamic=True)
    assert torch.equal(call(*at(16)), f(*at(16)))
    assert not warnings(caplog)
    seed(monkeypatch)
    assert torch.equal(call(*at(24)), f(*at(24)))
    (said,) = warnings(caplog)
    assert "=24 runs as captured, unplanned" in said and "overlap" in said
    assert records()[0].fallback is None


def replanned(patch: pytest.MonkeyPatch) -> None:
    def wrong(problem: Any, **_: object) -> Callable[[Sequence[int]], Replanned]:
        return lambda sizes: Replanned((0,) * len(sizes), max(sizes), max(sizes), "layers")

    patch.setattr(placing, "replanner", wrong)


def packed_longer(patch: pytest.MonkeyPatch) -> None:
    def loose(problem: Any, **_: object) -> Callable[[Sequence[int]], Replanned]:
        def place(sizes: Sequence[int]) -> Replanned:
            tops = list(accumulate(sizes, initial=0))
            return Replanned(tuple(tops[:-1]), tops[-1], max(sizes), "size")

        return place

    def wrong(problem: Any, **_: object) -> pack.PackResult:
        most = max(b.size for b in problem.buffers)
        return pack.PackResult(dict.fromkeys((b.id for b in problem.buffers), 0), most, most, "exact")

    patch.setattr(placing, "replanner", loose)
    patch.setattr(placing, "pack", wrong)


def runtime_planned(g: Callable[[torch.Tensor], torch.Tensor] = f, rank: int = 2, **policy: Any) -> Any:
    """``g`` of a tensor of which each of ``rank`` sizes is ``n``."""

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return g(x)

    n = torch.export.Dim("n", min=2)
    with torch.no_grad():
        x = torch.ones((8,) * rank)
        return plan_at_run_time(
            torch.export.export(Net(), (x,), dynamic_shapes=(dict.fromkeys(range(rank), n),)), **policy
        )


@pytest.mark.spec("PP-36", "RT-12")
@pytest.mark.parametrize("seed", [replanned, packed_longer])
def test_a_placement_at_run_time_that_is_wrong_ends_planning(
    seed: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    seed(monkeypatch)
    call = runtime_planned()
    for n in (8, 8, 12, 8):
        x = torch.linspace(-0.1, 0.1, n * n).view(n, n)
        assert torch.equal(call(x), f(x))
    (said,) = warnings(caplog)
    assert "stays unplanned" in said and "overlap" in said
    assert call.told().counts is None and call.told().reason == said


@pytest.mark.spec("PP-36", "RT-12")
def test_a_later_placement_that_is_wrong_is_used_by_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The run that asked for it, which has begun already, has every value in ordinary memory."""
    right, wrong = placing.packed, False

    def seeded(lives: Sequence[Any], *more: Any) -> placing.Strategy:
        strategy = right(lives, *more)

        def place(sizes: Sequence[int]) -> placing.Placement:
            found = strategy(sizes)
            return replace(found, offsets=(0,) * len(sizes)) if wrong else found

        return place

    call = runtime_planned(strategy=seeded)
    sizes = [8, 8, 8, 40, 40, 40, 8, 8]
    for k, n in enumerate(sizes):
        wrong = k > 2
        x = torch.linspace(-0.1, 0.1, n * n).view(n, n)
        assert torch.equal(call(x), f(x))
        assert (call.told().counts is not None) == (k < 3)
    (said,) = warnings(caplog)
    assert "overlap" in said and call.told().reason == said


@pytest.mark.spec("PP-36", "RT-11")
def test_a_strategy_that_places_values_where_no_element_begins_is_used_by_nobody(caplog: pytest.LogCaptureFixture):
    """Behind 17 floats 8-byte integers would begin within the last of them, since headers count in elements."""

    def g(x: torch.Tensor) -> torch.Tensor:
        a = x * 2
        whole = a.long() + 1
        return (whole * 3).float() + a

    def tight(lives: Sequence[Any]) -> placing.Strategy:
        def place(sizes: Sequence[int]) -> placing.Placement:
            tops = list(accumulate(sizes, initial=0))
            return placing.Placement(tuple(tops[:-1]), tuple(sizes), tops[-1], tops[-1])

        return place

    call = runtime_planned(g, 1, strategy=tight)
    for n in (16, 16, 17, 17):
        x = torch.linspace(1, 9, n)
        assert torch.equal(call(x), g(x))
    (said,) = warnings(caplog)
    assert "misaligned" in said and call.told().reason == said


@pytest.mark.spec("PP-36")
def test_with_verify_a_wrong_placement_is_an_error(monkeypatch: pytest.MonkeyPatch):
    replanned(monkeypatch)
    call = runtime_planned(verify=True)
    with pytest.raises(VerifyError, match="overlap"):
        for _ in range(3):
            call(torch.ones(8, 8))
