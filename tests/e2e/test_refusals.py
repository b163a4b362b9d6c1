"""What is refused or not planned says so: at the call, in the log and in ``memory_analysis``; never a wrong number."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

Compile = Callable[..., Any]


@pytest.fixture(autouse=True)
def _only_ours(ours: bool) -> None:
    if not ours:
        pytest.skip("about Lowtide's own words")


def message(f: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:
        f()
    return str(caught.value)


NET = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bugdet": 5}, ["no option 'bugdet'", "'budget'"]),
        ({"reorder": "yes"}, ["'reorder'", "true or false"]),
        ({"slabs": "many"}, ["'slabs'", "auto"]),
        ({"budget": -1}, ["'budget'"]),
        ({"budget": "lots"}, ["'budget'", "lots"]),
        ({"budget": 0}, ["'budget'"]),
        ({"recent_shapes": 0}, ["'recent_shapes'"]),
    ],
    ids=str,
)
def test_bad_options_are_named_with_what_is_right(compiled: Compile, options: dict[str, Any], words: list[str]):
    said = message(lambda: compiled(NET, options=options)(torch.randn(4, 64)))
    assert all(word in said for word in words), said


def test_a_promise_above_the_budget_is_refused_with_the_least_known_peak(compiled: Compile):
    import lowtide

    x = torch.randn(4096, 64)
    compiled(NET)(x).sum().backward()
    promised = lowtide.memory_analysis().promised_peak_bytes
    torch.compiler.reset()
    said = message(lambda: compiled(NET, options={"budget": promised - 1})(x))
    assert "budget" in said and "MiB" in said, said
    torch.compiler.reset()
    compiled(NET, options={"budget": promised})(x).sum().backward()


def fell_back(graphs: list[Any]) -> list[str]:
    return [g.fallback for g in graphs if g.fallback]


@pytest.mark.spec("G12")
def test_a_graph_that_is_not_planned_says_why(
    compiled: Compile, graphs: Callable[[], list[Any]], caplog: pytest.LogCaptureFixture
):
    def f(x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.float32) * 2

    x = torch.ones(3).to(torch.float8_e4m3fnuz)
    with caplog.at_level(logging.WARNING, logger="lowtide"):
        out = compiled(f)(x)
    torch.testing.assert_close(out, torch.full((3,), 2.0))
    reasons = fell_back(graphs())
    assert len(reasons) == 1 and "float8_e4m3fnuz" in reasons[0]
    assert any(reasons[0] in r.getMessage() for r in caplog.records)


@pytest.mark.spec("G12")
def test_one_graph_that_is_planned_as_it_runs_among_others(compiled: Compile, graphs: Callable[[], list[Any]]):
    def f(x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(x) * 2
        torch._dynamo.graph_break()
        y = torch.cond(y.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (y,))
        torch._dynamo.graph_break()
        return y.exp() + x

    x = torch.ones(3)
    torch.testing.assert_close(compiled(f)(x), f(x))
    found = graphs()
    assert len(found) == 3 and not fell_back(found)
    assert ["planned as it runs" in g.layout for g in found].count(True) == 1


@pytest.mark.spec("G12")
def test_sparse_tensors_are_stated_or_left_to_eager(compiled: Compile, graphs: Callable[[], list[Any]]):
    s, x = torch.eye(4).to_sparse(), torch.randn(4, 2)
    torch.testing.assert_close(compiled(lambda s, x: torch.sparse.mm(s, x) * 2)(s, x), x * 2)
    for graph in graphs():
        assert graph.fallback is None or "sparse" in graph.fallback


def test_a_device_that_is_not_supported_is_named(compiled: Compile):
    net = nn.Linear(4, 4, device="meta")
    out = compiled(net)(torch.empty(2, 4, device="meta"))
    assert out.device.type == "meta" and out.shape == (2, 4)
