"""The demo's training: equal starts for every backend, and bytes that were really counted."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from lowtide.demo.gpt import GPT, Size  # noqa: E402
from lowtide.demo.text import corpus  # noqa: E402
from lowtide.demo.train import train  # noqa: E402

TINY = Size(layers=1, width=32, heads=2, context=16, batch=4)


def test_there_is_text_to_train_on():
    text, source = corpus()
    assert len(text) > 20_000 and "documentation" in source


def test_backends_start_and_stay_equal():
    told: list[int] = []
    text = bytes(range(256)) * 8
    eager = train(None, text, TINY, 3, lambda step, _: told.append(step))
    torch.compiler.reset()
    compiled = train("aot_eager", text, TINY, 3, lambda *_: None)
    assert told == [0, 1, 2] and len(eager.losses) == 3
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-6)
    assert eager.losses[2] < eager.losses[0]


def test_counted_bytes_are_those_of_the_model():
    run = train(None, bytes(range(256)) * 8, TINY, 2, lambda *_: None)
    gradients = sum(p.numel() * p.element_size() for p in GPT(TINY).parameters())
    assert run.measured_peak_nbytes == max(*run.forward, *run.backward)
    assert run.measured_peak_nbytes > gradients
    # Once the backward has ended, what is left are the gradients (and the loss, 4 bytes, which the caller holds).
    assert gradients <= run.backward[-1] <= gradients + 4096


@pytest.mark.spec("PK-22")
def test_lowtide_keeps_its_promise_and_the_numbers():
    text = bytes(range(256)) * 8
    eager = train(None, text, TINY, 4, lambda *_: None)
    ours = train("lowtide", text, TINY, 4, lambda *_: None)
    assert ours.losses == pytest.approx(eager.losses, rel=1e-5)
    assert ours.promised_peak_nbytes is not None and ours.lower_bound_nbytes is not None
    assert abs(ours.promised_peak_nbytes - ours.measured_peak_nbytes) <= 0.01 * ours.measured_peak_nbytes
    assert ours.lower_bound_nbytes <= ours.promised_peak_nbytes
