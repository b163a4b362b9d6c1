"""What is measured of the second device: also of its first program, and while somebody else counts there."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from checks import compiled  # noqa: E402

import lowtide  # noqa: E402
from lowtide.ir.text import parse  # noqa: E402
from lowtide.runtime.measure import measure, peak_of  # noqa: E402
from lowtide.runtime.probe import probe  # noqa: E402
from lowtide.runtime.timing import call_seconds  # noqa: E402
from lowtide.schedule.schedule import schedule  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.spec("G9", "IR-58")
def test_a_step_that_compiles_the_first_program_of_a_device_is_analysed(device: str) -> None:
    call, d = compiled(lambda d: (d * 2).sum()), torch.ones(64).to(device)
    told = lowtide.memory_analysis(lambda: call(d))
    (found,) = (f for f in told.devices if f.device == f"{device}:0")
    assert found.measured_peak_bytes is None and found.allocations is None, "nobody knew before that it would count"
    assert str(told).endswith("measured not measured")
    told = lowtide.memory_analysis(lambda: call(d))
    (found,) = (f for f in told.devices if f.device == f"{device}:0")
    assert found.measured_peak_bytes == found.promised_peak_bytes > 0


@pytest.mark.spec("G9", "IR-58")
def test_a_step_that_plans_another_size_keeps_its_peak(device: str) -> None:
    call = compiled(lambda d: (d * 2).sum())
    call(torch.ones(64).to(device))
    small, nbytes = torch.ones(96).to(device), 4 << 20

    def step() -> None:
        torch.empty(nbytes, dtype=torch.uint8, device=device)
        call(small)  # planning it tries its operations under the device's counter

    found = lowtide.memory_analysis(step)
    (told,) = (f for f in found.devices if f.device == f"{device}:0")
    assert told.measured_peak_bytes is not None and told.measured_peak_bytes >= nbytes


@pytest.mark.spec("G9", "IR-58")
def test_measurements_inside_each_other_each_have_their_peak(device: str) -> None:
    def take(nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=device)

    inner: list[int] = []

    def step() -> None:
        take(3 << 20)
        held = take(1 << 20)
        inner.append(peak_of(lambda: take(1 << 10), f"{device}:0")[1])
        with pytest.raises(ValueError, match="on purpose"):
            peak_of(fails, f"{device}:0")
        del held

    def fails() -> None:
        raise ValueError("on purpose")

    found = measure(step, [f"{device}:0"]).on(f"{device}:0")
    assert found is not None
    assert (inner, found.peak_nbytes, found.end_nbytes) == ([1 << 10], 3 << 20, 0)
    later = measure(lambda: take(1 << 10), [f"{device}:0"]).on(f"{device}:0")
    assert later is not None and later.peak_nbytes == 1 << 10


@pytest.mark.spec("SC-62", "RT-02")
def test_a_draw_of_the_devices_numbers_is_neither_tried_nor_timed(device: str) -> None:
    graph = parse(f"""graph g version 1
  section inference
    input %x: f32[6,6]{{6,1}} @{device}:0
    %a: f32[6,6]{{6,1}} @{device}:0 = aten.mm.default(%x, %x)
    %r: f32[6,6]{{6,1}} @{device}:0 = aten.bernoulli.p(%x, 0.5) effect random
    return [%a, %r]
""")
    assert call_seconds(schedule(graph, {})).keys() == {"a"}
    note = probe(graph)["r"].note
    assert note is not None and "would draw random numbers" in note.because


@pytest.mark.spec("SC-62")
def test_what_was_begun_on_a_device_is_not_timed_as_the_call_and_the_call_is_timed_to_its_end(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[str] = []
    real = torch.accelerator.synchronize

    def counted(where: str) -> None:
        waited.append(where)
        real(where)

    monkeypatch.setattr(torch.accelerator, "synchronize", counted)
    text = """graph g version 1
  section inference
    input %x: f32[5,7]{7,1} @DEVICE
    %a: f32[5,5]{5,1} @DEVICE = aten.mm.default(%x, %x)
    %b: f32[5,7]{7,1} @DEVICE = aten.sin.default(%x)
    return %b
"""
    assert call_seconds(schedule(parse(text.replace("DEVICE", "cpu")), {})).keys() == {"b"} and not waited
    assert call_seconds(schedule(parse(text.replace("DEVICE", f"{device}:0")), {})).keys() == {"b"}
    assert set(waited) == {f"{device}:0"} and len(waited) > 2
