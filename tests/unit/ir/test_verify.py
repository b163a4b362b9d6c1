"""Every clause of the verifier, broken on purpose; and nothing that is right is refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given

from lowtide.core.errors import VerifyError
from lowtide.ir import verify as module
from lowtide.ir.graph import Graph, Origin, specialise
from lowtide.ir.symbolic import Expr
from lowtide.ir.text import parse, print_graph
from lowtide.ir.verify import verify
from strategies import example, graphs

ROOT = Path(__file__).parents[3]


@pytest.mark.spec("IR-01")
@given(graphs(asked=True))
def test_right_graphs_pass(g: Graph):
    verify(g)
    verify(specialise(g, {"s0": 3, "s1": 8}))


def test_the_example_passes():
    verify(example())


GOOD = """
graph g version 1
  symbols s0
  section forward
    input %x: f32[8,4]{4,1} @cpu  # /u/model.py:3 net
    input %r: f32[s0,4]{4,1} @cpu
    const %c: f32[4]{1} @cpu
    %a: f32[8,4]{4,1} @cpu = aten.add.Tensor(%x, %c)  # /u/model.py:7 net.fc1
    %v: f32[32]{1} @cpu in %a = view aten.view.default(%a, [32])  # /u/model.py:8 net.fc1
    (%p, %q) = aten.split.Tensor(%x, s0) as split
      %p: f32[2]{1} @cpu
      %q: f32[2]{1} @cpu
    call aten.zero_.default(%p) mutates %p effect random after a as zero
    %k: f32[1]{1} @cpu = aten.zeros() group pair
    %n: f32[1]{1} @cpu in %k = view aten.alias.default(%k)
    %l: f32[1]{1} @cpu = aten.zeros() after a after zero group pair
    return %p
    return saved %a
    return saved s0
  section backward
    input %a
    input %g: f32[8,4]{4,1} @cpu
    %b: f32[8,4]{4,1} @cpu = aten.mul.Tensor(%a, %g)
    return %b
"""

# clause: what to put in the place of what, each of which breaks it
MOVED = "\n    %o: f32[2]{1} @cuda:0 = aten.empty()"
BEGUN = "\n    call aten.copy_.default(%p, %o, True) mutates %p as begun"
WAITED = "\n    call lowtide.wait.default(%p) mutates %p as waited"
BROKEN: dict[str, list[tuple[str, str]]] = {
    "value-defined-once": [
        ("(%p, %q)", "(%p, %p)"),
        ("input %r: f32[s0,4]{4,1} @cpu", "input %r: f32[s0,4]{4,1} @cpu\n    %lost: f32[] @cpu"),
        ("const %c: f32[4]{1} @cpu", "const %c: f32[4]{1} @cpu\n    %c = aten.f(%x)"),
        ("%b: f32[8,4]{4,1} @cpu = aten.mul.Tensor(%a, %g)", "(%a) = aten.mul.Tensor(%a, %g) as b"),
    ],
    "value-known": [
        ("%v: f32[32]{1} @cpu in %a =", "%v ="),
        ("(%x, %c)", "(%x, %none)"),
        ("input %g: f32[8,4]{4,1} @cpu", "input %g"),
        ("const %c: f32[4]{1} @cpu", "const %c"),
        ("return %p", "return [%p, [%none]]"),
    ],
    "defined-before-used": [
        ("(%x, %c)", "(%x, %v)"),
        ("(%x, %c)", "(%x, key=[%q])"),
        ("aten.mul.Tensor(%a, %g)", "aten.mul.Tensor(%a, %x)"),
        ("return %b", "return %v"),
    ],
    "constant": [
        ("const %c: f32[4]{1} @cpu", "const %c: f32[4]{1} @cpu\n    const %c"),
        ("const %c: f32[4]{1} @cpu", "const %c: f32[4]{1} @cpu\n    input %c"),
    ],
    "section": [("section backward", "section forward")],
    "dtype": [("%q: f32", "%q: f33")],
    "rank": [("%q: f32[2]{1}", "%q: f32[2]{1,1}"), ("%q: f32[2]{1}", "%q: f32[2]")],
    "negative": [
        ("%q: f32[2]{1}", "%q: f32[-2]{1}"),
        ("%q: f32[2]{1}", "%q: f32[2]{-1}"),
        ("%q: f32[2]{1}", "%q: f32[2]{1}+-1"),
    ],
    "symbol": [
        ("symbols s0", "symbols s0 s0"),
        ("symbols s0", "symbols s0 s1"),
        ("%q: f32[2]{1}", "%q: f32[2]{(s1*2)}"),
        ("(%x, s0)", "(%x, [[max(s0, s2)]])"),
        ("saved s0", "saved s3"),
        ("input %a", "input %a\n    input s3"),
    ],
    "storage": [
        ("in %a = view", "= view"),
        ("in %a = view", "in %x = view"),
        ("%b: f32[8,4]{4,1} @cpu =", "%b: f32[8,4]{4,1} @cpu in %x ="),
        ("%v: f32[32]{1} @cpu", "%v: f32[32]{1} @cuda:0"),
        ("input %g: f32[8,4]{4,1} @cpu", "input %g: f32[8,4]{4,1} @cpu in %none"),
        ("input %g: f32[8,4]{4,1} @cpu", "input %g: f32[8,4]{4,1} @cpu in %v"),
    ],
    "extent": [("%v: f32[32]{1}", "%v: f32[33]{1}"), ("%v: f32[32]{1}", "%v: f32[32]{1}+1"), ("%v: f32", "%v: f64")],
    "op-name": [
        ("as zero", "as split"),
        ("as zero", 'as ""'),
        ("return %b", "return %b\n    call aten._assert(%b) as zero"),
        ("aten.mul.Tensor(%a, %g)", "aten.mul(%a, %g) as other"),
    ],
    "returns": [
        ("as zero", "as zero returns one"),
        ("as split", "as split returns one"),
        ("as split", "as split returns none"),
        ("as split", "as split returns many"),
        ("as zero", "as zero at [[0]]"),
        ("as split", "as split at [[0, 1]]"),
        ("as split", "as split at [[0, 1], [0, 1]]"),
        ("as split", "as split at [[0], [-1]]"),
        ("as split", "as split at [[0], [0, 1]]"),
        ("as split", 'as split at [["a", 2, "b"], ["a", 2]]'),
    ],
    "pinned": [
        ("input %g: f32[8,4]{4,1} @cpu", "input %g: f32[8,4]{4,1} @cuda:0 pinned"),
        ("%v: f32[32]{1} @cpu", "%v: f32[32]{1} @cpu pinned"),
        ("%a: f32[8,4]{4,1} @cpu", "%a: f32[8,4]{4,1} @cpu pinned"),
    ],
    "effect": [("effect random", "effect magic")],
    "mutates": [("mutates %p", "mutates %p %x"), ("mutates %p", "mutates %none")],
    "view": [
        ("view aten.view.default(%a, [32])", "view aten.view.default(%a, [32]) mutates %a"),
        ("view aten.view.default(%a, [32])", "view aten.view.default(%a, [32]) group pair"),
        ("view aten.view.default(%a, [32])", "view aten.view.default(%a, [32]) after a"),
    ],
    "after": [
        ("as split", "after zero as split"),
        ("as split", "after split as split"),
        ("as split", "after v as split"),
        ("as split", "after none as split"),
        ("aten.mul.Tensor(%a, %g)", "aten.mul.Tensor(%a, %g) after a"),
    ],
    "group": [
        (
            "%v: f32[32]{1} @cpu in %a =",
            "%e: f32[1]{1} @cpu = aten.zeros() group pair\n    %v: f32[32]{1} @cpu in %a =",
        ),
    ],
    "wait": [
        ("as zero", f"as zero{WAITED}"),
        ("as zero", f"as zero{MOVED}{BEGUN.replace(', True', '')}{WAITED}"),
        ("as zero", f"as zero{MOVED}{WAITED}{BEGUN}"),
        ("as zero", f"as zero{MOVED}{BEGUN}"),
        ("as zero", f"as zero{MOVED}{BEGUN}{BEGUN.replace('begun', 'again')}{WAITED}"),
        ("as zero", f"as zero{MOVED}{BEGUN}{WAITED}{WAITED.replace('waited', 'again')}"),
    ],
    "atom": [("(%x, s0)", '(%x, "colour":red)')],
    "saved": [
        ("return saved %a", "return saved %a\n    return saved [%a]"),
        ("return saved %a", "return saved %a\n    return saved 1.5"),
        ("return saved %a", "return %a"),
        ("return saved %a", "return saved %a\n    return saved %v"),
        ("input %a\n", "input %a\n    input %x\n"),
        ("return %b\n", "return %b\n  saved 0 2 1\n"),
        ("return %b\n", "return %b\n  saved 0 1 1\n"),
        ("return %b\n", "return %b\n  saved 0 1 9\n"),
    ],
    "order": [
        ("return %b\n", "return %b\n  order %a %c %x %r %v %p %q %k %n %l %g %b\n"),
        ("const %c: f32[4]{1} @cpu", "const %c: f32[4]{1} @cpu\n const %d: f32[] @cpu\n order %x %r %d %c\n"),
    ],
}
CASES = [(clause, old, new) for clause, changes in BROKEN.items() for old, new in changes]


def changed(old: str, new: str) -> Graph:
    assert GOOD.count(old) >= 1
    text = GOOD.replace(old, new, 1)
    if " order " in new and "const" in new:  # the rest of the names, in the order that the text has
        names = re.findall(r"%(\w+): ", text)
        text = text.replace(" order %x %r %d %c\n", "") + f"order {' '.join(f'%{n}' for n in _swapped(names))}\n"
    return parse(text)


def _swapped(names: list[str]) -> list[str]:
    c, d = names.index("c"), names.index("d")
    names[c], names[d] = names[d], names[c]
    return names


def test_the_good_graph_passes():
    verify(parse(GOOD))
    verify(parse(GOOD.replace("as zero", f"as zero{MOVED}{BEGUN}{WAITED}")))


@pytest.mark.spec("IR-04")
@pytest.mark.parametrize(("clause", "old", "new"), CASES, ids=[f"{c}-{i}" for i, (c, _, _) in enumerate(CASES)])
def test_each_clause_refuses_what_breaks_it(clause: str, old: str, new: str):
    with pytest.raises(VerifyError) as refused:
        verify(changed(old, new))
    assert refused.value.clause == clause, str(refused.value)
    assert any(line.startswith(">") for line in str(refused.value).splitlines()), str(refused.value)


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (((0,),), "split says where 1 results lie, returns 'tuple' and has 2 outputs"),
        (((0,), ()), "split has a result at a place without steps"),
        (((0,), (1, -1)), "split has a result at [1, -1]; positions count from 0"),
        (((0, "k"), (0, "k")), "split has two results at [0, 'k']"),
        (((0, 1), (0,)), "split has a result at [0], where others lie within"),
    ],
)
def test_what_is_wrong_with_a_place_is_said(paths: tuple[tuple[int | str, ...], ...], says: str):
    g = parse(GOOD)
    forward, backward = g.sections
    ops = tuple(dataclasses.replace(op, paths=paths) if op.name == "split" else op for op in forward.ops)
    with pytest.raises(VerifyError, match=f"^returns: {re.escape(says)}"):
        verify(dataclasses.replace(g, sections=(dataclasses.replace(forward, ops=ops), backward)))


def test_a_graph_without_sections():
    with pytest.raises(VerifyError, match=r"^section: "):
        verify(Graph("g", (), ()))


def test_every_value_listed_once():
    g = parse(GOOD)
    with pytest.raises(VerifyError, match=r"^value-defined-once: value %b is listed twice"):
        verify(dataclasses.replace(g, values=(*g.values, g.values[-1])))


def test_every_clause_has_a_negative_test_and_a_line_in_the_documentation():
    source = Path(module.__file__).read_text()
    clauses = set(re.findall(r'fail\(\s*"([a-z-]+)"', source)) | set(re.findall(r'_once\(self, "([a-z-]+)"', source))
    assert clauses == set(BROKEN)
    documented = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/design/ir.md").read_text(), re.MULTILINE)
    assert sorted(clauses) == sorted(set(documented) & clauses), clauses - set(documented)


def test_the_message_shows_the_culprit_and_the_user_line(tmp_path: Path):
    model = tmp_path / "model.py"
    model.write_text("import torch\n" * 7 + "y = self.fc1(x).flatten()\n")
    g = parse(GOOD.replace("/u/model.py", str(model)).replace("%v: f32[32]{1}", "%v: f32[40]{1}"))
    with pytest.raises(VerifyError) as refused:
        verify(g)
    first, user, *shown = str(refused.value).splitlines()
    assert first == "extent: %v reaches to byte 160 of %a, which has 128"
    assert user == "  model.py:8 net.fc1:  y = self.fc1(x).flatten()"
    assert len(shown) == 10
    assert [s for s in shown if s.startswith(">")] == [
        "> " + next(line for line in print_graph(g).splitlines() if "%v: " in line)
    ]


def test_symbolic_layouts_are_checked_for_extent_once_sizes_are_known():
    text = GOOD.replace("%a: f32[8,4]", "%a: f32[s0,4]").replace("%v: f32[32]", "%v: f32[(s0*5)]")
    verify(parse(text))
    with pytest.raises(VerifyError, match=r"^extent: "):
        verify(specialise(parse(text), {"s0": 8}))


def test_the_callers_storages_may_reach_further_than_we_see():
    verify(
        parse(
            GOOD.replace(
                "input %g: f32[8,4]{4,1} @cpu", "input %g: f32[8,4]{4,1} @cpu\n    input %h: f32[99]{1} @cpu in %g"
            )
        )
    )


def test_origins_without_a_file_show_no_line():
    g = parse(GOOD.replace("(%x, %c)", "(%x, %none)"))
    ops = tuple(dataclasses.replace(op, origin=Origin("", 3, "m")) for op in g.sections[0].ops)
    g = dataclasses.replace(g, sections=(dataclasses.replace(g.sections[0], ops=ops), g.sections[1]))
    with pytest.raises(VerifyError) as refused:
        verify(g)
    assert str(refused.value).splitlines()[1].startswith("  ")


def test_nonsense_expressions_cannot_be_made():
    for op, args in (("-", (1, 2)), ("+", (1,)), ("sym", ("max",)), ("sym", ("a b",)), ("sym", (1,)), ("+", (1, "a"))):
        with pytest.raises(VerifyError, match=r"^expression: "):
            Expr(op, args)
