"""The comparison with eager catches faults planted in a backend, one kind each, and calls no right one wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from benchmarks.suite.compare import MODES, Mode, compare, reproducible
from benchmarks.suite.entry import Case, mean_square
from benchmarks.suite.models import MODELS
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

Results = list[Any]
Change = Callable[[Results], Sequence[Any]]


def planted(
    *,
    forward: Change | None = None,
    backward: Change | None = None,
    graph: Callable[[torch.fx.GraphModule], None] | None = None,
) -> Any:
    """A backend that is right but for what is changed in the results of its forward or backward, or in its graph."""

    def compiler(change: Change | None, edit: Callable[[torch.fx.GraphModule], None] | None) -> Any:
        def compile_one(module: torch.fx.GraphModule, inputs: Any) -> Any:
            if edit is not None:
                edit(module)
                module.recompile()

            def call(given: list[Any]) -> Any:
                out = list(module(*given))
                return change(out) if change else out

            call._boxed_call = True  # type: ignore[attr-defined]
            return call

        return compile_one

    return aot_autograd(
        fw_compiler=compiler(forward, graph),
        bw_compiler=compiler(backward, None),
        inference_compiler=compiler(forward, graph),
        keep_inference_input_mutations=True,
    )


def model() -> Case:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    return Case(net, {"input": torch.randn(16, 8)}, mean_square)


def whats(backend: Any, mode: Mode, case: Case | None = None, **more: Any) -> str:
    return "\n".join(map(str, compare(case or model(), backend, mode, **more).faults))


def grads(out: Results, shape: tuple[int, ...]) -> list[int]:
    """Positions of gradients of one shape."""
    return [i for i, t in enumerate(out) if isinstance(t, Tensor) and t.shape == shape]


@pytest.mark.parametrize("mode", MODES)
def test_a_right_backend_is_right(mode: Mode):
    found = compare(model(), planted(), mode)
    assert not found.faults, found
    assert found.compared >= 5


@pytest.mark.parametrize("mode", ["train", "sgd", "adamw"])
def test_a_zeroed_gradient_is_seen(mode: Mode):
    def zero(out: Results) -> Results:
        out[grads(out, (8, 8))[1]].zero_()
        return out

    seen = whats(planted(backward=zero), mode)
    assert (".weight" in seen) and ("all zero" in seen or mode != "train"), seen
    assert seen.count("gradient of") == (2 if mode == "train" else 0), "one parameter in two calls, and no other"


@pytest.mark.parametrize("mode", ["train", "sgd"])
def test_swapped_gradients_are_seen(mode: Mode):
    def swap(out: Results) -> Results:
        a, b = grads(out, (8, 8))[:2]
        out[a], out[b] = out[b], out[a]
        return out

    assert whats(planted(backward=swap), mode)


def test_a_gradient_off_by_a_thousandth_is_seen():
    def scale(out: Results) -> Results:
        out[grads(out, (8, 8))[0]].mul_(1.001)
        return out

    assert "gradient of" in whats(planted(backward=scale), "train")


def test_a_gradient_wrong_only_in_the_second_call_is_seen():
    calls = []

    def late(out: Results) -> Results:
        calls.append(1)
        if len(calls) == 2:
            out[grads(out, (8,))[0]].add_(0.5)
        return out

    seen = whats(planted(backward=late), "train")
    assert "call 1 gradient" in seen and "call 0" not in seen


def test_a_missing_gradient_is_seen():
    def drop(out: Results) -> Results:
        out[grads(out, (8, 8))[0]] = None
        return out

    assert "is not there" in whats(planted(backward=drop), "train")


def test_a_stale_buffer_is_seen():
    def no_writes(module: torch.fx.GraphModule) -> None:
        for node in list(module.graph.nodes):
            if node.target == torch.ops.aten.copy_.default:
                module.graph.erase_node(node)

    for mode in ("train", "sgd"):
        seen = whats(planted(graph=no_writes), mode)  # type: ignore[arg-type]
        assert "buffer 1.running_mean" in seen and "buffer 1.num_batches_tracked" in seen, seen


def test_a_loss_off_by_a_ten_thousandth_is_seen():
    def more(out: Results) -> Results:
        losses = [i for i, t in enumerate(out) if t.shape == () and t.is_floating_point()]
        out[losses[0]] = out[losses[0]] * 1.0001
        return out

    assert "loss" in whats(planted(forward=more), "train")


def test_a_result_with_other_strides_or_type_is_seen():
    def turned(out: Results) -> Results:
        return [t.t().contiguous().t() if t.dim() == 2 else t for t in out]

    def wider(out: Results) -> Results:
        return [t.double() for t in out]

    assert "strides" in whats(planted(forward=turned), "infer")
    assert "dtype" in whats(planted(forward=wider), "infer")


def test_an_overwritten_input_is_seen():
    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        def call(*given: Tensor) -> Any:
            out = module(*given)
            for t in given:
                if t.shape == (16, 8):
                    t.detach().add_(1.0)
            return out

        return call

    assert "input" in (seen := whats(backend, "infer")) and "was overwritten" in seen


def test_a_result_that_the_next_call_overwrites_is_seen():
    kept: list[Tensor] = []

    def reuse(out: Results) -> Results:
        if kept:
            kept[0].copy_(out[0])
            return [kept[0]]
        kept.append(out[0])
        return out

    assert "call 0 result" in whats(planted(forward=reuse), "infer")


def test_results_that_share_memory_are_seen():
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x + 1, x + 1.0

    def share(out: Results) -> Results:
        return [out[0], out[0]]

    case = Case(Two(), {"x": torch.randn(3)}, mean_square)
    assert "share memory" in whats(planted(forward=share), "infer", case)


def test_a_view_that_became_a_copy_is_seen():
    class View(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = x * 2
            return y, y.t()

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        def call(*given: Tensor) -> Any:
            return [t.t().clone().t() for t in module(*given)]

        return call

    case = Case(View(), {"x": torch.randn(3, 4)}, mean_square)
    assert "should share memory" in whats(backend, "infer", case)


def test_a_wrong_whole_number_and_a_lost_nan_are_seen():
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.argmax(), x.log()

    def off(out: Results) -> Results:
        return [out[0] + 1, torch.nan_to_num(out[1])]

    case = Case(Odd(), {"x": torch.randn(9)}, mean_square)
    seen = whats(planted(forward=off), "infer", case)
    assert "whole numbers differ" in seen and "other NaNs" in seen
    assert not whats(planted(), "infer", case)


def test_gradients_of_inputs_are_compared():
    def scale(out: Results) -> Results:
        out[grads(out, (16, 8))[0]].mul_(1.01)
        return out

    assert "gradient of input" in whats(planted(backward=scale), "train", input_gradients=True)


def test_random_numbers_must_repeat_and_differ():
    case = MODELS["gpt_dropout"].build()
    assert not reproducible(case, planted())
    assert any("under two seeds" in str(f) for f in reproducible(MODELS["gpt"].build(), planted()))

    def unseeded(out: Results) -> Results:
        return [t + torch.rand((), generator=apart) if t.shape == () and t.is_floating_point() else t for t in out]

    apart = torch.Generator().manual_seed(1)
    assert any("under the same seed" in str(f) for f in reproducible(case, planted(forward=unseeded)))


def test_the_case_is_left_as_it_was():
    case = model()
    before = {n: t.clone() for n, t in case.module.state_dict().items()}
    given = case.inputs["input"].clone()
    for mode in MODES:
        compare(case, planted(), mode)
    assert all(torch.equal(before[n], t) for n, t in case.module.state_dict().items())
    assert torch.equal(given, case.inputs["input"])


@pytest.mark.parametrize("name", list(MODELS))
def test_entries_build_the_same_each_time(name: str):
    entry = MODELS[name]
    if entry.needs:
        pytest.skip("covered by the plain ones")
    one, two = entry.build(), entry.build()
    assert all(torch.equal(a, b) for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True))
    for key, value in one.inputs.items():
        assert torch.equal(value, two.inputs[key])
