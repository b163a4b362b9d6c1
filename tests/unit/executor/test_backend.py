"""Through ``torch.compile``: graphs with conditionals, loops and sizes that depend on data are planned as they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

import lowtide  # noqa: E402
from lowtide.core.errors import Unsupported  # noqa: E402
from running import chain, planned  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),  # Dynamo's own, under eager's cond
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True):
        yield
    torch.compiler.reset()


def train(f: Callable[[Tensor], Tensor], net: nn.Module, x: Tensor) -> list[Tensor]:
    net.zero_grad()
    out = f(x)
    out.backward()
    return [out.detach(), *(p.grad.clone() for p in net.parameters())]


@pytest.mark.spec("IR-64", "RT-31", "G1")
@pytest.mark.parametrize("kind", ["cond", "sizes"])
def test_training_is_eager_s_and_planned(kind: str):
    net = nn.Linear(8, 8)

    def branches(x: Tensor) -> Tensor:
        y = net(x).relu()
        return (torch.cond(y.sum() > 9, lambda a: (a * 2).sin(), lambda a: (a + 1).cos(), (y,)) * y).sum()

    def sizes(x: Tensor) -> Tensor:
        y = net(x)
        return (y[y[:, 0] > 0].tanh() * 2).sum() + y.sum().item()

    f = branches if kind == "cond" else sizes
    call = torch.compile(f, backend="lowtide", options={"verify": True})
    for _ in range(5):
        x = torch.randn(6, 8)
        for a, b in zip(train(call, net, x), train(f, net, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    (graph,) = lowtide.memory_analysis().graphs
    assert graph.fallback is None and graph.layout.count("planned as it runs: 5 runs") == 2


@pytest.mark.spec("IR-65")
def test_a_loop_through_the_backend():
    def f(x: Tensor) -> Tensor:
        n = (x > 0).sum()
        step = lambda i, a: (i + 1, (a * 1.5).sin() + x)  # noqa: E731
        return torch._higher_order_ops.while_loop(lambda i, a: i < n, step, (n * 0, x * 2))[1]

    call = torch.compile(f, backend="lowtide", options={"verify": True})
    for k in range(6):
        x = torch.randn(4) - (k == 2) * 9
        torch.testing.assert_close(call(x), f(x))
    assert not any(g.fallback for g in lowtide.memory_analysis().graphs)


def test_under_inference_mode_and_without_in_turn():
    call: Any = planned(lambda x: chain(x[x > 0]).sum() + chain(x), torch.randn(6), verify=True)
    for k in range(6):
        x = torch.randn(6)
        with torch.inference_mode(k % 2 == 1):
            assert torch.equal(call(x), chain(x[x > 0]).sum() + chain(x))


@pytest.mark.spec("RT-32")
def test_another_device_is_refused_with_the_reason_and_runs_as_captured():
    def f(x: Tensor) -> Tensor:
        y = x * 2
        return torch.cond(y.sum() > 0, lambda a: (a * 2).sin(), lambda a: (a + 1).cos(), (y,)) + 1

    x = torch.randn(6, device="meta")
    with pytest.raises(Unsupported, match="meta"):
        planned(f, x)
    call = torch.compile(lambda x: chain(x) + 1, backend="lowtide")
    assert call(x).device == x.device
    (graph,) = lowtide.memory_analysis().graphs
    assert graph.fallback is not None and "meta" in str(graph.fallback)
