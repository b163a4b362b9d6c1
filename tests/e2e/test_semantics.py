"""Calls in every order that PyTorch allows: what autograd, threads, exceptions and hooks do to a compiled model.

Each test computes the same eagerly; a wrong number is never acceptable, a clear refusal sometimes is.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import Compile, Net, inputs, loss_of, pair, same, same_gradients
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


# ---------------------------------------------------------------------------------------------- orders of calls


@pytest.mark.spec("G1", "G2")
@pytest.mark.parametrize("order", ["0 1", "1 0"])
def test_two_forwards_before_one_backward(compiled: Compile, order: str):
    net, twin = pair()
    f, xs = compiled(net), inputs(2)
    outs = [f(x) for x in xs]
    held = [o.detach().clone() for o in outs]
    for i in map(int, order.split()):
        loss_of(outs[i]).backward()
        loss_of(twin(xs[i])).backward()
        same_gradients(net, twin)
    for out, before in zip(outs, held, strict=True):
        assert torch.equal(out, before)


@pytest.mark.spec("G1", "G2")
def test_many_calls_in_flight(compiled: Compile):
    """Forward calls of eight inputs, backward in a mixed order, with new forward calls between."""
    net, twin = pair()
    f, xs = compiled(net), inputs(8)
    losses = {i: loss_of(f(x)) for i, x in enumerate(xs)}
    for i in (3, 0, 7):
        losses.pop(i).backward()
    losses |= {i: loss_of(f(xs[i])) for i in (3, 0)}
    for i in (5, 3, 1, 0, 2, 6, 4):
        losses.pop(i).backward()
    for i in (3, 0, 7, 5, 3, 1, 0, 2, 6, 4):
        loss_of(twin(xs[i])).backward()
    same_gradients(net, twin)


@pytest.mark.spec("G1")
def test_one_backward_through_two_calls(compiled: Compile):
    net, twin = pair()
    f, xs = compiled(net), inputs(2)
    (loss_of(f(xs[0])) * loss_of(f(xs[1]))).backward()
    (loss_of(twin(xs[0])) * loss_of(twin(xs[1]))).backward()
    same_gradients(net, twin)


@pytest.mark.spec("G1")
def test_a_call_fed_with_the_result_of_another(compiled: Compile):
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.inner(x)) * x

    torch.manual_seed(1)
    net = Step()
    twin, f = copy.deepcopy(net), compiled(net)
    x, y = (torch.randn(5, 16).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    a, b = x, y
    for _ in range(6):
        a, b = f(a), twin(b)
    a.square().sum().backward()
    b.square().sum().backward()
    same_gradients(net, twin)
    same(x.grad, y.grad)


@pytest.mark.spec("G1")
def test_forward_without_backward(compiled: Compile):
    net, twin = pair()
    f, xs = compiled(net), inputs(6)
    for x in xs[:5]:
        same(f(x), twin(x))
    loss_of(f(xs[5])).backward()
    loss_of(twin(xs[5])).backward()
    same_gradients(net, twin)


@pytest.mark.spec("G1")
def test_training_and_inference_in_turns(compiled: Compile):
    net, twin = pair()
    f, xs = compiled(net), inputs(4)
    pending = loss_of(f(xs[0]))
    with torch.no_grad():
        same(f(xs[1]), twin(xs[1]))
    with torch.inference_mode():
        same(f(xs[2]), twin(xs[2]))
    net.eval()
    same(f(xs[3]), twin(xs[3]))
    pending.backward()
    loss_of(twin(xs[0])).backward()
    same_gradients(net, twin)


@pytest.mark.spec("G1")
def test_gradients_accumulate_over_calls(compiled: Compile):
    net, twin = pair()
    f = compiled(net)
    for x in inputs(4):
        loss_of(f(x)).backward()
        loss_of(twin(x)).backward()
    same_gradients(net, twin)


@pytest.mark.spec("G4")
def test_gradients_belong_to_the_caller(compiled: Compile):
    """A gradient that was kept is not written by later calls."""
    net, _ = pair()
    f, xs = compiled(net), inputs(3)
    loss_of(f(xs[0])).backward()
    held = [(p.grad, p.grad.clone()) for p in net.parameters()]
    for x in xs[1:]:
        net.zero_grad(set_to_none=True)
        loss_of(f(x)).backward()
    assert all(torch.equal(kept, before) for kept, before in held)


# ---------------------------------------------------------------------------------------------- keeping the graph


@pytest.mark.spec("G1")
def test_retain_graph_is_right_or_refused(compiled: Compile):
    net, twin = pair()
    f, x = compiled(net), inputs(1)[0]
    out, ref = loss_of(f(x)), loss_of(twin(x))
    ref.backward(retain_graph=True)
    ref.backward()
    try:
        out.backward(retain_graph=True)
        out.backward()
    except RuntimeError as error:
        assert "retain_graph" in str(error) or "donated" in str(error)
        return
    same_gradients(net, twin)


@pytest.mark.spec("G1")
def test_three_backwards_with_other_calls_between(compiled: Compile):
    net, twin = pair()
    f, xs = compiled(net), inputs(2)
    out, ref = loss_of(f(xs[0])), loss_of(twin(xs[0]))
    for keep in (True, True, False):
        try:
            out.backward(retain_graph=keep)
        except RuntimeError as error:
            assert "retain_graph" in str(error) or "donated" in str(error)
            return
        ref.backward(retain_graph=keep)
        loss_of(f(xs[1])).backward()
        loss_of(twin(xs[1])).backward()
    same_gradients(net, twin)


def test_a_second_backward_without_retain_graph_is_refused(compiled: Compile):
    net, _ = pair()
    loss = loss_of(compiled(net)(inputs(1)[0]))
    loss.backward()
    with pytest.raises(RuntimeError, match=r"second time|retain_graph"):
        loss.backward()


def test_double_backward_is_refused_clearly(compiled: Compile):
    net, _ = pair()
    x = inputs(1)[0].requires_grad_()
    (grad,) = torch.autograd.grad(loss_of(compiled(net)(x)), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"double backward|does not require grad"):
        grad.square().sum().backward()


@pytest.mark.spec("G1")
def test_autograd_grad_of_some_inputs(compiled: Compile):
    net, twin = pair()
    f, x = compiled(net), inputs(1)[0]
    got = torch.autograd.grad(loss_of(f(x)), [net.two.weight, net.norm.bias])
    ref = torch.autograd.grad(loss_of(twin(x)), [twin.two.weight, twin.norm.bias])
    for a, b in zip(got, ref, strict=True):
        same(a, b)


@pytest.mark.spec("G1")
def test_backward_with_a_given_gradient_that_is_not_contiguous(compiled: Compile):
    net, twin = pair()
    f, x = compiled(net), inputs(1)[0]
    ways = [torch.ones(1, 1).expand(6, 4), torch.randn(4, 6).t(), torch.randn(6, 8)[:, ::2], torch.zeros(6, 4)]
    for given in ways:
        before = given.clone()
        f(x).backward(given)
        twin(x).backward(given)
        assert torch.equal(given, before)
        same_gradients(net, twin)


# ---------------------------------------------------------------------------------------------- hooks, checkpointing


@pytest.mark.spec("G1")
def test_save_on_cpu(compiled: Compile):
    net, twin = pair()
    f, xs = compiled(net), inputs(2)
    with torch.autograd.graph.save_on_cpu():
        losses = [loss_of(f(x)) for x in xs]
    for x, loss in zip(xs, losses, strict=True):
        loss.backward()
        loss_of(twin(x)).backward()
    same_gradients(net, twin)


@pytest.mark.spec("G1")
@pytest.mark.parametrize("way", ["copy", "same", "number"])
def test_saved_tensor_hooks(compiled: Compile, way: str):
    """Hooks that hand back a copy, the tensor itself, or what they kept elsewhere."""
    kept: list[Tensor] = []

    def pack(t: Tensor) -> Any:
        if way == "number":
            kept.append(t.detach().clone())
            return len(kept) - 1
        return t.detach().clone() if way == "copy" else t

    net, twin = pair()
    f, xs = compiled(net), inputs(3)
    for x in xs:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda p: kept[p] if way == "number" else p):
            loss = loss_of(f(x))
        loss.backward()
        loss_of(twin(x)).backward()
    same_gradients(net, twin)


@pytest.mark.spec("G1")
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_around_a_compiled_model(compiled: Compile, reentrant: bool):
    net, twin = pair()
    f = compiled(net)
    for x in inputs(2):
        x.requires_grad_()
        y = x.detach().clone().requires_grad_()
        loss_of(checkpoint(f, x, use_reentrant=reentrant)).backward()
        loss_of(twin(y)).backward()
        same(x.grad, y.grad)
    same_gradients(net, twin)


@pytest.mark.spec("G1")
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_inside_a_compiled_model(compiled: Compile, reentrant: bool):
    net, twin = pair()
    f = compiled(lambda x: checkpoint(net, x * 2, use_reentrant=reentrant))
    for x in inputs(2):
        x.requires_grad_()
        y = x.detach().clone().requires_grad_()
        loss_of(f(x)).backward()
        loss_of(twin(y * 2)).backward()
        same(x.grad, y.grad)
    same_gradients(net, twin)


@pytest.mark.spec("G1")
def test_checkpoint_with_dropout_draws_the_same_numbers_again(compiled: Compile, graphs: Callable[[], list[Any]]):
    """Two draws in a checkpointed block and one behind it: backward repeats the first two, and leaves the generator
    where it stood."""
    layer = nn.Linear(16, 16)

    def block(t: Tensor) -> Tensor:
        return F.dropout(F.dropout(layer(t), 0.5), 0.25)

    f = compiled(lambda x: F.dropout(checkpoint(block, x, use_reentrant=False), 0.1))
    for _ in range(3):
        x = torch.randn(64, 16, requires_grad=True)
        y = f(x)
        after = torch.get_rng_state()
        y.sum().backward()
        assert torch.equal(torch.get_rng_state(), after)
        mask = (y != 0).float() * (2 / 0.75 / 0.9)
        torch.testing.assert_close(x.grad, mask @ layer.weight, rtol=1e-4, atol=1e-5)
    assert not any(g.fallback for g in graphs())


@pytest.mark.spec("G1")
def test_checkpointed_blocks_draw_each_their_own(compiled: Compile, graphs: Callable[[], list[Any]]):
    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def f(x: Tensor) -> list[Tensor]:
        out = []
        for layer in layers:
            x = checkpoint(lambda t, layer=layer: F.dropout(layer(t), 0.5), x, use_reentrant=False)
            out.append(x)
        return out

    x = torch.randn(32, 8, requires_grad=True)
    results = compiled(f)(x)
    masks = [(y != 0).float() * 2 for y in results]
    results[-1].sum().backward()
    grad = torch.ones(32, 8)
    for layer, mask in zip(reversed(list(layers)), reversed(masks), strict=True):
        grad = (grad * mask) @ layer.weight
    torch.testing.assert_close(x.grad, grad)
    assert not any(g.fallback for g in graphs())


@pytest.mark.spec("G1")
def test_hooks_on_tensors_and_modules_run(compiled: Compile):
    net, twin = pair()
    seen: list[str] = []
    for module in (net, twin):
        module.two.weight.register_hook(lambda g: g * 3)
        module.three.weight.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated"))
    f, x = compiled(net), inputs(1)[0]
    out = f(x)
    out.register_hook(lambda g: g * 0.5)
    ref = twin(x)
    ref.register_hook(lambda g: g * 0.5)
    loss_of(out).backward()
    loss_of(ref).backward()
    assert seen == ["accumulated"] * 2
    same_gradients(net, twin)


# ---------------------------------------------------------------------------------------------- exceptions, threads


@pytest.mark.spec("G1", "RT-16")
def test_an_exception_in_the_middle(compiled: Compile):
    """An index out of range raises what eager raises, and the next call is right."""

    class Pick(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.net = nn.Embedding(10, 16), Net()

        def forward(self, ids: Tensor) -> Tensor:
            return self.net(torch.tanh(self.table(ids) * 2)) + self.table(ids)[:, :4]

    torch.manual_seed(1)
    net = Pick()
    twin, f = copy.deepcopy(net), compiled(net)
    good, bad = torch.arange(5), torch.tensor([1, 2, 3, 4, 99])
    loss_of(f(good)).backward()
    for _ in range(3):
        with pytest.raises(IndexError, match="index out of range"):
            f(bad)
    pending = loss_of(f(good))
    with pytest.raises(IndexError, match="index out of range"):
        f(bad)
    pending.backward()
    for _ in range(2):
        loss_of(twin(good)).backward()
    same_gradients(net, twin)


@pytest.mark.spec("G1", "RT-16")
def test_an_exception_in_backward(compiled: Compile):
    """A gradient hook that raises between two compiled parts; what comes after is right."""
    net, twin = pair()
    f, x = compiled(net), inputs(1)[0].requires_grad_()

    def refuse(grad: Tensor) -> Tensor:
        raise ValueError("refused")

    for _ in range(2):
        mid = f(x)
        mid.register_hook(refuse)
        with pytest.raises(ValueError, match="refused"):
            loss_of(f(torch.cat([mid] * 4, -1))).backward()
    net.zero_grad(set_to_none=True)
    x.grad = None
    loss_of(f(x)).backward()
    loss_of(twin(x.detach())).backward()
    same_gradients(net, twin)


@pytest.mark.spec("G1")
def test_a_keyboard_interrupt_leaves_nothing_behind(compiled: Compile):
    net, twin = pair()
    f, x = compiled(net), inputs(1)[0]
    loss_of(f(x)).backward()
    net.zero_grad(set_to_none=True)

    def stop(grad: Tensor) -> Tensor:
        raise KeyboardInterrupt

    mid = f(x)
    mid.register_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        loss_of(mid).backward()
    loss_of(f(x)).backward()
    loss_of(twin(x)).backward()
    same_gradients(net, twin)


def in_threads(jobs: list[Callable[[], None]]) -> None:
    """Run all at once; the first failure is raised here."""
    failures: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        try:
            start.wait()
            job()
        except BaseException as error:  # noqa: BLE001, raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise failures[0]


@pytest.mark.spec("G1", "G2")
def test_threads_that_train_copies(compiled: Compile):
    nets = [pair()[0] for _ in range(8)]
    functions = [compiled(net) for net in nets]
    xs = inputs(8)
    for f, x in zip(functions, xs, strict=True):  # Dynamo itself is not made for compiling in several threads
        loss_of(f(x)).backward()
    for net in nets:
        net.zero_grad(set_to_none=True)

    def job(i: int) -> Callable[[], None]:
        def train() -> None:
            for _ in range(10):
                loss_of(functions[i](xs[i])).backward()

        return train

    in_threads([job(i) for i in range(8)])
    for net, x in zip(nets, xs, strict=True):
        twin = pair()[1]
        for _ in range(10):
            loss_of(twin(x)).backward()
        same_gradients(net, twin)


@pytest.mark.spec("G1", "G2", "G4")
def test_threads_that_share_one_model(compiled: Compile):
    net, twin = pair()
    f, xs = compiled(net), inputs(4)
    with torch.no_grad():
        f(xs[0])

    def job(i: int) -> Callable[[], None]:
        def infer() -> None:
            with torch.no_grad():
                expected = twin(xs[i])
                held = [f(xs[i]) for _ in range(20)]
                for out in held:
                    same(out, expected)

        return infer

    in_threads([job(i) for i in range(4)])


@pytest.mark.spec("G1", "G2")
def test_threads_whose_backward_runs_elsewhere(compiled: Compile):
    """Forward calls in one thread, each backward in another, at once."""
    net, twin = pair()
    f, xs = compiled(net), inputs(4)
    loss_of(f(xs[0])).backward()
    net.zero_grad(set_to_none=True)
    losses = [loss_of(f(x)) for x in xs]
    gradients: list[Any] = [None] * 4

    def job(i: int) -> Callable[[], None]:
        def back() -> None:
            gradients[i] = torch.autograd.grad(losses[i], list(net.parameters()))

        return back

    in_threads([job(i) for i in range(4)])
    for x, got in zip(xs, gradients, strict=True):
        ref = torch.autograd.grad(loss_of(twin(x)), list(twin.parameters()))
        for a, b in zip(got, ref, strict=True):
            same(a, b)


# ---------------------------------------------------------------------------------------------- models as objects
