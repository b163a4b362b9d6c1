"""Equal layers are lowered once: the loops are the ones that each operation by itself would get, names and all."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.fusion import read

from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.ir.lowered import Lowered
from lowtide.lowering.lower import lower
from lowtide.lowering.repeated import Repeats
from lowtide.lowering.site import Site

pytestmark = pytest.mark.torch
CORPUS = Path(__file__).parents[3] / "benchmarks" / "corpus" / "fusion"
WIDE = Layout("f32", "cpu", (4, 8), (8, 1))


def _each_by_itself(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Lowered:
    def never(self: Repeats, site: Site, key: Hashable) -> bool:
        return False

    with monkeypatch.context() as changed:
        changed.setattr(Repeats, "taken", never)
        return lower(graph)


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize("name", ["distilbert-train", "convnet-train", "lookup-train", "autocast-train", "vit-infer"])
def test_captured_programs_are_lowered_as_if_each_operation_were_by_itself(name: str, monkeypatch: pytest.MonkeyPatch):
    graph, _ = read(CORPUS / f"{name}.json.gz")
    found, plain = lower(graph), _each_by_itself(graph, monkeypatch)
    assert found == plain
    assert len({id(x) for x in found.loops.values()}) < len({id(x) for x in plain.loops.values()})


def _two(first: Op, second: Op, **layouts: Layout) -> Graph:
    """Two operations on ``x`` and ``z``, whose results ``p`` and ``q`` are returned."""
    values = [Value(n, layouts.get(n, WIDE), n) for n in ("x", "z", "p", "q")]
    inputs, results = (Ref("x"), Ref("z")), (Ref("p"), Ref("q"))
    return Graph("two", tuple(values), (Section("inference", inputs, (first, second), results),))


def _op(out: str, x: str, *more: object, target: str = "aten.mul.Scalar") -> Op:
    return Op(out, target, (Ref(x), *more), outputs=(out,))  # type: ignore[arg-type]


@pytest.mark.spec("PP-28")
def test_alike_operations_share_a_loop_and_keep_their_names():
    lowered = lower(_two(_op("p", "x", 2.0), _op("q", "z", 2.0)))
    assert lowered.loops["p"] is lowered.loops["q"]
    assert [(op.name, op.reads, op.outputs) for op in lowered.graph.ops] == [
        ("p", ("x",), ("p",)),
        ("q", ("z",), ("q",)),
    ]


TURNED = Layout("f32", "cpu", (4, 8), (1, 4))
ELSEWHERE: list[tuple[Op, Op, dict[str, Layout]]] = [
    (_op("p", "x", 0.0), _op("q", "z", -0.0), {}),
    (_op("p", "x", 2.0), _op("q", "z", 3.0), {}),
    (_op("p", "x", 2.0), _op("q", "z", 2.0), {"z": TURNED}),
    (_op("p", "x", 2.0), _op("q", "z", 2.0), {"q": TURNED}),
    (_op("p", "x", Ref("x"), target="aten.mul.Tensor"), _op("q", "x", Ref("z"), target="aten.mul.Tensor"), {}),
    (_op("p", "x", target="aten.sin.default"), _op("q", "z", target="aten.cos.default"), {}),
]  # fmt: skip


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize(("first", "second", "layouts"), ELSEWHERE)
def test_what_differs_is_lowered_by_itself(
    first: Op, second: Op, layouts: dict[str, Layout], monkeypatch: pytest.MonkeyPatch
):
    """Numbers that are equal but not the same, layouts, one operand in place of two."""
    graph = _two(first, second, **layouts)
    found, plain = lower(graph), _each_by_itself(graph, monkeypatch)
    assert found == plain
    assert str(plain.loops["p"]) != str(plain.loops["q"])
    assert str(found.loops["q"]) == str(plain.loops["q"])


@pytest.mark.spec("PP-28")
def test_an_operation_that_does_anothers_work_is_no_example_for_others(monkeypatch: pytest.MonkeyPatch):
    """Two concatenations that take in what they are made of, which is itself made of other parts in either."""

    def cat(out: str, *of: str) -> Op:
        return Op(out, "aten.cat.default", (tuple(map(Ref, of)),), outputs=(out,))

    rows = {"x": 4, "z": 4, "a": 8, "b": 8, "p": 12, "q": 12}
    values = tuple(Value(n, replace(WIDE, size=(rows[n], 8)), n) for n in rows)
    ops = (cat("a", "x", "z"), cat("p", "a", "z"), cat("b", "z", "x"), cat("q", "b", "z"))
    graph = Graph("two", values, (Section("inference", (Ref("x"), Ref("z")), ops, (Ref("p"), Ref("q"))),))
    found = lower(graph)
    assert [op.name for op in found.graph.ops] == ["p", "q"]
    assert found == _each_by_itself(graph, monkeypatch)
    assert str(found.loops["p"]) != str(found.loops["q"])


def _of(values: dict[str, tuple[Layout, str]], ops: tuple[Op, ...], *returned: str) -> Graph:
    """Operations on ``x`` and ``z``. ``values``: layout and storage of each."""
    listed = tuple(Value(n, *given) for n, given in values.items())
    return Graph("of", listed, (Section("inference", (Ref("x"), Ref("z")), ops, tuple(map(Ref, returned))),))


def _on_one_storage(target: str) -> Graph:
    """``x`` with ``z``, then with a view of itself; a copy changes the first."""
    copies = target == "aten.copy_.default"
    values = {n: (WIDE, n) for n in ("x", "z", "v", "p", "q")} | {"v": (WIDE, "x")}
    values |= {"p": (WIDE, "z"), "q": (WIDE, "x")} if copies else {}
    first, second = ("z", "x") if copies else ("x", "x")
    ops = (
        Op("v", "aten.alias.default", (Ref("x"),), outputs=("v",), view=True),
        Op("p", target, (Ref(first), Ref("x" if copies else "z")), outputs=("p",), mutates=(first,) if copies else ()),
        Op("q", target, (Ref(second), Ref("v")), outputs=("q",), mutates=(second,) if copies else ()),
    )
    return _of(values, ops, "p", "q")


def _two_readers_and_one() -> Graph:
    """Concatenations of ``x`` and ``z`` in others: ``a``, which is returned too, and ``b``."""
    rows = {"x": 4, "z": 4, "a": 8, "p": 12, "b": 8, "q": 12}
    values = {n: (replace(WIDE, size=(k, 8)), n) for n, k in rows.items()}
    made = {"a": ("x", "z"), "p": ("a", "z"), "b": ("x", "z"), "q": ("b", "z")}
    ops = tuple(Op(o, "aten.cat.default", (tuple(map(Ref, of)),), outputs=(o,)) for o, of in made.items())
    return _of(values, ops, "a", "p", "q")


def _positions_used_and_not() -> Graph:
    row = Layout("f32", "cpu", (4,), (1,))
    values = {
        "x": (WIDE, "x"),
        "z": (WIDE, "z"),
        "p": (row, "p"),
        "i": (replace(row, dtype="i64"), "i"),
        "q": (row, "q"),
    }
    ops = tuple(
        Op(f"{name}_max", "aten.max.dim", (Ref(x), 1), (), outputs, "tuple")
        for name, x, outputs in (("p", "x", ("p", "i")), ("q", "z", ("q", None)))
    )
    return _of(values, ops, "p", "i", "q")


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize(
    "graph",
    [
        _on_one_storage("aten.mul.Tensor"),
        _on_one_storage("aten.copy_.default"),
        _two_readers_and_one(),
        _positions_used_and_not(),
    ],
    ids=["operands on one storage", "operand and result on one storage", "readers", "positions"],
)
def test_what_stands_around_an_operation_tells_it_apart(graph: Graph, monkeypatch: pytest.MonkeyPatch):
    found = lower(graph)
    assert found == _each_by_itself(graph, monkeypatch)
    p, q = (next(str(x) for n, x in found.loops.items() if n.startswith(name)) for name in ("p", "q"))
    assert p != q
