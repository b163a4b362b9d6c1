"""What programs on two devices are held to. Used by the tests beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

import lowtide
from lowtide.plan.replay import replay
from lowtide.runtime.records import Planned, records


def compiled(f: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return torch.compile(f, backend="lowtide", options={"verify": True, **options})


def planned() -> Planned:
    """The one program that was planned."""
    (record,) = records()
    assert record.fallback is None, record.fallback
    (found,) = record.planned
    replay(found.schedule, found.plan)
    return found


def check(f: Callable[..., Any], args: Sequence[Any], times: int = 3, **options: Any) -> Planned:
    """Equal to eager, call after call."""
    call = compiled(f, **options)
    for _ in range(times):
        for got, wanted in zip(call(*args), f(*args), strict=True):
            assert got.device == wanted.device and got.stride() == wanted.stride()
            torch.testing.assert_close(got.cpu(), wanted.cpu())
    return planned()


def as_promised(step: Callable[[], Any]) -> lowtide.MemoryAnalysis:
    """What is measured on each device is what was promised there."""
    step()
    found = lowtide.memory_analysis(step)
    for d in found.devices:
        assert d.lower_bound_bytes <= d.promised_peak_bytes <= d.sum_bytes, d
        assert d.measured_peak_bytes == d.promised_peak_bytes, d
    return found
