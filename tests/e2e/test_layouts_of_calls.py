"""What library calls ask of the layouts that loops give them, and a target that wants lines apart, from PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lowtide
from lowtide import pipeline
from lowtide.codegen import targets
from lowtide.ir.graph import Layout, Ref
from lowtide.ir.layouts import Padding, aligned, fits
from lowtide.runtime.records import records
from lowtide.schedule.requests import asked
from lowtide.schedule.schedule import Schedule

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
VERIFIED = {"verify": True}


def schedules() -> list[Schedule]:
    return [p.schedule for r in records() for p in r.planned]


def operands(of: str) -> Iterator[tuple[Layout, bool]]:
    """Of the calls whose name begins so, and those only: what each reads, and whether that lies as it asks."""
    for s in schedules():
        for step in s.steps:
            for k, a in enumerate(step.op.args[:3]) if step.op.target.startswith(of) else ():
                if isinstance(a, Ref):
                    x = s.graph.value[a.name].layout
                    yield x, fits(x, asked(step.op, k, s.graph.value))


class Gated(nn.Module):
    """A gradient comes to the convolution from a product with what lies channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1).to(memory_format=torch.channels_last)
        self.gate = nn.Parameter(torch.randn(2, 16, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x).contiguous() * self.gate).tanh().square().sum()


def step(model: nn.Module, x: Tensor) -> tuple[lowtide.MemoryAnalysis, list[Tensor]]:
    """The second step of a model under Lowtide: its bytes, its gradients."""
    torch.compiler.reset()
    f = torch.compile(model, backend="lowtide", options=VERIFIED)

    def run() -> None:
        f(x).backward()

    run()
    model.zero_grad(set_to_none=True)
    found = lowtide.memory_analysis(run)
    return found, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.spec("IR-14", "IR-52")
def test_a_gradient_is_laid_as_the_convolution_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channel by channel, as eager has it, the library would copy it; the same gradients to the bit, in the same strides."""
    torch.manual_seed(0)
    model, x = Gated(), torch.randn(2, 8, 12, 12).to(memory_format=torch.channels_last)
    model(x).backward()
    wanted = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    with monkeypatch.context() as m:
        real = pipeline.decide_layouts
        m.setattr(pipeline, "decide_layouts", lambda lowered, *_, **__: real(lowered))
        before, plain = step(model, x)
        copied = sum(not met for _, met in operands("aten.convolution"))
        workspace = sum(s.facts.workspace for made in schedules() for s in made.steps)
    model.zero_grad(set_to_none=True)
    after, grads = step(model, x)
    assert copied == 1 and all(met for _, met in operands("aten.convolution")), "one copy fewer"
    assert workspace - sum(s.facts.workspace for made in schedules() for s in made.steps) >= 2 * 16 * 12 * 12 * 4
    assert after.promised_peak_bytes <= before.promised_peak_bytes
    assert 0 <= after.measured_peak_bytes - after.promised_peak_bytes <= 4, "autograd's own gradient of the loss"
    for a, b, c in zip(grads, plain, wanted, strict=True):
        assert torch.equal(a, b) and a.stride() == c.stride()
        torch.testing.assert_close(a, c)


@pytest.mark.spec("IR-14", "IR-52")
def test_what_makes_calls_copy_no_less_is_taken_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the calls took as much memory afterwards as before."""
    torch.manual_seed(0)
    real, found = pipeline.laid_out, list[str]()

    def no_better(lowered: Any, known: Any, at: Any) -> Any:
        made = real(lowered, known, replace(at, facts=lambda _: known))
        found.append(made[2])
        return made

    monkeypatch.setattr(pipeline, "laid_out", no_better)
    step(Gated(), torch.randn(2, 8, 12, 12).to(memory_format=torch.channels_last))
    (said,) = (line for text in found for line in text.splitlines() if line.startswith("1 values laid"))
    assert "1 values laid as library calls ask: calls would take " in said and " instead of " in said
    assert not any("%" in line and line.endswith(" asks") for text in found for line in text.splitlines())


@pytest.mark.spec("IR-16", "IR-20")
def test_a_target_may_have_lines_of_matrices_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 77 numbers at multiples of 64 bytes: the same numbers, gaps are promised and measured. The CPU has none."""
    torch.manual_seed(0)
    w, x = torch.randn(77, 40), torch.randn(300, 77)

    def f(x: Tensor) -> Tensor:
        return torch.mm(functional.gelu(x) + 1, w)

    found: dict[bool, lowtide.MemoryAnalysis] = {}
    for apart in (False, True):
        if apart:
            monkeypatch.setitem(targets.TARGETS, "cpu", replace(targets.CPU, padding=Padding(nbytes=64, above=64)))
        torch.compiler.reset()
        g = torch.compile(f, backend="lowtide", options=VERIFIED)
        torch.testing.assert_close(g(x), f(x))
        found[apart] = lowtide.memory_analysis(lambda: g(x))  # noqa: B023
        (left, _) = next(operands("aten.mm"))
        assert left.stride == ((80, 1) if apart else (77, 1)) and aligned(left, 64) is apart
        assert found[apart].promised_peak_bytes == found[apart].measured_peak_bytes
    gaps = 299 * 3 * 4
    assert found[True].promised_peak_bytes - found[False].promised_peak_bytes == gaps, (
        "but for one behind the last line"
    )
    assert targets.CPU.padding is None


def test_attention_takes_keys_and_values_as_they_lie() -> None:
    """Rows apart in any way: the bits of what lies head by head, in the same strides."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 40, 16) for _ in range(3))
    call = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    tokens = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    wide = [torch.cat([x, x], 3)[..., :16] for x in (q, k, v)]
    for other in (tokens, wide):
        for a, b in zip(call(q, k, v), call(q, *other[1:]), strict=True):
            assert torch.equal(a, b) and a.stride() == b.stride()


@pytest.mark.spec("IR-12")
def test_a_copy_of_what_is_given_is_a_view_of_where_that_lies_now() -> None:
    """Of the second half of a tensor too, when the first half came before: Dynamo guards no offset."""
    torch.manual_seed(0)
    big, y = torch.randn(64, 48), torch.randn(32, 8)

    def f(x: Tensor, y: Tensor) -> Tensor:
        return x.T.contiguous() @ y

    torch.compiler.reset()
    g = torch.compile(f, backend="lowtide", options=VERIFIED)
    for x in (big[:32], big[32:]):
        torch.testing.assert_close(g(x, y), f(x, y))
    assert any(op.target == "aten.as_strided.default" for s in schedules() for op in s.graph.ops), "a view of ours"


class Turned(torch.autograd.Function):
    """What is saved is a copy's source in the backward section."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        h = x.exp()
        ctx.save_for_backward(h)
        return h + 1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (h,) = ctx.saved_tensors
        return h @ (h.T.contiguous() @ grads[0])


@pytest.mark.spec("IR-12")
def test_a_copy_of_what_was_saved_is_a_view_of_where_that_lies_now() -> None:
    """Hooks may give back what was saved as a part of a larger buffer."""
    torch.manual_seed(0)
    x, g = torch.randn(24, 16), torch.randn(24, 16)

    def within(saved: Tensor) -> Tensor:
        buffer = torch.zeros(saved.numel() + 1000)
        return buffer[1000 - 10 : -10].view(saved.shape).copy_(saved)

    def f(x: Tensor) -> Tensor:
        return Turned.apply(x) * 2  # type: ignore[no-untyped-call]

    torch.compiler.reset()
    compiled = torch.compile(f, backend="lowtide", options=VERIFIED)
    found: list[Tensor] = []
    for h in (f, compiled):
        leaf = x.clone().requires_grad_()
        if h is compiled:
            h(leaf).backward(g)
            leaf.grad = None
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, within):
            h(leaf).backward(g)
        assert leaf.grad is not None
        found.append(leaf.grad)
    torch.testing.assert_close(found[1], found[0])
    assert any(op.target == "aten.as_strided.default" for s in schedules() for op in s.graph.ops), "a view of ours"


@pytest.mark.spec("IR-12")
def test_a_place_in_the_storage_of_what_is_given_is_eagers() -> None:
    """Not one that follows where the tensor begins: the same element of any part. A loop and a library call read it."""
    torch.manual_seed(0)
    big, y = torch.randn(64, 8), torch.randn(4, 8)

    def f(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        part = torch.as_strided(x[1:], (4, 4), (8, 1), 8)
        return part.sin(), part @ y, torch.as_strided(x, (4, 4), (8, 1)).sin()

    torch.compiler.reset()
    g = torch.compile(f, backend="lowtide", options=VERIFIED)
    for x in (big[:32], big[32:]):
        for ours, eagers in zip(g(x, y), f(x, y), strict=True):
            torch.testing.assert_close(ours, eagers)


@pytest.mark.spec("IR-12")
def test_what_is_written_by_its_place_in_the_storage_of_what_is_given_is_eagers() -> None:
    """The same elements of any part are replaced where the place follows the part, and other ones where it does not."""
    torch.manual_seed(0)
    big, part = torch.randn(64, 8), torch.randn(4, 4)

    def f(x: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        fixed = torch.as_strided_scatter(x, part, (4, 4), (8, 1), 8)
        return fixed.sin(), torch.as_strided_scatter(x, part, (4, 4), (8, 1)).sin()

    torch.compiler.reset()
    g = torch.compile(f, backend="lowtide", options=VERIFIED)
    for x in (big[:32], big[32:], big[1:33]):
        for ours, eagers in zip(g(x, part), f(x, part), strict=True):
            torch.testing.assert_close(ours, eagers)


@pytest.mark.spec("IR-12")
def test_what_is_written_into_what_is_given_is_eagers_also_after_the_same_into_what_was_made() -> None:
    """The first is a loop, since what we made begins where its storage does; the second is not, however alike it is."""
    torch.manual_seed(0)
    big, part = torch.randn(64, 8), torch.randn(4, 4)

    def f(x: Tensor, part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = x + 1
        ours = torch.as_strided_scatter(made, part, (4, 4), (8, 1), 8)
        given = torch.as_strided_scatter(x, part, (4, 4), (8, 1), 8)
        return made, ours.sin(), given.sin()

    torch.compiler.reset()
    g = torch.compile(f, backend="lowtide", options=VERIFIED)
    for x in (big[:32], big[32:]):
        for ours, eagers in zip(g(x, part), f(x, part), strict=True):
            torch.testing.assert_close(ours, eagers)
