"""The holders of a peak are what is alive there, largest first, with the user's line."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import lowtide  # noqa: E402


@pytest.mark.torch
@pytest.mark.spec("IR-02")
@pytest.mark.parametrize(("kernels", "made_by"), [("aten", "aten."), ("loops", "lowtide.loop.")])
def test_holders_are_alive_at_the_peak_and_named(kernels: str, made_by: str) -> None:
    torch.compiler.reset()
    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 8))

    @torch.compile(backend="lowtide", options={"verify": True, "kernels": kernels})
    def loss(x: torch.Tensor) -> torch.Tensor:
        return model(x).square().mean()

    loss(torch.randn(256, 64)).backward()
    (graph,) = lowtide.memory_analysis().graphs
    sizes = [h.nbytes for h in graph.holders]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 256 * 512 * 4
    assert sum(sizes) <= graph.promised_peak_bytes
    assert graph.holders[0].made_by.startswith(made_by)
    assert ".py:" in graph.holders[0].origin
