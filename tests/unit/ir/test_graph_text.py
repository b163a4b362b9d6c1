"""The text form: it prints back to the same graph, reads well, and refuses nonsense with the place."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.errors import FileError, VerifyError
from lowtide.ir.graph import Arg, Graph, Layout, Op, Origin, Section, Value
from lowtide.ir.text import excerpt, lines, parse, print_graph
from lowtide.ir.verify import verify
from strategies import example, graphs, origins, plain_args, same


@given(graphs(asked=True))
def test_text_parses_back(g: Graph):
    text = print_graph(g)
    same(parse(text), g)
    assert print_graph(parse(text)) == text


@given(plain_args(("s0", "s1")), origins())
def test_every_argument_parses_back(arg: Arg, origin: Origin):
    op = Op("y", "f", (arg, (arg, arg)), (("key", arg),), ("y",), origin=origin)
    value = Value("y", Layout("f32", "cpu", (), ()), "y", origin)
    g = Graph("g", (value,), (Section("main", (), (op,), (arg,)),), (), ("s0", "s1"))
    same(parse(print_graph(g)), g)


def broken(g: Graph, choice: random.Random) -> Graph:
    """The graph with one thing about it changed to something that may be wrong."""
    values, i = list(g.values), choice.randrange(4)
    if i == 0 and values:
        choice.shuffle(values)
    elif i == 1 and values:
        del values[choice.randrange(len(values))]
    elif i == 2:
        values.append(Value("loose", Layout("f7", "cpu", (-1,), (1, 2), -3), "none such", Origin("f", -1, "m")))
    section = g.sections[0]
    ops = [dataclasses.replace(op, name="twice", returns=choice.choice(("one", "none", "odd"))) for op in section.ops]
    odd = Section("in\nside", section.inputs, tuple(ops), section.returns, (7, 7, -1))
    return Graph("", tuple(values), (odd, *g.sections[1:]), ("loose", *reversed(g.constants)), ("max", "s9"))


@given(graphs(), st.randoms(use_true_random=False))
def test_graphs_that_do_not_verify_parse_back_too(g: Graph, choice: random.Random):
    g = broken(g, choice)
    with pytest.raises(VerifyError):
        verify(g)
    same(parse(print_graph(g)), g)


@pytest.mark.spec("IR-03")
def test_what_it_looks_like(golden: Callable[[str], None]):
    g = example()
    verify(g)
    golden(print_graph(g))
    same(parse(print_graph(g)), g)


def test_comments_blank_lines_and_indentation_mean_nothing():
    text = print_graph(example())
    loose = "# ours\n\n" + "".join(f"\t   {line.strip()}  \r\n  # so\n" for line in text.splitlines())
    same(parse(loose), example())


@pytest.mark.spec("IR-03")
def test_files_of_one_name_are_told_apart():
    files = ["/a/b/model.py", "/a/c/model.py", "model.py", "", "/a b/model.py", "c/model.py"]
    ops = tuple(Op(f"o{i}", "f", (), (), (), "none", origin=Origin(f, i)) for i, f in enumerate(files))
    g = Graph("g", (), (Section("main", (), ops, ()),))
    text = print_graph(g)
    assert 'file b/model.py = "/a/b/model.py"' in text
    same(parse(text), g)


def test_excerpt_marks_its_line():
    text = excerpt(example(), ("op", 0, 2))
    marked = [line for line in text.splitlines() if line.startswith(">")]
    assert len(text.splitlines()) == 10
    assert marked == [next(f"> {x.text}" for x in lines(example()) if "uniform_" in x.text)]


HEAD = "graph g version 1\nsection main\n"


@pytest.mark.parametrize(
    ("text", "place", "because"),
    [
        ("", "line 1", "no graph"),
        ("section main", "line 1, column 1", "'graph'"),
        ("graph g version 2", "line 1, column 17", "version 1 is expected, not 2"),
        ("graph g version 1\ninput %x", "line 2, column 7", "in no section"),
        (HEAD + "input 7", "line 3, column 7", "a value, a size or None"),
        (HEAD + "input %x: f32[8]{1}", "line 3, column 20", "'@' and the device"),
        (HEAD + "input %x: f32[8 4]{1} @cpu", "line 3, column 17", "',' or ']'"),
        (HEAD + "input %x: f32[(s0+1*2)] @cpu", "line 3, column 15", "is not a size"),
        (HEAD + "input %x: f32[(s0] @cpu", "line 3, column 15", "is not a size"),
        (HEAD + "input %x: f32[] @cpu\ninput %x: f32[] @cpu", "line 4, column 7", "%x has its type already"),
        (HEAD + "%y = f(%x", "line 3, column 10", "',' or ')'"),
        (HEAD + "%y = f(%x) returns tuple at []", "line 3, column 29", "a list of places"),
        (HEAD + "%y = f(%x) returns tuple at [[]]", "line 3, column 29", "a list of places"),
        (HEAD + "%y = f(%x) whatever", "line 3, column 12", "the line should end here"),
        (HEAD + "%y = f(a=1, 2)", "line 3, column 13", "an argument with a name"),
        (HEAD + '%y = f("open)', "line 3, column 8", "a text in double quotes"),
        (HEAD + "%y = f(" + "[" * 100 + "]" * 100 + ")", "line 3, column 73", "more than 64 deep"),
        (HEAD + "%y = f(" + "9" * 5000 + ")", "line 3, column 8", "is not a size"),
        (HEAD + "y = f()", "line 3, column 1", "a line of a graph is expected"),
        (HEAD + "(%a %b) = f()", "line 3, column 5", "',' or ')'"),
        (HEAD + "order %x", "line 3, column 7", "every value above it"),
        (HEAD + "saved 3 0", "line 3, column 7", "no section 3"),
        (HEAD + "call f()  # model.py:x", "line 3, column 22", "a whole number is expected"),
    ],
)
def test_nonsense_is_refused_with_the_place(text: str, place: str, because: str):
    with pytest.raises(FileError) as refused:
        parse(text, "bad.ir")
    assert refused.value.place == place
    assert because in refused.value.because
    assert str(refused.value).startswith(f"bad.ir: {place}: ")
    if "column" in place:  # the caret stands under the fault
        shown, caret = refused.value.because.splitlines()[-2:]
        line, column = (int(word) for word in place.replace("line ", "").split(", column "))
        assert text.splitlines()[line - 1][column - 1 :].startswith(shown[caret.index("^") :][:60])


@given(graphs(), st.data())
def test_damaged_text_is_refused_or_read_and_never_crashes(g: Graph, data: st.DataObject):
    text = print_graph(g)
    at = data.draw(st.integers(0, len(text) - 1))
    piece = data.draw(st.sampled_from(("", "(", ")", "%", '"', "9" * 3, ",", "\n", "[", "#", ":", "é", "\x00")))
    cut = text[:at] + piece + text[at + data.draw(st.integers(0, 2)) :]
    try:
        back = parse(cut)
    except FileError as e:
        assert e.place.startswith("line ")
    else:
        same(parse(print_graph(back)), back)
