"""Bytes come from how far a layout reaches, and specialising keeps everything but the symbols."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.errors import VerifyError
from lowtide.ir.graph import ITEMSIZE, Expr, Graph, Layout, Ref, Section, Value, specialise
from lowtide.ir.lowered import LOOP
from lowtide.ir.symbolic import evaluate, symbol
from lowtide.ir.text import parse, print_graph
from lowtide.ir.verify import verify
from strategies import graphs, reach, static_graphs

SMALL = st.integers(0, 4)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Small layouts of any stride: broadcast (0), padded, overlapping, permuted."""
    size = draw(st.lists(SMALL, max_size=3))
    stride = draw(st.lists(st.integers(0, 9), min_size=len(size), max_size=len(size)))
    return Layout(draw(st.sampled_from(sorted(ITEMSIZE))), "cpu", tuple(size), tuple(stride), draw(SMALL))


@pytest.mark.spec("G11")
@given(layouts())
def test_extent_is_the_furthest_byte_of_any_element(y: Layout):
    assert y.extent == reach(y)


@pytest.mark.spec("G11")
def test_extent_is_not_the_element_count():
    padded = Layout("f32", "cpu", (3, 5), (8, 1))
    assert padded.extent == (2 * 8 + 5) * 4
    assert Layout("f32", "cpu", (1000,), (0,)).extent == 4
    assert Layout("bf16", "cpu", (4,), (1,), 10).extent == 28


@pytest.mark.spec("G10")
@given(layouts())
def test_no_elements_cost_no_bytes_whatever_the_strides(y: Layout):
    empty = dataclasses.replace(y, size=(*y.size, 0), stride=(*y.stride, 7))
    assert empty.extent == 0
    assert (empty.size[-1], empty.stride[-1]) == (0, 7)


@pytest.mark.spec("G10")
@pytest.mark.parametrize("dtype", sorted(ITEMSIZE))
def test_a_scalar_costs_one_element(dtype: str):
    assert Layout(dtype, "cpu", (), ()).extent == ITEMSIZE[dtype]


def test_extent_of_a_symbolic_layout_is_refused():
    with pytest.raises(ValueError, match="symbolic"):
        _ = Layout("f32", "cpu", (symbol("s0"),), (1,)).extent


@pytest.mark.spec("G11", "G10")
@given(static_graphs())
def test_a_storage_has_the_bytes_of_whatever_reaches_furthest(g: Graph):
    slow = dict.fromkeys((v.storage for v in g.values), 0)
    for v in g.values:
        slow[v.storage] = max(slow[v.storage], reach(v.layout))
    assert dict(g.nbytes) == slow


@pytest.mark.spec("IR-04")
@given(static_graphs())
def test_a_value_has_the_operation_that_makes_it_and_what_is_given_has_none(g: Graph):
    for v in g.values:
        makers = [op for op in g.ops if v.name in op.outputs]
        assert [g.maker[v.name]] == makers if v.name in g.maker else not makers


@given(static_graphs())
def test_caller_owned_is_what_no_operation_made(g: Graph):
    made = {g.value[n].storage for op in g.ops for n in op.outputs if n is not None and g.value[n].storage == n}
    assert g.caller_owned == {v.storage for v in g.values} - made


@given(graphs(symbolic=True), st.integers(1, 5), st.integers(1, 5))
def test_specialise_replaces_every_symbol_and_nothing_else(g: Graph, a: int, b: int):
    bindings = {"s0": a, "s1": b}
    h = specialise(g, bindings)
    assert h.symbols == ()
    assert not re.search(r"Expr\(", repr(h))
    for old, new in zip(g.values, h.values, strict=True):
        assert (new.name, new.storage, new.origin) == (old.name, old.storage, old.origin)
        assert new.layout.size == tuple(evaluate(d, bindings) for d in old.layout.size)
        assert new.layout.stride == tuple(evaluate(d, bindings) for d in old.layout.stride)
        assert new.layout.offset == evaluate(old.layout.offset, bindings)
    for old, new in zip(g.sections, h.sections, strict=True):
        assert new.inputs == tuple(i if isinstance(i, Ref) else None for i in old.inputs)
        assert new.saved == old.saved
        assert [op.reads for op in new.ops] == [op.reads for op in old.ops]
        for before, after in zip(old.returns, new.returns, strict=True):
            assert after == (evaluate(before, bindings) if isinstance(before, Expr) else before)


@given(static_graphs())
def test_without_symbols_it_is_the_same_object(g: Graph):
    assert specialise(g, {}) is g


def test_a_missing_size_is_named():
    value = Value("x", Layout("f32", "cpu", (symbol("s1"),), (1,)), "x")
    g = Graph("g", (value,), (Section("main", (Ref("x"),), (), ()),), (), ("s1",))
    with pytest.raises(VerifyError, match=r"^symbol: size s1 "):
        specialise(g, {"s0": 1})


@given(graphs(symbolic=True))
def test_the_text_of_a_specialised_graph_has_no_symbols(g: Graph):
    text = print_graph(specialise(g, {"s0": 2, "s1": 3}))
    assert not re.search(r"[\[({,+ ]s[01]\b", re.sub(r'"(?:[^"\\]|\\.)*"', '""', text))


KINDS = """
graph g version 1
  section inference
    input %x: f32[4]{1} @cpu
    input %none: f32[0]{1} @cpu
    const %c: f32[4]{1} @cpu
    %part: f32[2]{1}+2 @cpu in %x = view aten.slice.Tensor(%x, 0, 2, 4)
    %again: f32[1]{1}+3 @cpu in %x = view aten.slice.Tensor(%part, 0, 1, 2)
    %some: f32[2]{1} @cpu in %c = view aten.slice.Tensor(%c, 0, 0, 2)
    %made: f32[4]{1} @cpu = aten.mm.default(%x, %c)
    %half: f32[2]{1} @cpu in %made = view aten.slice.Tensor(%made, 0, 0, 2)
    %loop: f32[4]{1} @cpu = lowtide.loop.default(%made)
    %empty: f32[0]{1} @cpu = aten.neg.default(%none)
    call aten.copy_.default(%again, %half) mutates %again as copy
    return %loop
"""
# value: is the caller's, is a constant, has bytes, is static
VALUES = {
    "x": (True, False, True), "none": (True, False, False), "c": (True, True, True), "part": (True, False, True),
    "again": (True, False, True), "some": (True, True, True), "made": (False, False, True), "half": (False, False, True),
    "loop": (False, False, True), "empty": (False, False, False),
}  # fmt: skip


@pytest.mark.spec("IR-07")
def test_what_a_value_is_is_seen_through_views():
    graph = parse(KINDS)
    verify(graph)
    constants = {graph.value[c].storage for c in graph.constants}
    for name, expected in VALUES.items():
        storage = graph.value[name].storage
        assert (storage in graph.caller_owned, storage in constants, graph.nbytes[storage] > 0) == expected, name
    called = [op.name for op in graph.ops if not op.view and op.target != LOOP]
    assert called == ["made", "empty", "copy"]
    assert [op.name for op in graph.ops if op.mutates or op.effect] == ["copy"]
    x = graph.value["x"].layout
    assert x.static and not dataclasses.replace(x, size=(symbol("s0"),)).static
    assert not dataclasses.replace(x, offset=symbol("s0")).static
