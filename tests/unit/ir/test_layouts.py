"""Layouts that are open: they have no strides but wished ones, are decided once, in one of five ways, and as others ask."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.ir.graph import ITEMSIZE, Layout
from lowtide.ir.index import flatten
from lowtide.ir.layouts import (
    Exact,
    Lines,
    Move,
    Open,
    Ordered,
    Padding,
    Request,
    aligned,
    as_it_is,
    exactly,
    fits,
    granted,
    in_fill_order,
    in_stride_order,
    like,
    move_of,
    opened,
    padded,
)
from lowtide.ir.strides import CHANNELS_LAST, fill_order, filled, in_rows, inverse
from lowtide.ir.symbolic import Dim, Expr, symbol

N, M = symbol("s0"), symbol("s1")
NHWC = (60, 1, 15, 3)
IMAGES = Open("f32", "cpu", (2, 3, 4, 5), (60, 20, 5, 1))
FAR = Padding(nbytes=128, above=320)


def laid(size: Sequence[Dim], stride: Sequence[Dim], offset: Dim = 0, dtype: str = "f32") -> Layout:
    return Layout(dtype, "cpu", tuple(size), tuple(stride), offset)


@st.composite
def dense(draw: st.DrawFn, least: int = 0) -> Layout:
    """In any order, with dimensions of one element and none."""
    size = draw(st.lists(st.integers(least, 6), min_size=1, max_size=4))
    return laid(size, filled(size, draw(st.permutations(range(len(size))))), 0, draw(st.sampled_from(("f32", "f16"))))


@pytest.mark.spec("IR-12")
def test_nothing_can_say_where_an_element_of_an_open_layout_lies():
    """Nor change it; a trial is a layout that nobody keeps. Once decided it has strides, and cannot be decided again."""
    for what in ("stride", "offset", "extent"):
        assert not hasattr(IMAGES, what) and hasattr(as_it_is(IMAGES), what)
    with pytest.raises(AttributeError):
        IMAGES.natural = NHWC  # type: ignore[misc]
    with pytest.raises(AttributeError):
        exactly(as_it_is(IMAGES), NHWC)  # type: ignore[arg-type]


@pytest.mark.spec("IR-14")
def test_five_ways_to_decide():
    last = laid((2, 3, 4, 5), NHWC)
    assert as_it_is(IMAGES) == laid((2, 3, 4, 5), (60, 20, 5, 1))
    assert as_it_is(last) is last
    assert opened(last) == Open("f32", "cpu", (2, 3, 4, 5), NHWC)
    with pytest.raises(ValueError, match="begins at element 4"):
        opened(replace(last, offset=4))  # which would be lost
    assert exactly(IMAGES, NHWC) == in_fill_order(IMAGES, (1, 3, 2, 0)) == in_stride_order(IMAGES, (3, 0, 2, 1)) == last
    assert like(IMAGES, laid((7, 2, 9, 9), (999, 1, 18, 2))) == last


@pytest.mark.spec("IR-14")
@pytest.mark.parametrize("way", [in_fill_order, in_stride_order, exactly])
@pytest.mark.parametrize("wrong", [(0, 1), (0, 1, 2, 3, 4)])
def test_another_number_of_dimensions_is_refused(way: Callable[[Open, Sequence[int]], Layout], wrong: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"does not order|strides for"):
        way(IMAGES, wrong)
    with pytest.raises(ValueError, match="does not order"):
        like(IMAGES, laid(wrong, wrong))


@pytest.mark.spec("IR-14", "IR-16")
def test_only_an_order_leaves_room_for_padding():
    x = Open("f16", "cpu", (1023, 1025), (1025, 1))
    assert like(x, as_it_is(x), FAR).stride == in_fill_order(x, (1, 0), FAR).stride == (1088, 1)
    assert in_fill_order(x, (0, 1), FAR).stride == (1, 1024), "in the order that is asked for"
    assert in_stride_order(x, (1, 0)).stride == exactly(x, (1025, 1)).stride == as_it_is(x).stride == (1025, 1)


@pytest.mark.spec("IR-12", "IR-14")
def test_deciding_keeps_the_set_of_unknown_sizes():
    with pytest.raises(ValueError, match="3 strides for 4"):
        exactly(IMAGES, (20, 5, 1))
    x = Open("f32", "cpu", (N, 4), (4, 1))
    assert exactly(x, (1, N)).stride == (1, N)
    with pytest.raises(ValueError, match="s1"):
        exactly(x, (Expr("*", (4, M)), 1))
    with pytest.raises(ValueError, match="s1"):
        in_fill_order(Open("f32", "cpu", (N, 4), (M, 1)), (1, 0))


# -- padding, alignment ------------------------------------------------------------------------------------------------


@pytest.mark.spec("IR-16")
@given(dense(least=1), st.sampled_from((2, 8, 24)), st.integers(0, 30))
def test_padding_moves_lines_apart_in_their_order(x: Layout, nbytes: int, above: int):
    """Against what NumPy says of the places: all different, in the same order, and where lines begin."""
    y = padded(x, Padding(nbytes=nbytes, above=above))
    assert (y.dtype, y.size) == (x.dtype, x.size)
    places = [int(str(flatten(at, y.stride))) for at in itertools.product(*map(range, map(int, map(str, x.size))))]
    assert len(set(places)) == len(places)
    kept = [k for k in fill_order(x.size, x.stride) if x.size[k] != 1]
    steps = [int(str(y.stride[k])) for k in kept]
    assert steps == sorted(steps)
    assert all(s * ITEMSIZE[x.dtype] % nbytes == 0 for s in steps if s > above)
    if y.stride == x.stride:
        assert y is x
    assert padded(y, Padding(nbytes=nbytes, above=above)) is y


@pytest.mark.spec("IR-16")
@pytest.mark.parametrize(
    "x",
    [
        laid((256, 1, 5, 5), (25, 25, 5, 1)),
        laid((64, 3, 33, 33), filled((64, 3, 33, 33), inverse(CHANNELS_LAST[4]))),
        laid((N, 1025), (1025, 1)),
        laid((8, 1025), (1030, 1)),
        laid((8, 1025), (0, 1)),
        laid((0, 1025), (1025, 1)),
        laid((8, 1024), (1024, 1)),
        laid((8, 300), (300, 1)),
    ],
)
def test_what_need_not_or_must_not_be_padded_stays_the_same_object(x: Layout):
    """Short lines, channels last, unknown sizes, gaps, broadcast, nothing, aligned, below the limit."""
    assert padded(x, FAR) is x


@pytest.mark.spec("IR-15", "IR-16")
def test_what_will_be_padded_is_not_dense():
    x = Open("f32", "cpu", (16, 1001), (1001, 1))
    assert in_rows(as_it_is(x)) and not in_rows(like(x, as_it_is(x), FAR))
    assert fits(as_it_is(x), Ordered((1, 0))) and not fits(like(x, as_it_is(x), FAR), Ordered((1, 0)))


@pytest.mark.spec("IR-16")
def test_padding_counts_as_bytes():
    x = Open("f32", "cpu", (16, 1001), (1001, 1))
    assert as_it_is(x).extent == 16 * 1001 * 4
    assert like(x, as_it_is(x), FAR).extent == (15 * 1024 + 1001) * 4


@pytest.mark.spec("IR-17", "IR-20")
@given(dense(), st.integers(0, 3), st.sampled_from((4, 8, 16)))
def test_lines_are_aligned_where_all_of_them_begin_so(x: Layout, begin: int, nbytes: int):
    """By where NumPy has the elements; no lines are aligned but those of neighbours."""
    x = replace(x, offset=begin)
    sides = [k for k, n in enumerate(x.size) if n not in (0, 1) and x.stride[k] == 1][:1]
    starts = [1 if k in sides else n for k, n in enumerate(x.size)]
    places = [
        int(str(flatten(at, x.stride, begin))) for at in itertools.product(*map(range, map(int, map(str, starts))))
    ]
    if 0 not in x.size:
        lined = bool(sides) or all(n == 1 for n in x.size)
        assert aligned(x, nbytes) == (lined and all(p * ITEMSIZE[x.dtype] % nbytes == 0 for p in places))


@pytest.mark.spec("IR-17", "IR-20")
@pytest.mark.parametrize(
    ("x", "proved"),
    [
        (laid((4, 8), (16, 1)), True),
        (laid((4, 8), (15, 1)), False),
        (laid((4, 8), (16, 1), 8), False),
        (laid((4, 8), (16, 1), 32), True),
        (laid((4, 8), (32, 2)), False),
        (laid((4, 1), (16, 7)), False),
        (laid((1, 8), (3, 1)), True),
        (laid((), ()), True),
        (laid((N, 8), (Expr("*", (N, 16)), 1)), True),
        (laid((N, 8), (N, 1)), False),
        (laid((4, 8), (16, 1), N), False),
        (laid((4, 8), (16, 1), Expr("*", (16, N))), True),
        (laid((4, 8), (16, N)), False),
    ],
)
def test_alignment_is_proved_or_answered_no(x: Layout, proved: bool):
    """To 64 bytes of 4 each; a part that lies within another storage begins where its offset says."""
    assert aligned(x, 64) is proved


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.spec("IR-52")
@pytest.mark.parametrize("x", [laid((2, 3, 4, 5), NHWC), Open("f32", "cpu", (2, 3, 4, 5), NHWC)])
@pytest.mark.parametrize("request_", [Exact(NHWC), Ordered(CHANNELS_LAST[4])])
def test_what_lies_as_asked_stays(x: Layout | Open, request_: Request):
    found = granted(x, request_)
    assert found == laid((2, 3, 4, 5), NHWC)
    assert found is x or isinstance(x, Open)


@pytest.mark.spec("IR-52")
def test_an_open_one_is_fixed_and_a_decided_one_copied():
    for wish in (Exact(NHWC), Ordered(CHANNELS_LAST[4])):
        assert granted(IMAGES, wish) == laid((2, 3, 4, 5), NHWC)
        assert granted(as_it_is(IMAGES), wish) is None
    turned = Open("f32", "cpu", (5, 3, 4), (1, 20, 5))
    assert granted(turned, Lines(1)) == granted(turned, Lines(2)) == laid((5, 3, 4), (12, 4, 1))
    assert granted(replace(turned, natural=(3, 1, 15)), Lines(2)) == laid((5, 3, 4), (3, 1, 15)), "column by column"
    assert granted(as_it_is(turned), Lines(2)) is None


@pytest.mark.spec("IR-52")
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=2, max_size=4), st.integers(1, 2), st.randoms()
)
def test_strides_of_single_elements_are_free(dims: list[tuple[int, int]], among: int, random: Random):
    """Whether a request is met does not depend on them, but for matrices, of which a product looks at both strides."""
    size, stride = [n for n, _ in dims], [s for _, s in dims]
    free = [random.randint(0, 9) if n == 1 else s for n, s in dims]
    wishes = (Exact(filled(size)), Ordered(tuple(range(len(size)))), Lines(among))
    for wish in wishes:
        assert wish == Lines(2) or fits(laid(size, stride), wish) == fits(laid(size, free), wish)
        assert not size.count(0) > 0 or fits(laid(size, stride), wish)
        assert fits(laid(size, filled(size)), wish) or not isinstance(wish, Exact)
        met = granted(Open("f32", "cpu", tuple(size), tuple(stride)), wish)
        assert met is not None and fits(met, wish)


@pytest.mark.spec("IR-52")
@pytest.mark.parametrize(
    ("size", "stride", "met"),
    [
        ((4, 6), (6, 1), True),
        ((4, 6), (1, 4), True),
        ((4, 6), (9, 1), True),
        ((4, 6), (5, 1), False),
        ((4, 6), (0, 1), False),
        ((4, 6), (12, 2), False),
        ((4, 1), (5, 5), False),
        ((4, 1), (5, 7), False),
        ((4, 1), (5, 1), True),
        ((4, 1), (0, 1), False),
        ((1, 6), (0, 1), False),
        ((1, 6), (6, 1), True),
        ((N, M), (M, 1), True),
        ((N, M), (N, 1), False),
    ],
)
def test_lines_do_not_overlap(size: tuple[Dim, ...], stride: tuple[Dim, ...], met: bool):
    assert fits(laid(size, stride), Lines(2)) is met


# -- moves -------------------------------------------------------------------------------------------------------------

MOVES = st.permutations(range(3)).flatmap(
    lambda order: st.tuples(st.tuples(*[st.integers(1, 4)] * 3), st.just(tuple(order)), st.permutations(range(3)))
)


@pytest.mark.spec("IR-12")
@given(MOVES, st.sampled_from((0, 8, 16)))
def test_a_move_takes_every_element_and_every_view_along(
    drawn: tuple[tuple[int, ...], Sequence[int], Sequence[int]], nbytes: int
) -> None:
    """Also to where lines are apart."""
    size, first, second = drawn
    was, now = (tuple(int(str(s)) for s in filled(size, order)) for order in (first, second))
    if nbytes:
        now = tuple(int(str(s)) for s in padded(laid(size, now), Padding(nbytes=nbytes, above=0)).stride)
    move = move_of(size, was, now, gaps=bool(nbytes))
    assert move is not None
    to = {
        sum(i * s for i, s in zip(at, was, strict=True)): sum(i * s for i, s in zip(at, now, strict=True))
        for at in itertools.product(*map(range, size))
    }
    assert all(move.element(a, {}) == b for a, b in to.items())
    assert nbytes or all(move.back.element(b, {}) == a for a, b in to.items())
    for d in range(3):  # every second one along a dimension, the others in another order
        sliced = tuple((n + (k == d)) // (2 if k == d else 1) for k, n in enumerate(size))
        x = laid(sliced, tuple(s * (2 if k == d else 1) for k, s in enumerate(was)))
        y = move.layout(x)
        assert y is not None
        for at in itertools.product(*map(range, sliced)):
            a, b = (sum(i * int(str(s)) for i, s in zip(at, z.stride, strict=True)) for z in (x, y))
            assert to[a] == b + int(str(y.offset))


@pytest.mark.spec("IR-12")
def test_only_dense_layouts_move() -> None:
    """To one with gaps only where that is meant."""
    assert move_of((2, 3), (3, 1), (1, 2)) == Move((3, 2), (1, 3), (2, 1))
    assert move_of((2, 3, 4), (12, 4, 1), (12, 4, 1)) == Move((24,), (1,), (1,)), "as few dimensions as it takes"
    assert move_of((2, 3), (4, 1), (3, 1)) is None and move_of((2, 3), (0, 1), (3, 1)) is None
    assert move_of((2, 3), (3, 1), (4, 1)) is None and move_of((2, 3), (3, 1), (4, 1), gaps=True) is not None
    assert move_of((2, 3), (4, 1), (3, 1), gaps=True) is None
    for shared in ((1, 1), (2, 1), (0, 1), (1, 0)):
        assert move_of((2, 3), (3, 1), shared, gaps=True) is None, "two elements in one place"
    flat = laid((6,), (1,))
    turned = Move((3, 2), (1, 3), (2, 1))
    assert turned.layout(flat) is None, "no strides say that"
    assert turned.layout(laid((3,), (1,), 3)) == laid((3,), (2,), 1)
