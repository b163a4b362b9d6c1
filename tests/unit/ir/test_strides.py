"""Orders of filling and strides undo one another; what unknown sizes leave open is answered no."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.ir.graph import Layout
from lowtide.ir.index import flatten
from lowtide.ir.strides import channels_last, fill_order, filled, in_rows, inverse, reshaped, same_places
from lowtide.ir.symbolic import Dim, Expr, evaluate, symbol

RANKS = range(6)
ORDERS = [order for rank in RANKS for order in itertools.permutations(range(rank))]


@pytest.mark.spec("IR-13")
def test_permutations_are_undone():
    """Every one of up to five dimensions."""
    for order in ORDERS:
        back = inverse(order)
        assert inverse(back) == order
        assert [back[dim] for dim in order] == list(range(len(order)))


@pytest.mark.spec("IR-13")
@pytest.mark.parametrize("wrong", [(0, 0), (1,), (-1, 0), (0, 2)])
def test_what_is_no_permutation_is_refused(wrong: tuple[int, ...]):
    with pytest.raises(ValueError, match="permutation"):
        inverse(wrong)
    with pytest.raises(ValueError, match="does not order"):
        filled((2,) * len(wrong), wrong)


@pytest.mark.spec("IR-13")
def test_strides_fill_memory_in_their_order_and_tell_it():
    """Every order of up to five dimensions, with extents of none and of one in every place."""
    for order in ORDERS:
        for size in itertools.product((0, 1, 2, 3) if len(order) < 4 else (0, 1, 3), repeat=len(order)):
            stride = filled(size, order)
            assert filled(size, fill_order(size, stride)) == stride, (size, order)
            if all(n > 1 for n in size):
                assert fill_order(size, stride) == order
                places = sorted(int(str(flatten(at, stride))) for at in itertools.product(*map(range, size)))
                assert places == list(range(len(places))), "dense"


@pytest.mark.spec("IR-13")
@given(st.lists(st.integers(0, 4), max_size=5))
def test_row_by_row_is_numpys(size: list[int]):
    counted = np.empty([max(n, 1) for n in size], np.int8)
    assert filled(size) == counted.strides
    assert filled(size, tuple(reversed(range(len(size))))) == filled(size)


@pytest.mark.spec("IR-13")
def test_channels_last():
    assert filled((2, 3, 4, 5), (1, 3, 2, 0)) == (60, 1, 15, 3)
    assert fill_order((2, 3, 4, 5), (60, 1, 15, 3)) == (1, 3, 2, 0)
    assert inverse((1, 3, 2, 0)) == (3, 0, 2, 1)


@pytest.mark.spec("IR-15")
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6), st.permutations(range(4)))
def test_channels_last_is_where_numpy_has_them(dims: list[tuple[int, int]], order: list[int]):
    """Of images and volumes of several channels, whatever the strides of dimensions of one element."""
    size = [n for n, _ in dims]
    counted = np.moveaxis(np.empty([max(n, 1) for n in (*size[:1], *size[2:], size[1])], np.int8), -1, 1)
    stride = [counted.strides[k] + (s if n == 1 else 0) for k, (n, s) in enumerate(dims)]
    assert channels_last(size, stride) == (len(size) in (4, 5) and size[1] != 1)
    if len(size) == 4:
        other = filled(size, order)
        moved = any(
            flatten(at, other) != sum(i * s for i, s in zip(at, counted.strides, strict=True))
            for at in itertools.product(*map(range, size))
        )
        assert channels_last(size, other) == (size[1] != 1 and not moved)


@pytest.mark.spec("IR-15")
def test_channels_last_of_unknown_sizes():
    """Their number must be known: of a single one nobody can tell."""
    dense = (Expr("*", (8, M, M)), 1, Expr("*", (8, M)), 8)
    assert channels_last((N, 8, M, M), dense) and not channels_last((N, 8, M, N), dense)
    assert not channels_last((N, M, 4, 4), filled((N, M, 4, 4), (1, 3, 2, 0)))


@pytest.mark.spec("IR-15")
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 6)), max_size=4))
def test_strides_say_the_same_where_no_element_moves(dims: list[tuple[int, int, int]]):
    size, a, b = ([d[k] for d in dims] for k in range(3))
    moved = any(flatten(at, a) != flatten(at, b) for at in itertools.product(*map(range, size)))
    assert same_places(size, a, b) == (not moved)


N, M = symbol("s0"), symbol("s1")


@pytest.mark.spec("IR-15")
@pytest.mark.parametrize(
    ("size", "a", "b", "same"),
    [
        ((N, M), (M, 1), (M, 1), True),
        ((N, M, 4), (Expr("*", (4, M)), 4, 1), (Expr("*", (M, 4)), Expr("+", (1, 3)), 1), True),
        ((N, 1, 4), (4, 4, 1), (4, 1, 1), True),
        ((N, M), (M, 1), (N, 1), False),
        ((N, M), (M, 1), (1, N), False),
        ((N, 4), (4, 1), (8, 1), False),
        ((N, 0), (4, 1), (8, 1), True),
    ],
)
def test_unknown_sizes_are_answered_no_where_they_decide(
    size: tuple[Dim, ...], a: tuple[Dim, ...], b: tuple[Dim, ...], same: bool
):
    """Two sizes may be equal, and one may be 1: neither is assumed."""
    assert same_places(size, a, b) is same
    for n, m in itertools.product(range(4), repeat=2):
        known = {"s0": n, "s1": m}
        at = [[evaluate(d, known) for d in dims] for dims in (size, a, b)]
        assert not same or same_places(*at), "yes holds at every size"


@pytest.mark.spec("IR-15")
def test_strides_of_unknown_sizes():
    stride = filled((N, M, 4))
    assert [evaluate(d, {"s0": 3, "s1": 5}) for d in stride] == [20, 4, 1]
    assert same_places((N, M, 4), stride, (Expr("*", (4, M)), 4, 1))


@pytest.mark.spec("IR-51")
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 8)), max_size=3), st.permutations((2, 2, 3, 1)), st.data())
def test_another_size_walks_the_same_elements(dims: list[tuple[int, int]], factors: list[int], data: st.DataObject):
    """As NumPy's views do, which exist for the same sizes."""
    whole = np.arange(1 + sum((n - 1) * step for n, step in dims))
    size, stride = [n for n, _ in dims], [step for _, step in dims]
    x = np.lib.stride_tricks.as_strided(whole, size, [step * whole.itemsize for step in stride])
    count = int(np.prod(size))
    new = data.draw(st.sampled_from(([count], [1, count], [count, 1], size, factors, [2, count // 2], [count // 3, 3])))
    found = reshaped(size, stride, new)
    if int(np.prod(new)) != count:
        assert found is None
        return
    try:
        wanted = np.reshape(x, new, copy=False)
    except ValueError:
        assert found is None
        return
    assert found is not None
    assert [int(str(flatten(at, found))) for at in itertools.product(*map(range, new))] == wanted.ravel().tolist()


@pytest.mark.spec("IR-51")
def test_rows_of_a_slice_are_equally_far_apart_in_one_dimension_alone():
    assert reshaped((2, 4, 3), (52, 13, 1), (8, 3)) == (13, 1)
    assert reshaped((2, 4, 3), (36, 3, 1), (8, 3)) is None
    assert reshaped((0, 3), (3, 1), (3, 0)) is None
    assert in_rows(Layout("f32", "cpu", (2, 1, 3), (3, 7, 1))) and not in_rows(Layout("f32", "cpu", (2, 3), (1, 2)))
    assert not in_rows(Layout("f32", "cpu", (2, 3), (3, 1), 4)), "it begins later"
