"""Layouts that are open: they have no strides but wished ones, and are decided once."""

from __future__ import annotations

import pytest

from lowtide.ir.graph import Layout
from lowtide.ir.layouts import Open, as_it_is, exactly, opened
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
    with pytest.raises(AttributeError):
        exactly(as_it_is(IMAGES), NHWC)  # type: ignore[arg-type]


@pytest.mark.spec("IR-14")
def test_as_it_is_or_with_exact_strides():
    last = Layout("f32", "cpu", (2, 3, 4, 5), NHWC)
    assert as_it_is(IMAGES) == Layout("f32", "cpu", (2, 3, 4, 5), (60, 20, 5, 1))
    assert as_it_is(last) is last
    assert exactly(IMAGES, NHWC) == last
    assert opened(last) == Open("f32", "cpu", (2, 3, 4, 5), NHWC)


@pytest.mark.spec("IR-12", "IR-14")
def test_what_cannot_be_decided_so_is_refused():
    with pytest.raises(ValueError, match="3 strides for 4"):
        exactly(IMAGES, (20, 5, 1))
    x = Open("f32", "cpu", (N, 4), (4, 1))
    assert exactly(x, (1, N)).stride == (1, N)
    with pytest.raises(ValueError, match="s1"):
        exactly(x, (Expr("*", (4, M)), 1))
