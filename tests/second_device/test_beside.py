"""Work beside copies between the host and a device whose queue is late: what runs while a copy waits, counted and not timed."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from checks import as_promised, check, compiled, planned  # noqa: E402

from lowtide import pipeline  # noqa: E402
from lowtide.ir.graph import WAIT  # noqa: E402
from lowtide.runtime.beside import Begun  # noqa: E402
from lowtide.runtime.records import Planned, records  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.spec("IR-58")]
_seen: list[int] = []
_asked: list[ctypes.CDLL] = []


@torch.library.custom_op("lowtide_beside::look", mutates_args=())
def look(x: torch.Tensor) -> torch.Tensor:
    """Notes how much work waits on the device."""
    if _asked:
        _seen.append(_asked[0].lowtide_test_waiting())
    return x.clone()


@look.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("lowtide_beside::fail", mutates_args=())
def fail(x: torch.Tensor) -> torch.Tensor:
    """Raises."""
    raise ValueError("on purpose")


@fail.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@pytest.fixture
def seen(library: ctypes.CDLL) -> Iterator[list[int]]:
    """What ``look`` noted."""
    _seen.clear()
    _asked.append(library)
    yield _seen
    _asked.clear()


def names(found: Planned) -> list[str]:
    return [s.op.target.split(".")[1] if s.loop is None else "loop" for s in found.schedule.steps]


def to_host(d: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The host has something to do before it reads what it is sent."""
    y = look(look(x.sin()) + 1)
    z = (d @ d).cpu().cos() + y
    return (torch.cat([z] * 8).sin() @ z,)  # the peak, so that what comes before has room


@pytest.mark.parametrize("slabs", ["auto", "one", "none"])
def test_the_host_works_while_it_is_sent_something(device: str, seen: list[int], slabs: str) -> None:
    d, x = torch.randn(16, 16).to(device), torch.randn(16, 16)
    call = compiled(to_host, slabs=slabs)
    for _ in range(3):  # the first use of a device in a process may have Dynamo compile once more
        torch.testing.assert_close(call(d, x)[0], to_host(d, x)[0])
    steps = names(records()[-1].planned[0])
    assert steps.index("copy_") < steps.index("look") < steps.index("wait")
    seen.clear()
    call(d, x)
    assert seen and all(seen), "the copy was there to be done all the while"
    as_promised(lambda: call(d, x))


def test_the_device_reads_before_the_host_waits(device: str) -> None:
    def f(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        there = (x * 2).to(device)
        return (there @ d).relu(), look(x.cos())

    steps = names(check(f, (torch.randn(16, 16), torch.randn(16, 16).to(device))))
    assert steps.index("copy_") < steps.index("mm") < steps.index("wait")


def test_what_is_sent_is_not_written_over_before_it_went(device: str) -> None:
    """Each may lie where the one before it lay, whose copy is late: the device does nothing before it has all of them."""

    def f(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b, c, e = ((look(x + k) * 2).to(device) for k in range(4))
        return (torch.cat([a, b, c, e]) @ d).relu(), look(x)

    found = check(f, (torch.randn(32, 32), torch.randn(32, 32).to(device)), slabs="one", fuse=False)
    source = {s.begins: str(s.op.args[1]).removeprefix("%") for s in found.schedule.steps if s.begins}
    waits = [
        (t, str(s.op.args[0]).removeprefix("%")) for t, s in enumerate(found.schedule.steps) if s.op.target == WAIT
    ]
    assert len(waits) == len(source) == 4
    assert all(found.plan.place[source[into]].end > t for t, into in waits)


def test_it_costs_no_byte_of_the_promise(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def f(d: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x
        for k in range(3):
            part = (d * (k + 1)).relu().cpu()
            y = torch.cat([look(y).sin(), part]).reshape(2, -1).sum(0).reshape(x.shape) + y
        return (y,)

    d, x = torch.randn(64, 64).to(device), torch.randn(64, 64)
    beside = check(f, (d, x))
    torch.compiler.reset()
    monkeypatch.setattr(pipeline, "work_beside_copies", lambda schedule, plan, *_: (schedule, plan))
    alone = check(f, (d, x))
    assert [s.op.name for s in beside.schedule.steps] != [s.op.name for s in alone.schedule.steps]
    for told in alone.plan.devices:
        assert beside.plan.on(told.device).promised_nbytes <= told.promised_nbytes


def test_program_order_is_left_as_it_is_where_that_is_asked_for(device: str) -> None:
    d, x = torch.randn(16, 16).to(device), torch.randn(16, 16)
    found = check(to_host, (d, x), reorder=False)
    targets = [s.op.target for s in found.schedule.steps]
    assert targets[targets.index(WAIT) - 1] == "aten.copy_.default"


def test_an_error_meanwhile_leaves_no_copy_behind(device: str, library: ctypes.CDLL) -> None:
    def f(d: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (d.mul(2).cpu().cos() + fail(x.sin()),)

    call = compiled(f)
    d, x = torch.randn(16, 16).to(device), torch.randn(16, 16)
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            call(d, x)
        assert library.lowtide_test_waiting() == 0, "the host's memory is given away now"
    assert "wait" in names(planned())


def test_a_copy_holds_the_memory_of_the_host_until_it_is_done(device: str, library: ctypes.CDLL) -> None:
    there, here = torch.arange(4.0).to(device), torch.zeros(4)
    begun = Begun(here, there)
    assert library.lowtide_test_waiting() == 1 and here.tolist() == [0.0] * 4 and begun.held is here
    begun.wait()
    assert here.tolist() == [0.0, 1.0, 2.0, 3.0] and begun.held is None
    begun = Begun(there, torch.ones(4))
    del begun
    assert library.lowtide_test_waiting() == 0 and there.cpu().tolist() == [1.0] * 4


def test_a_copy_that_cannot_be_begun_leaves_nothing_behind(
    device: str, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> torch.Stream:
        raise ValueError("on purpose")

    unraised: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    monkeypatch.setattr(torch.accelerator, "current_stream", refused)
    there = torch.zeros(4).to(device)
    with pytest.raises(ValueError, match="on purpose"):
        Begun(torch.zeros(4), there)
    gc.collect()
    assert not unraised and library.lowtide_test_waiting() == 0
