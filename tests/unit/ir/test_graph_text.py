"""The text form: it prints back to the same graph, reads well, and refuses nonsense with the place."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs, plain_args

from lowtide.core.errors import FileError
from lowtide.ir.graph import Atom, Graph, Layout, Op, Origin, Ref, Section, Value
from lowtide.ir.symbolic import Expr, symbol
from lowtide.ir.text import excerpt, lines, parse, print_graph


@given(graphs())
def test_text_parses_back(g: Graph):
    text = print_graph(g)
    back = parse(text)
    assert back == g
    assert repr(back) == repr(g)  # 1, 1.0 and True are equal, and so are 0.0 and -0.0
    assert print_graph(back) == text


def nan_is(a: float) -> float:
    return a
