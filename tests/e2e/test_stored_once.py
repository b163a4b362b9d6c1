"""Layouts that stay open until fusion is done, from PyTorch: what that spares, and that nobody can tell by the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import lowtide
import lowtide.pipeline as pipeline
from lowtide.runtime.records import records
from lowtide.schedule.open_layouts import Decided

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
VERIFIED = {"verify": True}


def noted(monkeypatch: pytest.MonkeyPatch, *, decide: bool = True) -> list[str]:
    """Notes of all programs compiled from now on; without ``decide`` layouts stay as captured."""
    notes: list[str] = []
    real = pipeline.decide_layouts

    def watched(lowered: Any, *how: Any, **named: Any) -> Decided:
        found = real(lowered, *how, **named) if decide else Decided(lowered, ())
        notes.extend(found.notes)
        return found

    monkeypatch.setattr(pipeline, "decide_layouts", watched)
    return notes


def trained(model: nn.Module, x: Tensor) -> tuple[lowtide.MemoryAnalysis, list[Tensor], int]:
    """The second step under Lowtide: its bytes, its gradients, and how many kernels it runs."""
    torch.compiler.reset()
    f = torch.compile(lambda x: model(x).square().mean(), backend="lowtide", options=VERIFIED)

    def step() -> None:
        f(x).backward()

    model.zero_grad(set_to_none=True)
    step()
    model.zero_grad(set_to_none=True)  # a step that frees what was there before takes less than it holds
    found = lowtide.memory_analysis(step)
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    kernels = sum(s.loop is not None for r in records() for p in r.planned for s in p.schedule.steps)
    model.zero_grad(set_to_none=True)
    return found, grads, kernels


@pytest.mark.spec("IR-12", "IR-52")
def test_what_an_encoder_normalises_is_stored_as_attention_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own encoder, batch first: attention turns what is normalised to sequence first, and copies it for the product
    and its gradient. It is stored in that order at once."""
    torch.manual_seed(0)
    batch, length, width = 4, 64, 128
    model = nn.TransformerEncoderLayer(width, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
    x = torch.randn(batch, length, width)
    model(x).square().mean().backward()
    wanted = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    with monkeypatch.context() as m:
        noted(m, decide=False)
        before, plain, most = trained(model, x)
    notes = noted(monkeypatch)
    after, grads, kernels = trained(model, x)
    for a, b, c in zip(grads, plain, wanted, strict=True):
        assert a.stride() == c.stride()
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)
    assert notes and all("in its order: 128.0 KiB less" in n for n in notes), notes
    assert kernels == most - len(notes)
    one = batch * length * width * 4
    assert before.sum_bytes - after.sum_bytes >= len(notes) * one
    assert after.promised_peak_bytes <= before.promised_peak_bytes
    assert 0 <= after.measured_peak_bytes - after.promised_peak_bytes <= 4, "autograd's own gradient of the loss"


Step = tuple[str, int]
STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "turned": lambda x: x.transpose(1, 2),
    "upright": lambda x: x.transpose(-1, -2),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "row by row": lambda x: x.contiguous(),
    "copied": lambda x: x.clone(),
    "laid out": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "folded": lambda x: x.reshape(x.shape[0], -1).reshape(x.shape),
    "wave": torch.sin,
    "softmax": lambda x: x.softmax(-1),
    "centred": lambda x: x - x.mean((2, 3), keepdim=True),
    "normed": lambda x: functional.layer_norm(x, x.shape[-1:]),
    "product": lambda x: torch.matmul(x, x.mT) @ x * 0.01,
    "summed": lambda x: x.cumsum(-1) * 0.1,
}  # fmt: skip


def results(steps: Sequence[Step], kept: Sequence[int], x: Tensor) -> list[Tensor]:
    """What some of the steps give, each of which takes what one before it gave, back from the last; behind them their sum."""
    values = [x]
    for name, back in steps:
        values.append(STEPS[name](values[max(len(values) - 1 - back, 0)]))
    flat = [v.reshape(-1) for v in values[1:]]
    return [*(values[1 + k % len(steps)] for k in dict.fromkeys(kept)), sum(flat[1:], flat[0])]


@pytest.mark.spec("IR-12", "IR-15", "IR-52")
@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 2)), min_size=4, max_size=9),
    st.lists(st.integers(0, 8), max_size=2),
    st.booleans(),
)
@settings(max_examples=4, deadline=None, derandomize=True)
def test_nobody_can_tell(steps: list[Step], kept: list[int], train: bool) -> None:
    """Transposes, channels last, clones, and what lies between: numbers, strides and gradients are eager's."""
    x = torch.linspace(-1, 1, 2 * 16 * 16 * 16, dtype=torch.float64).sin().reshape(2, 16, 16, 16)
    torch.compiler.reset()
    f = torch.compile(lambda x: results(steps, kept, x), backend="lowtide", options=VERIFIED)
    inputs = [x.clone().requires_grad_(train) for _ in range(2)]
    got, want = f(inputs[0]), results(steps, kept, inputs[1])
    for a, b in zip(got, want, strict=True):
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    if train:
        mine, theirs = (
            torch.autograd.grad(y[-1].square().sum(), i)[0] for y, i in zip((got, want), inputs, strict=True)
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.spec("IR-52")
def test_masks_of_layers_are_stored_once_in_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer makes numbers of the same mask, which a library call reads."""
    notes = noted(monkeypatch)
    q = torch.randn(2, 4, 32, 16)

    seen = torch.ones(32, 32).tril().bool()[None, None].expand(2, 1, 32, 32)

    def layers(q: Tensor, seen: Tensor) -> Tensor:
        for _ in range(3):
            q = functional.scaled_dot_product_attention(q, q, q, attn_mask=seen)
        return q

    with torch.no_grad():
        f = torch.compile(layers, backend="lowtide", options=VERIFIED)
        torch.testing.assert_close(f(q, seen), layers(q, seen))
    assert notes == ["%where_1 is stored once, as %where: 8.00 KiB less"]


def strided(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix that begins at a row, and ends behind it."""
    a = x.sin()
    return a.transpose(0, 1).contiguous(), a[0, 0].as_strided((3, 16), (16, 1)) @ w


def bytes_of_it(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Half of a row, its bytes as numbers of another type."""
    a = x.sin()
    return a.transpose(0, 1).contiguous(), a[0, 0, 8:].view(torch.int32) + w[:, 0].int()


def read_between(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A part of what is copied is read in the kernel that makes it."""
    y = x.sin().cos().exp()
    return y + w, y[:-8] * w[:-8], y.clone()


@pytest.mark.spec("IR-12", "IR-52")
@pytest.mark.parametrize(("f", "x", "w"), [(strided, (2, 3, 16), (16, 4)), (bytes_of_it, (2, 3, 16), (16, 4)),
                                           (read_between, (2048, 64), (2048, 64))])  # fmt: skip
def test_readers_of_memory_and_of_parts_see_what_eager_sees(
    f: Callable[[Tensor, Tensor], tuple[Tensor, ...]], x: tuple[int, ...], w: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    given = (torch.randn(x, dtype=torch.float64), torch.randn(w, dtype=torch.float64))
    for got, want in zip(torch.compile(f, backend="lowtide", options=VERIFIED)(*given), f(*given), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.spec("IR-52")
def test_without_fusion_everything_is_stored_as_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same program with it and without: one has the copy alone, both have eager's numbers."""
    notes = noted(monkeypatch)
    x, w = torch.linspace(-3, 3, 96).reshape(2, 3, 16), torch.ones(16, 4)

    def f(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        a = x.sin()
        return a.transpose(0, 1).contiguous(), a[0] @ w

    found: list[int] = []
    for fuse in (False, True):
        torch.compiler.reset()
        compiled = torch.compile(f, backend="lowtide", options=VERIFIED | {"fuse": fuse})
        for got, want in zip(compiled(x, w), f(x, w), strict=True):
            torch.testing.assert_close(got, want)
        found.append(len(notes))
    assert found == [0, 1]
