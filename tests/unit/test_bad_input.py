"""What people get wrong, and what we cannot do: a clear error, or the captured graph with the reason in log and report."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

import lowtide
from lowtide import pipeline
from lowtide.core.errors import BugError, OptionError, OverBudget, UserError, VerifyError
from lowtide.runtime.load import retained_nbytes
from lowtide.runtime.records import records

pytestmark = [
    pytest.mark.torch,
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
X = torch.linspace(-1, 1, 64).view(8, 8)


def f(x: torch.Tensor) -> torch.Tensor:
    return (x * 2 + 1).relu().sum(-1)


def run(function: Callable[..., Any] = f, *args: Any, **more: Any) -> Any:
    return torch.compile(function, backend="lowtide", **more)(*(args or (X,)))


def refusal(**more: Any) -> Exception:
    with pytest.raises(BackendCompilerFailed) as refused:
        run(**more)
    inner = refused.value.inner_exception
    assert f"{type(inner).__name__}: {inner}" in str(refused.value)
    return inner


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bugdet": 1}, "lowtide has no option 'bugdet'; did you mean 'budget'?"),
        ({"xyzzy": 1}, "lowtide has no option 'xyzzy'; known: budget"),
        ({"reorder": 1}, "option 'reorder' is true or false, not 1"),
        ({"slabs": "two"}, "option 'slabs' is one of auto, none, one, not 'two'"),
        ({"budget": "lots"}, "option 'budget': 'lots' is not a size"),
        ({"budget": 0}, "option 'budget' of 0 bytes"),
        ({"recent_shapes": 0}, "option 'recent_shapes' is a whole number from 1, not 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str):
    inner = refusal(options=options)
    assert isinstance(inner, OptionError) and str(inner).startswith(says)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_a_mode_is_refused_with_what_to_write_instead(mode: str):
    inner = refusal(mode=mode)
    assert isinstance(inner, OptionError)
    assert f"no mode {mode!r}" in str(inner) and "options=" in str(inner)


def test_the_default_mode_is_fine():
    assert torch.equal(run(mode="default"), f(X))


def test_a_budget_that_is_too_small_names_the_least_peak():
    inner = refusal(options={"budget": 100, "kernels": "aten"})
    assert isinstance(inner, OverBudget)
    assert (inner.budget_nbytes, inner.promised_nbytes) == (100, 288)
    assert "the budget is 100 B; the smallest peak known is 288 B (288 bytes)" in str(inner)
    torch.compiler.reset()
    assert torch.equal(run(options={"budget": 288, "kernels": "aten"}), f(X))


def test_a_budget_holds_for_training_too():
    w = torch.randn(8, 8, requires_grad=True)
    with pytest.raises(BackendCompilerFailed) as refused:
        run(lambda x: (x @ w).relu().sum(), options={"budget": 300})
    assert isinstance(refused.value.inner_exception, OverBudget)


def unplanned(caplog: pytest.LogCaptureFixture, because: str) -> None:
    """The reason stands in the log, in the records and in the report."""
    assert any(because in r.message and r.levelno == logging.WARNING for r in caplog.records)
    assert any(r.fallback is not None and because in str(r.fallback) for r in records())
    told = lowtide.memory_analysis()
    assert any(g.fallback is not None and because in g.fallback for g in told.graphs)
    assert f"unplanned: {next(g.fallback for g in told.graphs if g.fallback)}" in str(told)


@pytest.mark.spec("G12", "SC-69")
def test_another_device_runs_as_captured(caplog: pytest.LogCaptureFixture):
    assert run(f, X.to("meta")).shape == (8,)
    unplanned(caplog, "meta")


@pytest.mark.spec("G12")
def test_a_dtype_that_we_do_not_know_runs_as_captured(caplog: pytest.LogCaptureFixture):
    odd = X.to(torch.float8_e4m3fnuz)
    assert torch.equal(run(lambda x: x.to(torch.float32) * 2, odd), odd.to(torch.float32) * 2)
    unplanned(caplog, "float8_e4m3fnuz")


def planned_as_it_runs(because: str) -> None:
    """The reason stands in the records and in the report."""
    assert any(r.at_run_time and because in str(r.because) and r.fallback is None for r in records())
    told = lowtide.memory_analysis()
    assert any(because in why for g in told.graphs for why in g.reasons)
    assert "planned as it runs" in str(told)


@pytest.mark.spec("G12", "IR-64")
def test_a_conditional_is_planned_as_it_runs():
    def both(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda a: (a + 1).sin() * 2, lambda a: (a - 1).cos() * 3, (x,))

    call = torch.compile(both, backend="lowtide")
    for x in (X, X, X - 2, X - 2, X):
        assert torch.equal(call(x), both(x))
    planned_as_it_runs("cond: takes a program of its own")


@pytest.mark.spec("G12", "RT-13")
def test_a_size_that_depends_on_data_is_planned_as_it_runs():
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        call = torch.compile(lambda x: (x[x > 0] * 2 + 1).tanh(), backend="lowtide")
        for x in (X, X, X * -1, X + 1, X):
            assert torch.equal(call(x), (x[x > 0] * 2 + 1).tanh())
    planned_as_it_runs("depends on data")


class Tagged(torch.Tensor):
    """A subclass without a dispatch of its own."""


@pytest.mark.spec("G12")
def test_a_plain_subclass_runs_as_captured(caplog: pytest.LogCaptureFixture):
    found = run(f, X.as_subclass(Tagged))
    assert type(found) is Tagged and torch.equal(found.as_subclass(torch.Tensor), f(X))
    unplanned(caplog, "class Tagged")


@pytest.mark.spec("G12")
def test_what_dynamo_leaves_to_python_is_told():
    def looped(x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            torch._dynamo.graph_break()
            x = x + 1
        return x

    assert torch.equal(run(looped), looped(X))
    told = lowtide.memory_analysis()
    assert not told.graphs and any("graph_break" in why for why in told.left_to_python)
    assert "runs in Python" in str(told)
    torch.compiler.reset()
    assert lowtide.memory_analysis().left_to_python == ()


def test_graph_breaks_everywhere():
    def broken(x: torch.Tensor) -> torch.Tensor:
        x = x * 2
        torch._dynamo.graph_break()
        x = x + 1
        torch._dynamo.graph_break()
        return x.relu()

    assert torch.equal(run(broken), broken(X))
    assert len(lowtide.memory_analysis().graphs) == 3


def test_a_custom_operator_without_fake_kernel():
    @torch.library.custom_op("lowtide_bad::nofake", mutates_args=())
    def nofake(x: torch.Tensor) -> torch.Tensor:
        return x * 3

    with pytest.raises(RuntimeError, match="register_fake"):
        run(lambda x: nofake(x) + 1)


def test_sparse_and_nested_tensors():
    sparse = torch.eye(8).to_sparse()
    assert torch.equal(run(lambda s, x: torch.sparse.mm(s, x) * 2, sparse, X), X * 2)
    from torch.testing._internal.two_tensor import TwoTensor

    both = run(f, TwoTensor(X, X + 1))
    assert torch.equal(both.a, f(X)) and torch.equal(both.b, f(X + 1))


def test_conjugates_are_computed():
    """A lazy conjugate is a view whose bit no header over a slab would carry."""
    z = torch.complex(X, X.flip(0))

    def g(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a = torch.conj(x * 2)
        b = torch.resolve_conj(a) * x
        return torch.view_as_real(a * x), torch.view_as_real(b), (x * 1j).conj().imag

    for slabs in ("auto", "none", "one"):
        torch.compiler.reset()
        for found, wanted in zip(run(g, z, options={"slabs": slabs, "verify": True}), g(z), strict=True):
            assert torch.equal(found, wanted)


def test_backward_without_steps():
    x = X.clone().requires_grad_()
    run(lambda t: t.clone().view(-1), x).sum().backward()
    assert torch.equal(x.grad, torch.ones(8, 8))


def broken(*_: object, **__: object) -> object:
    raise VerifyError("overlap", "two storages share bytes")


def wrong(*_: object, **__: object) -> object:
    raise BugError("a name is used twice")


def warned(caplog: pytest.LogCaptureFixture) -> bool:
    return any("a stage of ours is wrong" in r.message and r.levelno == logging.WARNING for r in caplog.records)


STAGES = ["lower", "order_steps", "plan_memory", "emit"]


@pytest.mark.spec("PP-36")
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_wrong_leaves_the_program_as_it_was_with_a_warning(
    stage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(pipeline, stage, broken)
    assert torch.equal(run(), f(X))
    assert warned(caplog)
    torch.compiler.reset()
    assert isinstance(refusal(options={"verify": True}), VerifyError)


@pytest.mark.spec("PP-36", "RT-12")
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_wrong_at_further_sizes_leaves_those_as_they_were(
    stage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Forward and backward alike; sizes that were built before, and those that come when all is well again, are planned."""
    w = torch.randn(8, 8, requires_grad=True)
    call = torch.compile(lambda x: ((x @ w).tanh() @ w).sum(), backend="lowtide", dynamic=True)

    def gradient(step: Callable[[torch.Tensor], torch.Tensor], n: int) -> torch.Tensor:
        step(torch.linspace(0, 1, 8 * n).view(n, 8)).backward()
        found, w.grad = w.grad, None
        assert found is not None
        return found

    def agrees(n: int) -> None:
        torch.testing.assert_close(gradient(call, n), gradient(lambda x: ((x @ w).tanh() @ w).sum(), n))

    agrees(5)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, stage, broken)
        agrees(5)
        assert not warned(caplog)
        patch.setattr(pipeline, "follow", lambda *_: None)  # nothing to take over
        patch.setattr(pipeline, "join_again", lambda *_: None)
        for n in (50, 7, 50):
            agrees(n)
        assert warned(caplog)
    before = len(caplog.records)
    for n in (5, 9, 50):
        agrees(n)
    assert len(caplog.records) == before


def gradients(step: Callable[[torch.Tensor], torch.Tensor], n: int, w: torch.Tensor, times: int = 1) -> torch.Tensor:
    """Of ``w``, after some backward calls over one graph, of which all but the last keep it."""
    loss = step(torch.linspace(0, 1, 8 * n).view(n, 8))
    for i in range(times):
        loss.backward(retain_graph=i + 1 < times)
    found, w.grad = w.grad, None
    assert found is not None
    return found


@pytest.mark.spec("PP-36", "RT-12")
@torch._functorch.config.patch(donated_buffer=False)  # else such a backward call is refused
def test_a_backward_whose_forward_ran_as_captured_takes_saved_tensors_of_any_strides(monkeypatch: pytest.MonkeyPatch):
    """Also where a section of ours could be had by then: nobody would lay its inputs out."""
    w = torch.randn(8, 8, requires_grad=True)

    def f(x: torch.Tensor) -> torch.Tensor:
        return ((x @ w).tanh() @ w).sum()

    call = torch.compile(f, backend="lowtide", dynamic=True)
    gradients(call, 5, w)
    x = torch.linspace(0, 1, 400).view(50, 8)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "emit", broken)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: t, lambda t: t.t().contiguous().t() if t.dim() == 2 else t
        ):
            loss = call(x)
    loss.backward(retain_graph=True)
    loss.backward()
    found, w.grad = w.grad, None
    torch.testing.assert_close(found, gradients(f, 50, w, times=2))


@pytest.mark.spec("PP-36")
@torch._functorch.config.patch(donated_buffer=False)  # else such a backward call is refused
def test_a_stage_that_is_wrong_at_a_later_backward_leaves_that_as_it_was(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    w = torch.randn(8, 8, requires_grad=True)

    def f(x: torch.Tensor) -> torch.Tensor:
        return ((x @ w).tanh() @ w).sum()

    call = torch.compile(f, backend="lowtide", dynamic=False)
    torch.testing.assert_close(gradients(call, 5, w), gradients(f, 5, w))
    monkeypatch.setattr(pipeline, "emit", wrong)
    torch.testing.assert_close(gradients(call, 5, w, times=2), gradients(f, 5, w, times=2))
    assert warned(caplog)
    (record,) = records()
    assert record.fallback is None and list(record.captured) == ["its sizes (backward alone)"]


@pytest.mark.spec("RT-12")
def test_reset_gives_back_everything():
    w = torch.randn(8, 8)

    def deep(x: torch.Tensor) -> torch.Tensor:
        for _ in range(6):
            x = (x @ w).softmax(-1)
        return x.sum(-1)

    run(deep, options={"slabs": "one"})
    assert retained_nbytes() > 0 and records()
    torch.compiler.reset()
    assert retained_nbytes() == 0 and not records()
    assert lowtide.memory_analysis().graphs == ()
    run(deep, options={"slabs": "one"})
    assert lowtide.release_retained() > 0
    torch.testing.assert_close(run(deep, options={"slabs": "one"}), deep(X))
    gc.collect()


def test_nothing_is_retained_where_nothing_may_be():
    run(lambda x: ((x @ x).softmax(-1) @ x).softmax(-1) * 2, options={"slabs": "one", "retain": 0})
    assert retained_nbytes() == 0


def test_measuring_under_a_profiler_is_refused():
    call = torch.compile(f, backend="lowtide")
    with torch.autograd.profiler.profile(use_kineto=False), pytest.raises(UserError, match="while a profiler runs"):
        lowtide.memory_analysis(lambda: call(X))


def test_the_first_call_may_be_the_measured_one():
    """Facts are measured while the step is."""
    call = torch.compile(lambda x, w: (x @ w).softmax(-1).sum(), backend="lowtide")
    w = torch.randn(8, 8, requires_grad=True)
    told = lowtide.memory_analysis(lambda: call(X, w).backward())  # compiling takes memory too
    w.grad = None
    again = lowtide.memory_analysis(lambda: call(X, w).backward())
    assert not any(g.reasons for g in told.graphs)
    assert told.promised_peak_bytes == again.promised_peak_bytes
    assert again.measured_peak_bytes == pytest.approx(again.promised_peak_bytes, abs=16)  # numbers made on the way
