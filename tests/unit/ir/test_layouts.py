"""Layouts that are open: they have no strides, five ways decide them, and a request copies last."""

from __future__ import annotations

import itertools

import pytest

from lowtide.ir.graph import Layout
from lowtide.ir.layouts import Open, as_it_is, by_fill_order, by_stride_order, exactly, like, opened, requested
from lowtide.ir.strides import filled
from lowtide.ir.symbolic import Expr, symbol

N, M = symbol("s0"), symbol("s1")
NHWC = (60, 1, 15, 3)
IMAGES = Open("f32", "cpu", (2, 3, 4, 5), (60, 20, 5, 1))


@pytest.mark.spec("IR-12")
def test_nothing_can_say_where_an_element_of_an_open_layout_lies():
    """Nor change it; once decided it has strides, and cannot be decided again."""
    for what in ("stride", "offset", "extent"):
        assert not hasattr(IMAGES, what) and hasattr(as_it_is(IMAGES), what)
    with pytest.raises(AttributeError):
        IMAGES.natural = NHWC  # type: ignore[misc]
    for decide in (lambda x: by_fill_order(x, (1, 3, 2, 0)), lambda x: exactly(x, NHWC)):
        with pytest.raises(AttributeError):
            decide(as_it_is(IMAGES))


@pytest.mark.spec("IR-14")
def test_five_ways_to_decide():
    last = Layout("f32", "cpu", (2, 3, 4, 5), NHWC)
    other = Layout("i8", "cpu", (7, 1, 9, 9), (1000, 1, 90, 10))
    assert as_it_is(IMAGES) == Layout("f32", "cpu", (2, 3, 4, 5), (60, 20, 5, 1))
    assert as_it_is(last) is last
    assert exactly(IMAGES, NHWC) == by_fill_order(IMAGES, (1, 3, 2, 0)) == by_stride_order(IMAGES, (3, 0, 2, 1)) == last
    assert like(IMAGES, other) == last, "the order is what counts, not its sizes nor its gaps"
    assert opened(last) == Open("f32", "cpu", (2, 3, 4, 5), NHWC)
    for size in itertools.product((0, 1, 3), repeat=3):
        x = opened(Layout("f32", "cpu", size, filled(size)))
        for order in itertools.permutations(range(3)):
            assert like(x, by_fill_order(x, order)) == by_fill_order(x, order)


@pytest.mark.spec("IR-12", "IR-14")
def test_what_cannot_be_decided_so_is_refused():
    with pytest.raises(ValueError, match="3 strides for 4"):
        exactly(IMAGES, (20, 5, 1))
    for by in (by_fill_order, by_stride_order):
        with pytest.raises(ValueError, match=r"order|permutation"):
            by(IMAGES, (0, 0, 1, 2))
    x = Open("f32", "cpu", (N, 4), (4, 1))
    assert exactly(x, (1, N)).stride == (1, N)
    with pytest.raises(ValueError, match="s1"):
        exactly(x, (Expr("*", (4, M)), 1))


@pytest.mark.spec("IR-52")
def test_a_request_changes_nothing_decides_what_is_open_and_copies_last():
    decided = Layout("f32", "cpu", (2, 3, 4, 5), (60, 20, 5, 1), 7)
    assert requested(decided, (60, 20, 5, 1)) is decided
    assert requested(IMAGES, NHWC) == Layout("f32", "cpu", (2, 3, 4, 5), NHWC)
    assert requested(decided, NHWC) is None
    one = Layout("f32", "cpu", (1, 3, 1, 5), (15, 5, 5, 1))
    assert requested(one, (99, 5, 1, 1)) is one, "strides of single elements say nothing"
    unknown = Layout("f32", "cpu", (N, M), (M, 1))
    assert requested(unknown, (N, 1)) is None, "the two sizes may differ"
    assert requested(Layout("f32", "cpu", (0, 3), (3, 1)), (1, 9)) is not None
