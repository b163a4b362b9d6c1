"""No header of a program planned at run time reaches beyond its bytes, whatever other threads learn or take meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from lowtide.core.errors import BugError  # noqa: E402
from lowtide.executor.arithmetic import arithmetic  # noqa: E402
from lowtide.executor.emit import Slot  # noqa: E402
from lowtide.executor.frame import Frame  # noqa: E402
from lowtide.executor.placing import Placement  # noqa: E402
from lowtide.executor.shaping import Shapes, compiled, shaper, where  # noqa: E402
from lowtide.executor.storages import Slab  # noqa: E402
from lowtide.ir.graph import Layout  # noqa: E402
from lowtide.ir.symbolic import Dim, Expr  # noqa: E402
from running import planned  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]

BOTH = pytest.mark.parametrize(
    "native",
    [False, pytest.param(True, marks=pytest.mark.skipif(compiled() is None, reason="there is no compiled part"))],
)


N: Dim = Expr("sym", ("n",))


def one_header(value: Layout, geometry: Callable[[Any], list[int]], storage: Tensor, *, native: bool) -> Any:
    """A block whose only buffer is eight floats, and a header that sees them as ``value`` says."""
    whole = Layout("f32", "cpu", (8,), (1,), 0)
    numbers = arithmetic([(whole, value)], ("n",))
    slot = Slot("v", "v", "f32", "cpu", 0, len(value.size), 0)
    shapes = Shapes((slot,), (0,), ((0,),), (("n",),), (geometry,), (numbers,), ("cpu",))
    header = torch.empty(0).set_(storage.untyped_storage(), 0, (0,), (1,))
    return shaper((header,), shapes, native=native), header


PLACE = where(Placement((64,), (64,), 128, 128), (32,))


@BOTH
@pytest.mark.parametrize(
    ("size", "stride", "offset", "fits", "too_far"),
    [
        ((N,), (1,), 0, (0, 1, 8), (9, 1 << 40, -1)),
        ((2,), (N,), 0, (0, 7), (8, 1 << 61, -1)),
        ((2,), (1,), N, (0, 6), (7, (1 << 63) - 1, -1)),
        ((N, N), (2, 1), 0, (0, 1, 3), (4, 1 << 32)),
        ((N, N), (0, 0), 0, (0, 1, 1 << 20), (1 << 32,)),  # one element, so often that there is no number for it
    ],
    ids=["size", "stride", "offset", "square", "same"],
)
@pytest.mark.spec("RT-13", "G1")
def test_a_layout_that_leaves_its_buffer_is_refused(
    native: bool, size: Any, stride: Any, offset: Any, fits: tuple[int, ...], too_far: tuple[int, ...]
):
    def geometry(key: tuple[int]) -> list[int]:
        return [32, *(d if isinstance(d, int) else key[0] for d in (offset, *size, *stride))]

    shape, header = one_header(Layout("f32", "cpu", size, stride, offset), geometry, torch.zeros(32), native=native)
    for k in fits:
        assert not shape.begin(PLACE, (k,))
        assert list(header.shape) == geometry((k,))[2 : 2 + len(size)]
    before = header.shape, header.stride(), header.storage_offset()
    for k in too_far:
        with pytest.raises(BugError, match="beyond its bytes"):
            shape.begin(PLACE, (k,))
        with pytest.raises(BugError, match="beyond its bytes"):
            shape(0, (k,))
        assert (header.shape, header.stride(), header.storage_offset()) == before


@BOTH
@pytest.mark.spec("RT-13", "G1")
def test_a_header_that_stands_on_fewer_bytes_than_its_place_is_refused(native: bool):
    value = Layout("f32", "cpu", (8,), (1,), 0)
    for floats in (0, 16, 23, 24):
        shape, header = one_header(value, lambda _: [32, 0, 8, 1], torch.zeros(floats), native=native)
        if floats == 24:
            assert not shape.begin(PLACE, (1,)) and header.shape == (8,) and header.storage_offset() == 16
            continue
        with pytest.raises(BugError, match="beyond its bytes"):
            shape.begin(PLACE, (1,))
        assert header.shape == (0,)


def all_within(frame: Frame) -> bool:
    return all(
        h.numel() == 0
        or (h.storage_offset() + sum((n - 1) * s for n, s in zip(h.shape, h.stride(), strict=True)) + 1) * h.itemsize
        <= h.untyped_storage().nbytes()
        for h in frame.headers
    )


@pytest.mark.spec("RT-30", "RT-33", "G1")
def test_places_that_another_thread_finds_while_a_run_begins_are_for_the_next_run():
    def f(x: Tensor) -> Tensor:
        y = x[x > 0]
        a = y * 2
        return ((a + 1).tanh() * a).sum() + (x * 3).cos().sum()

    def draw(size: int, positive: int) -> Tensor:
        x = -torch.rand(size) - 0.1
        x[:positive] = torch.rand(positive) + 0.1
        return x

    call = planned(f, torch.randn(640))
    for size in (640, 640, 320, 320, 640, 640, 320):
        x = draw(size, 4)
        torch.testing.assert_close(call(x), f(x), rtol=0, atol=0)
    (frame,) = call.executor.idle
    built = frame.built
    entry = built.entries[(640,)]
    assert entry.where is not None and frame.key == (320,)
    told, moment = entry.where, built.moment

    def another() -> int:
        """What happens between the look at the places and the rest, when another thread runs there."""
        built.moment = moment
        built.learn(entry, [n if n > 1000 else 2400 for n in entry.learned.sizes])
        built.placed(entry)
        return moment()

    built.moment = another
    for positive in (5, 600, 600):  # five are more than were learned, and fit all the same
        x = draw(640, positive)
        torch.testing.assert_close(call(x), f(x), rtol=0, atol=0)
        assert all_within(frame) and frame.slab is not None and frame.placement.nbytes <= frame.slab.nbytes
        assert frame.shaper.where.placement is frame.placement
    assert entry.where is not None and entry.where.nbytes > told.nbytes
    assert built.moment is moment and call.told().leaks == 0


@pytest.mark.spec("RT-31", "G1")
def test_an_inner_block_that_outgrew_its_piece_leaves_the_slab_outside():
    def f(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: ((t * 2).sin() + t).exp(), lambda t: (t - 1).cos() * t, (x,)) + 1

    call = planned(f, torch.rand(64))
    for size in (64, 64, 64):
        x = torch.rand(size)
        torch.testing.assert_close(call(x), f(x), rtol=0, atol=0)
    (outer,) = call.executor.idle
    inner = outer.inner[0][0]
    assert inner.slab is outer.slab and not inner.owns
    outside = outer.slab
    outer.slab = Slab(outside.nbytes, "cpu")  # the outer block moved on, and has no room for the inner one
    room = outer.placement
    outer.placement = Placement((0,) * len(room.offsets), (0,) * len(room.offsets), room.nbytes, room.bound)
    inner.starts.clear()
    inner._find_room()
    assert inner.slab not in (outside, outer.slab) and inner.owns
    kept = inner.slab
    inner._find_room()
    assert inner.slab is kept


@pytest.mark.spec("RT-30")
def test_bytes_of_an_instance_that_is_taken_meanwhile_are_counted_or_not():
    class Taken:
        """An idle instance that loses its slab between two looks."""

        def __init__(self) -> None:
            self.looks = 0

        @property
        def slab(self) -> Slab | None:
            self.looks += 1
            return Slab(64, "cpu") if self.looks == 1 else None

    call = planned(lambda x: (x * 2).sin() + 1, torch.randn(4))
    call.executor.idle[:] = [Taken()]
    assert call.executor.held == 64
    call.executor.idle[:] = [Taken()]
    assert not call.executor.is_managed(torch.zeros(1))
