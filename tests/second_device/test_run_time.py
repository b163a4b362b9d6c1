"""Programs planned as they run, with values on two devices: a slab on each, and none that another stream may still use."""

from __future__ import annotations

import ctypes
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import lowtide  # noqa: E402
from lowtide.executor.shaping import compiled  # noqa: E402
from lowtide.executor.storages import Slab  # noqa: E402
from lowtide.executor.streams import OnStreams  # noqa: E402
from running import D, planned  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]

ROWS = (({0: D},),)


def mixed(device: str) -> Callable[..., Any]:
    """Both devices have values that live at once and after one another; sizes of some depend on data."""

    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = (x * 2 + 1).sin().exp()
        d = h.to(device)
        e = ((d * d).relu() + d).tanh() * 2
        kept = e[(e.sum(1) > 0)]
        g = (kept * 0.5 + 1).cos()
        back = (e + 1).cos().cpu()
        return (back.sin() @ h.t()).sum(1), g * 2, (h - back).cos()

    return f


def agree(got: Any, wanted: Any) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert a.device == b.device and a.dtype == b.dtype
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=0, atol=0)


@contextmanager
def on(stream: Any) -> Iterator[None]:
    before = torch.accelerator.current_stream()
    torch.accelerator.set_stream(stream)
    try:
        yield
    finally:
        torch.accelerator.set_stream(before)


@pytest.mark.spec("RT-32", "RT-15", "G1")
@pytest.mark.parametrize(
    "policy", [{"strategy": "groups"}, {"strategy": "separate"}, {"manage_outputs": True}, {"tight": True}]
)
def test_small_to_large_and_back(device: str, policy: dict[str, Any]) -> None:
    f = mixed(device)
    call = planned(f, torch.randn(4, 64), shapes=ROWS, verify=True, **policy)
    held = []
    for n in (4, 4, 16, 2, 16, 16, 40, 3, 40, 2, 40):
        x = torch.randn(n, 64)
        got, wanted = call(x), f(x)
        agree(got, wanted)
        held.append((got, wanted))
    for got, wanted in held:
        agree(got, wanted)
    told = call.told()
    assert told.leaks == told.copies == told.swaps == 0 and told.reason is None
    assert {d.device for d in told.devices} == {"cpu", f"{device}:0"} and all(d.slab_nbytes > 0 for d in told.devices)
    assert "strategy" in policy or all(d.slab_nbytes <= 1.01 * d.bound_nbytes for d in told.devices)
    assert f"on {device}:0 (bound" in str(told)


@pytest.mark.spec("RT-32", "RT-33", "G1")
def test_any_sequence_of_sizes(device: str) -> None:
    f = mixed(device)
    call = planned(f, torch.randn(4, 64), shapes=ROWS, verify=True, recent_shapes=3, window=4)

    @given(sizes=st.lists(st.integers(2, 12), min_size=3, max_size=8), seed=st.integers(0, 99))
    @settings(max_examples=15, phases=[Phase.generate], deadline=None)
    def follow(sizes: list[int], seed: int) -> None:
        torch.manual_seed(seed)
        for n in sizes:
            x = torch.randn(n, 64)
            agree(call(x), f(x))

    follow()


@pytest.mark.spec("RT-32", "RT-13", "RT-14")
def test_each_device_has_a_slab_as_large_as_what_lives_there(device: str) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        a = (x * 2).sin()  # on the host one after the other
        d = (a + 1).cos().to(device)
        return ((d * 2 + d).sin() + d).cpu()  # d is the copy's own, and lives beside one more

    call = planned(f, torch.randn(8, 64), shapes=ROWS)
    for n in (8, 8, 8, 24, 24, 24):
        x = torch.randn(n, 64)
        torch.testing.assert_close(call(x), f(x))
        if call.told().devices:
            nbytes = {d.device: d.slab_nbytes for d in call.told().devices}
    assert nbytes == {"cpu": 24 * 256, f"{device}:0": 24 * 256}
    (frame,) = call.executor.idle
    parts = frame.slab.parts
    assert {d: s.nbytes for d, s in parts.items()} == nbytes and call.executor.held == sum(nbytes.values())
    for h, s in zip(frame.headers, frame.loaded.slots, strict=True):
        assert str(h.device) in (s.device, "cpu") and parts[s.device].has(h)
    del parts, h
    before = torch.accelerator.memory_allocated()
    assert lowtide.release_retained() >= 2 * 24 * 256
    assert torch.accelerator.memory_allocated() <= before - 24 * 256
    x = torch.randn(24, 64)
    torch.testing.assert_close(call(x), f(x))


@pytest.mark.spec("RT-32", "RT-13")
def test_only_the_slab_that_is_too_small_is_made_anew(device: str) -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x * 2 + 1).sin() * 3, (y * 2 + 1).sin() * 3

    call = planned(f, torch.randn(64), torch.randn(600).to(device), shapes=(({0: D}, {0: D}),))
    slabs = []
    for n, m in ((64, 600), (64, 600), (64, 600), (64, 1800), (64, 1800), (640, 1800), (640, 1800)):
        x, y = torch.randn(n), torch.randn(m).to(device)
        agree(call(x, y), f(x, y))
        if n + m > 664 or len(slabs) == 1:
            (frame,) = call.executor.idle
            slabs.append(dict(frame.slabs()))  # held, or a new one may take the place of an old one
    assert slabs[1]["cpu"] is slabs[0]["cpu"], "the host's did for the larger input of the device"
    assert slabs[-1][f"{device}:0"] is slabs[1][f"{device}:0"]


@pytest.mark.spec("RT-32", "RT-13")
@pytest.mark.parametrize("both", [False, True])
def test_a_slab_that_is_too_small_goes_before_another_is_made(
    device: str, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Slab]] = []

    class Watched(Slab):
        def __init__(self, nbytes: int, where: str) -> None:
            assert not any(s.device == where for s in (ref() for ref in made) if s is not None)
            made.append(weakref.ref(self))
            super().__init__(nbytes, where)

    monkeypatch.setattr("lowtide.executor.frame.Slab", Watched)
    f, place = (mixed(device), "cpu") if both else (chain, device)
    call = planned(f, torch.randn(4, 64).to(place), shapes=ROWS)
    for n in (4, 4, 4, 16, 16, 40, 40):
        call(torch.randn(n, 64).to(place))
    assert len(made) >= 3


@pytest.mark.spec("RT-32", "RT-31", "IR-64", "IR-65", "G1")
@pytest.mark.parametrize("native", [True, False])
def test_branches_and_loops_have_a_piece_of_each_slab(
    device: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr("lowtide.executor.shaping.compiled", lambda: None)
    elif compiled() is None:
        pytest.skip("there is no compiled part")

    def yes(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a = (x * 2 + 1).sin()
        b = ((d + 1).cos() * d).exp()
        return (a * 3).cos() + a, (b + a.to(device)).sin()

    def no(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x + 1).tanh(), (d.cpu() * 2 + x).sin().to(device) * 2

    def turn(i: torch.Tensor, d: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        e = ((d * 0.5).sin() + d).cos()
        y = (x * 0.5).sin()
        (g,) = torch.cond(x.sum() > 0, lambda t: ((t * 2 + 1).sin() * t,), lambda t: ((t + 1).cos() * 2 + t,), (e,))
        return i + 1, g + e, y + g.cpu()

    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = (x * 2).sin()
        d = (h + 1).to(device) * 2
        wide = (
            d.repeat(1, 16) * 2
        ).sin()  # larger than what is inside, so that this does not begin where the slab does
        a, b = torch.cond(x.sum() > 0, yes, no, (h, d))
        i, e, y = torch._higher_order_ops.while_loop(
            lambda i, d, x: i < 3, turn, (torch.zeros((), dtype=torch.int64), b + wide[:, :64], a * 2)
        )
        return (y + h).cos(), (e + d).sin() + (wide + 1).cos().sum(), i

    call = planned(f, torch.randn(4, 64), shapes=ROWS, verify=True)
    for n, sign in itertools.product((4, 16, 4, 40), (1, -1, 1)):
        x = torch.rand(n, 64) * sign
        agree(call(x), f(x))
    told = call.told()
    assert told.reason is None and told.leaks == told.copies == 0
    (outer,) = call.executor.idle
    inside = [f for arms in outer.inner for f in arms if f.slab is not None]
    assert any(len(f.slabs()) == 2 for f in inside)
    for inner in inside:
        assert not inner.owns and all(outer.slabs()[d] is s for d, s in inner.slabs().items())


@pytest.mark.spec("RT-32", "RT-23", "RT-24", "RT-25")
def test_results_lie_in_a_slab_of_their_device(device: str) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        d = (x * 2).to(device) + 1
        return d * 3, (x + 1).sin(), d.sin(), (x - 1).cos()

    call = planned(f, torch.randn(4, 64), shapes=ROWS, manage_outputs=True)
    for n in (4, 4, 8):
        x = torch.randn(n, 64)
        got = call(x)
        agree(got, f(x))
    asks = call.is_output_managed
    assert all(asks(t) for t in got) and not asks(x) and not asks(x.to(device))
    starts = {(t.device, t.untyped_storage().data_ptr()) for t in got}
    assert len(starts) == 2, "one slab per device"
    assert got[2].storage_offset() * 4 == 8 * 256 and got[3].storage_offset() * 4 == 8 * 256
    before = torch.accelerator.memory_allocated()
    last = got[3]
    del got
    assert torch.accelerator.memory_allocated() == before - 2 * 8 * 256 and asks(last)


def chain(x: torch.Tensor) -> torch.Tensor:
    for _ in range(4):
        x = (x * 2 + 1).sin()
    return x


@pytest.mark.spec("RT-32", "RT-30", "G1")
def test_two_streams_at_once_do_not_write_over_each_other(device: str, library: ctypes.CDLL) -> None:
    """What every call begins waits on its stream; then the streams take turns, operation by operation."""
    call = planned(chain, torch.randn(640).to(device), manage_outputs=True)
    given = [torch.randn(640).to(device) for _ in range(6)]
    wanted = [chain(x).cpu() for x in given]
    for x in given[:3]:
        call(x)
    first, streams = torch.accelerator.current_stream(), [torch.Stream(f"{device}:0") for _ in range(2)]
    library.lowtide_test_late(True)
    got = []
    for x, stream in zip(given, (first, *streams, *streams, first), strict=True):
        with on(stream):
            got.append(call(x))
    assert not any(s.query() for s in (first, *streams)), "all of it still waits"
    torch.accelerator.synchronize()
    library.lowtide_test_late(False)
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a.cpu(), b)
    assert call.told().instances == 3, "one per stream"


@pytest.mark.spec("RT-32", "RT-30")
def test_an_instance_goes_to_another_stream_once_the_work_is_done(device: str, library: ctypes.CDLL) -> None:
    call = planned(chain, torch.randn(640).to(device), manage_outputs=True)
    x = torch.randn(640).to(device)
    for _ in range(3):
        call(x)
    (frame,) = call.executor.idle
    other = torch.Stream(f"{device}:0")
    library.lowtide_test_late(True)
    held, recorded = [call(x)], library.lowtide_test_recorded()
    with on(other):
        held.append(call(x))
    assert len(call.executor.idle) == 2 and library.lowtide_test_recorded() == recorded
    assert frame.left == (torch.accelerator.current_stream(),)
    torch.accelerator.synchronize()
    library.lowtide_test_late(False)
    with on(torch.Stream(f"{device}:0")):
        call(x)
    assert len(call.executor.idle) == 2, "a third stream needs no third instance"
    assert library.lowtide_test_recorded() == recorded + 1, "the allocator was told that it uses the bytes too"


@pytest.mark.spec("RT-32", "RT-30")
def test_an_instance_that_another_call_took_and_left_meanwhile_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Taken(list[Any]):
        """Each instance was used on a stream that works, just before it is taken."""

        def remove(self, value: Any) -> None:
            super().remove(value)
            value.left = (SimpleNamespace(query=lambda: False),)

    frame: Any = SimpleNamespace(left=("this stream",))
    streams = OnStreams(Taken([frame]), ["some:0"])
    monkeypatch.setattr(streams, "_current", lambda: ("this stream",))
    with pytest.raises(IndexError):
        streams.take()
    assert streams.idle == [frame]


@pytest.mark.spec("RT-32", "RT-16", "RT-26")
def test_an_operation_that_raises_leaves_nothing_on_the_device(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f = mixed(device)
    call, x = planned(f, torch.randn(16, 64), shapes=ROWS), torch.randn(16, 64)
    for _ in range(3):
        agree(call(x), f(x))
    names = call.executor.plan.built.loaded.names
    functions = [n for n in names if n.startswith(("torch_", "op_"))]
    lowtide.release_retained()
    before = torch.accelerator.memory_allocated()
    for name in functions:

        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no")

        with monkeypatch.context() as m:
            m.setitem(names, name, fail)
            m.setattr(call, "known", type(call.known)(None, None))  # the usual call has the function under its own name
            with pytest.raises(RuntimeError, match="no"):
                call(x)
        assert torch.accelerator.memory_allocated() == before
    assert len(functions) > 5
    agree(call(x), f(x))


@pytest.mark.spec("RT-32", "RT-30", "G1")
def test_threads_on_streams_of_their_own(device: str) -> None:
    f = mixed(device)
    call, start = planned(f, torch.randn(4, 64), shapes=ROWS, verify=True, recent_shapes=2), threading.Barrier(4)
    jobs = []
    for k in range(4):
        torch.manual_seed(k)
        given = [torch.randn(2 + (k + i) % 3, 64) for i in range(6)]
        jobs.append([(x, f(x)) for x in given])

    def work(job: list[Any], stream: Any) -> None:
        start.wait()
        with on(stream):
            for x, wanted in job:
                agree(call(x), wanted)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, job, torch.Stream(f"{device}:0")) for job in jobs]:
            done.result()
    told = call.told()
    assert told.runs == 24 and told.leaks == 0
