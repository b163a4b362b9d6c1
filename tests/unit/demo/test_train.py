"""The demo's training: equal starts for every backend, and bytes that were really counted."""

from __future__ import annotations

from dataclasses import replace

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


TEXT = bytes(range(256)) * 8


def test_backends_take_turns_and_start_and_stay_equal():
    told: list[tuple[int, int]] = []
    (eager, compiled), refused = train([None, "aot_eager"], TEXT, TINY, 3, lambda k, step, _: told.append((k, step)))
    assert told == [(1, 0), (0, 0), (0, 1), (1, 1), (1, 2), (0, 2)] and not refused
    assert [r.name for r in (eager, compiled)] == ["eager", "aot_eager"]
    assert len(eager.losses) == 3 and eager.losses[2] < eager.losses[0]
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-6)


def test_a_foreign_backend_that_fails_leaves_the_others_their_steps(monkeypatch: pytest.MonkeyPatch):
    def broken(model: object, *, backend: str) -> object:
        raise RuntimeError(f"no {backend} today\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    (eager,), refused = train([None, "inductor"], TEXT, TINY, 2, lambda *_: None)
    assert len(eager.losses) == 2 and refused == {"inductor": "no inductor today"}
    with pytest.raises(RuntimeError, match="no lowtide today"):
        train([None, "lowtide"], TEXT, TINY, 2, lambda *_: None)


def test_times_are_compared_step_by_step():
    """Of a machine that becomes slower while it is measured, whole runs would say nothing."""
    (run,), _ = train([None], TEXT, TINY, 2, lambda *_: None)
    fast, slow = (replace(run, seconds=tuple(9.0 if k == 0 else k * f for k in range(8))) for f in (1.0, 1.5))
    assert fast.first_seconds == 9.0 and fast.step_seconds == 4.0
    assert slow.times(fast) == 1.5


def test_counted_bytes_are_those_of_the_model():
    (run,), _ = train([None], TEXT, TINY, 2, lambda *_: None)
    gradients = sum(p.numel() * p.element_size() for p in GPT(TINY).parameters())
    assert run.measured_peak_nbytes == max(*run.forward, *run.backward)
    assert run.measured_peak_nbytes > gradients
    # Once the backward has ended, what is left are the gradients (and the loss, 4 bytes, which the caller holds).
    assert gradients <= run.backward[-1] <= gradients + 4096


@pytest.mark.spec("PK-22")
@pytest.mark.usefixtures("fresh_compiler")
def test_lowtide_keeps_its_promise_and_the_numbers():
    (eager, ours), _ = train([None, "lowtide"], TEXT, TINY, 4, lambda *_: None)
    assert ours.losses == pytest.approx(eager.losses, rel=1e-5)
    assert ours.promised_peak_nbytes is not None and ours.lower_bound_nbytes is not None
    assert abs(ours.promised_peak_nbytes - ours.measured_peak_nbytes) <= 0.01 * ours.measured_peak_nbytes
    assert ours.lower_bound_nbytes <= ours.promised_peak_nbytes
