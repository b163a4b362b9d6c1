"""Variants by sizes: built once each, the least recent dropped, sizes read off the arguments."""

from __future__ import annotations

import pytest
import torch

from lowtide.core.errors import Unsupported
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.ir.symbolic import Expr, symbol
from lowtide.ir.text import parse
from lowtide.ir.verify import verify
from lowtide.runtime.dispatch import Dispatch, alone
from strategies import example

pytestmark = pytest.mark.torch
S0 = symbol("s0")


def graph(size: object, *, explicit: bool = False) -> Graph:
    values = tuple(Value(n, Layout("f32", "cpu", (size,), (1,)), n) for n in ("x", "y"))
    op = Op("y", "aten.relu.default", (Ref("x"),), outputs=("y",))
    inputs = (Ref("x"), S0) if explicit else (Ref("x"),)
    return Graph("g", values, (Section("inference", inputs, (op,), (Ref("y"),)),), (), ("s0",))


class Built:
    """Stands for the compiler: remembers what was asked."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, static: Graph) -> list:
        assert not static.symbols
        n = static.value["x"].layout.size[0]
        self.sizes.append(n)
        return [lambda args: [("ran", n, args.clear())]]


@pytest.mark.spec("RT-33", "PP-28")
def test_a_size_is_built_once_and_the_recent_ones_are_kept():
    built = Built()
    call = Dispatch(graph(S0), built, 2).section(0)
    for n in (3, 5, 3, 3, 5):
        args = [torch.empty(n)]
        assert call(args)[0][:2] == ("ran", n)
        assert args == []
    assert built.sizes == [3, 5]
    call([torch.empty(7)])  # 3 is the least recent
    call([torch.empty(5)])
    call([torch.empty(7)])
    assert built.sizes == [3, 5, 7]
    call([torch.empty(3)])
    assert built.sizes == [3, 5, 7, 3]


def test_sizes_that_are_arguments():
    built = Built()
    call = Dispatch(graph(Expr("*", (S0, 2)), explicit=True), built, 4).section(0)
    call([torch.empty(6), 3])
    assert built.sizes == [6]


def test_a_size_that_cannot_be_read_off_is_refused_at_once():
    with pytest.raises(Unsupported, match="size s0: cannot be read off the inputs of inference"):
        Dispatch(graph(Expr("*", (S0, 2))), Built(), 4)


def test_a_build_that_fails_is_tried_again():
    calls = []

    def build(static: Graph) -> list:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError
        return [lambda args: ["fine"]]

    call = Dispatch(graph(S0), build, 1).section(0)
    with pytest.raises(MemoryError):
        call([torch.empty(3)])
    assert call([torch.empty(3)]) == ["fine"]


@pytest.mark.spec("G5")
def test_a_section_alone_owns_nothing_that_it_is_given():
    lone = alone(example(), 1)
    given = {i.name for i in lone.sections[0].inputs if isinstance(i, Ref)}
    assert {lone.value[n].storage for n in given} <= lone.caller_owned
    assert [s.name for s in lone.sections] == ["backward"]


@pytest.mark.spec("IR-56")
def test_a_constant_that_was_saved_for_a_section_is_its_input_alone():
    """So are those copies of constants on other devices that a backward reads."""
    whole = parse("""graph g version 1
  section forward
    input %x: f32[2]{1} @cpu
    const %c: f32[2]{1} @cpu
    %y: f32[2]{1} @cpu = aten.mul.Tensor(%x, %c)
    return %y
    return saved %c
  section backward
    input %c
    input %g: f32[2]{1} @cpu
    %h: f32[2]{1} @cpu = aten.mul.Tensor(%g, %c)
    const %k: f32[2]{1} @cpu
    %r: f32[2]{1} @cpu = aten.add.Tensor(%h, %k)
    return %r
""")
    verify(whole)
    lone = alone(whole, 1)
    verify(lone)
    assert lone.constants == ("k",) and "c" in lone.caller_owned
