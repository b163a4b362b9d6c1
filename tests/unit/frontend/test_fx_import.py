"""fx graphs as Graphs: views, several results, mutation, constants, symbols without guards, provenance, and refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import annotate

from lowtide.core.errors import Unsupported
from lowtide.frontend.fx_import import DTYPES, import_graph
from lowtide.frontend.sizes import dim_of
from lowtide.ir.graph import Graph, Op, Origin, Ref
from lowtide.ir.symbolic import Expr, symbols_of
from lowtide.ir.verify import verify
from lowtide.program import usable
from lowtide.runtime.records import records

pytestmark = pytest.mark.torch
aten = torch.ops.aten
X = torch.zeros(4, 6)


def traced(f: Callable[..., Any], *args: Any, mode: str = "fake") -> Graph:
    def listed(*given: Any) -> list[Any]:
        out = f(*given)
        return list(out) if isinstance(out, tuple | list) else [out]

    gm = make_fx(listed, tracing_mode=mode)(*args)
    gm.graph.eliminate_dead_code()  # as AOTAutograd does
    graph, _ = import_graph("g", [("inference", gm)])
    verify(graph)
    return graph


def op(graph: Graph, name: str) -> Op:
    return next(o for o in graph.ops if o.target.split(".")[1] == name)


def test_views_stand_on_their_base():
    graph = traced(lambda x: aten.select.int(aten.t.default(aten.add.Tensor(x, 1)), 0, 2) * 2, X)
    turned, picked = graph.value["t"], graph.value["select"]
    assert (turned.storage, turned.layout.size, turned.layout.stride) == ("add", (6, 4), (1, 6))
    assert (picked.storage, picked.layout.offset) == ("add", 2 * 6) or picked.layout.offset == 2
    assert op(graph, "t").view and op(graph, "select").view and not op(graph, "add").view
    assert graph.nbytes["add"] == 96


def test_a_view_that_is_not_declared_as_one():
    graph = traced(lambda x: aten._unsafe_view.default(aten.mm.default(x, aten.t.default(x)), [16]) * 2, X)
    assert op(graph, "_unsafe_view").view
    assert graph.value["_unsafe_view"].storage == "mm"


def test_several_results_and_those_that_nobody_uses():
    graph = traced(lambda x: aten.native_layer_norm.default(x, [6], None, None, 1e-5)[0] * 2, X)
    norm = op(graph, "native_layer_norm")
    assert (norm.returns, norm.view) == ("tuple", False)
    assert [o is None for o in norm.outputs] == [False, True, True]


@pytest.mark.parametrize("name", ["split", "unbind"])
def test_lists_of_views(name: str):
    pieces = {"split": lambda x: aten.split.Tensor(x, 2), "unbind": lambda x: aten.unbind.int(x)}[name]
    graph = traced(lambda x: pieces(x + 1)[1] * 2, X)
    made = op(graph, name)
    assert made.view and made.returns == "tuple"
    assert [o is None for o in made.outputs][:2] == [True, False]
    assert graph.value[str(made.outputs[1])].storage == "add"
    assert graph.value[str(made.outputs[1])].layout.offset in (6, 12)


@pytest.mark.spec("IR-44")
def test_tensors_in_lists_and_keywords_are_read():
    graph = traced(
        lambda x, i: aten.index.Tensor(aten.cat.default([x, x * 2]), [None, i]), X, torch.zeros(3, dtype=torch.int64)
    )
    assert op(graph, "cat").reads == (graph.sections[0].inputs[0].name, "mul")
    assert set(op(graph, "index").reads) == {"cat", graph.sections[0].inputs[1].name}


def test_mutation_is_explicit():
    def f(x: torch.Tensor) -> torch.Tensor:
        aten.copy_.default(aten.select.int(x, 0, 1), aten.select.int(x, 0, 0) + 1)
        return x * 2

    graph = traced(f, X)
    copy = op(graph, "copy_")
    assert [graph.value[m].storage for m in copy.mutates] == [graph.sections[0].inputs[0].name]
    assert not copy.view


@pytest.mark.spec("G6")
def test_random_operations_keep_their_order():
    graph = traced(lambda x: aten.bernoulli.p(x, 0.5) + aten.rand_like.default(x), X)
    assert [o.effect for o in graph.ops] == ["random", "random", None]


@pytest.mark.spec("IR-56")
def test_constants():
    held = torch.ones(6)
    gm = make_fx(lambda x: [x + held], tracing_mode="real")(X)
    for n in gm.graph.nodes:
        n.meta["val"] = torch.empty(0)
    with pytest.raises(Unsupported, match="are not planned"):
        import_graph("g", [("inference", gm)])
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        gm.graph.find_nodes(op="placeholder")[0].meta["val"] = mode.from_tensor(X)
        for n in gm.graph.nodes:
            if n.op != "placeholder":
                n.meta["val"] = mode.from_tensor(held if n.op == "get_attr" else X)
    graph, constants = import_graph("g", [("inference", gm)])
    assert list(graph.constants) == list(constants) and torch.equal(constants[graph.constants[0]], held)
    assert graph.constants[0] in graph.caller_owned


@pytest.mark.spec("IR-56")
def test_a_constant_that_is_fetched_twice_has_one_name():
    held, alike = torch.ones(6), torch.ones(6)
    gm = make_fx(lambda x: [x + held, x * alike], tracing_mode="fake", _allow_non_fake_inputs=True)(X)
    first, second = gm.graph.find_nodes(op="get_attr")
    gm.register_buffer("again", getattr(gm, first.target))
    with gm.graph.inserting_after(first):
        again = gm.graph.get_attr("again")
    again.meta = dict(first.meta)
    gm.graph.find_nodes(op="call_function", target=aten.mul.Tensor)[0].replace_input_with(second, again)
    graph, constants = import_graph("g", [("inference", gm)])
    verify(graph)
    assert len(graph.constants) == len(constants) == 2, "that other constant is equal and another tensor"
    assert op(graph, "add").reads[1] == op(graph, "mul").reads[1]


def test_lazy_conjugates_are_computed():
    graph = traced(lambda x: aten.mul.Tensor(aten._conj.default(x), 2), torch.zeros(3, dtype=torch.complex64))
    assert op(graph, "_conj_physical").outputs == ("_conj",) and not op(graph, "_conj_physical").view
    assert graph.value["_conj"].storage == "_conj"


@pytest.mark.spec("IR-10")
def test_symbols_install_no_guard():
    def f(x: torch.Tensor) -> list[torch.Tensor]:
        return [aten.view.default(x + 1, [x.shape[0] * x.shape[1]])]

    gm = make_fx(f, tracing_mode="symbolic")(X)
    environment = gm.graph.find_nodes(op="placeholder")[0].meta["val"].shape[0].node.shape_env
    before = list(environment.guards)
    graph, _ = import_graph("g", [("inference", gm)])
    assert list(environment.guards) == before
    assert len(graph.symbols) == 2
    (flat,) = graph.value["view"].layout.size
    assert isinstance(flat, Expr) and symbols_of(flat) == set(graph.symbols)


@pytest.mark.spec("IR-02")
def test_values_know_the_users_line_and_module():
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x).relu()  # the line that is meant
            return x

    torch.compiler.reset()
    torch.compile(Net(), backend="lowtide")(X).sum().backward()
    graph = records()[-1].planned[0].schedule.graph
    relus = [o for o in graph.ops if any("relu" in str(made) for made in o.outputs)]
    assert len(relus) >= 2
    text = Path(__file__).read_text().splitlines()
    line = next(i for i, words in enumerate(text, 1) if words.endswith("# the line that is meant"))
    assert {(o.origin.file, o.origin.line) for o in relus} == {(__file__, line)}
    products = [o for o in graph.ops if o.target in ("aten.addmm.default", "aten.mm.default")]
    assert {o.origin.module for o in products} == {"layers.0", "layers.1"}
    torch.compiler.reset()


@pytest.mark.spec("IR-01")
def test_what_the_program_says_of_its_operations_stands_with_them():
    """Forward and backward, within what is said and nowhere else; told in plain words, whatever was said."""

    @torch.compile(backend="lowtide", options={"kernels": "aten"})
    def f(x: torch.Tensor) -> torch.Tensor:
        with annotate({"stage": 1}):
            x = x.sin()
            with annotate({"part": "en\ncoder", "kept": [1, 2]}):
                x = x.exp()
        return (x @ x.t()).sum()

    torch.compiler.reset()
    f(X.clone().requires_grad_()).backward()
    graph = records()[-1].planned[0].schedule.graph
    tags = {o.target.split(".")[1]: o.origin.tags for o in graph.sections[0].ops}
    assert (tags["sin"], tags["exp"], tags["mm"]) == (("stage=1",), ("part=en_coder", "stage=1"), ())
    backward = {o.target.split(".")[1]: o.origin.tags for o in graph.sections[1].ops}
    assert backward["cos"] == ("stage=1",)
    assert str(op(graph, "exp").origin).endswith("[part=en_coder stage=1]")
    assert graph.value["exp"].origin == op(graph, "exp").origin
    torch.compiler.reset()


def test_names_are_usable():
    gm = make_fx(lambda x: [x * 2 + 1], tracing_mode="fake")(X)
    for node, name in zip(gm.graph.nodes, ("h0", "exact", "_"), strict=False):
        node.name = name
    graph, _ = import_graph("g", [("inference", gm)])
    assert all(usable(v.name) for v in graph.values)
    assert len({v.name for v in graph.values}) == len(graph.values) == 3


@pytest.mark.spec("IR-04")
def test_saved_values_are_inputs_of_the_next_section():
    fw = make_fx(lambda x: [x * 2, x + 1, aten.t.default(x)], tracing_mode="fake")(X)
    bw = make_fx(lambda a, b, g: [a * g, b * 2], tracing_mode="fake")(X, X.t(), X)
    for placeholder, name in zip(bw.graph.find_nodes(op="placeholder"), ("add", "t"), strict=False):
        placeholder.name = name
    graph, _ = import_graph("g", [("forward", fw), ("backward", bw)], kept=1)
    verify(graph)
    assert graph.sections[0].saved == (1, 2)
    assert graph.sections[1].inputs[:2] == (Ref("add"), Ref("t")) == graph.sections[0].returns[1:]
    assert "add" not in graph.caller_owned
    assert len({o.name for o in graph.ops}) == len(graph.ops), "names differ over all sections"


def with_val(value: Any) -> Any:
    gm = make_fx(lambda x: [x * 2], tracing_mode="fake")(X)
    gm.graph.find_nodes(op="placeholder")[0].meta["val"] = value
    return gm


@pytest.mark.spec("G12")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: m.from_tensor(torch.eye(3).to_sparse()), "torch.sparse_coo values are not planned"),
        (lambda m: m.from_tensor(torch.zeros(3).to(torch.float8_e5m2fnuz)), "float8_e5m2fnuz"),
        (lambda m: 1.5, "is a float"),
        (lambda m: "text", "is a str"),
    ],
    ids=["sparse", "dtype", "float", "str"],
)
def test_inputs_that_cannot_be_expressed(make: Callable[[Any], Any], says: str):
    with torch._subclasses.FakeTensorMode() as mode:
        value = make(mode)
    with pytest.raises(Unsupported, match=says):
        import_graph("g", [("inference", with_val(value))])


@pytest.mark.spec("G12")
def test_calls_that_cannot_be_expressed():
    gm = with_val(make_fx(lambda x: [x * 2], tracing_mode="fake")(X).graph.find_nodes(op="placeholder")[0].meta["val"])
    (call,) = gm.graph.find_nodes(op="call_function", target=aten.mul.Tensor)
    call.target = len
    with pytest.raises(Unsupported, match="len: is not an operator"):
        import_graph("g", [("inference", gm)])
    call.target, call.args = aten.mul.Tensor, (call.args[0], slice(1, 2))
    with pytest.raises(Unsupported, match="takes a slice argument"):
        import_graph("g", [("inference", gm)])
    call.op = "call_method"
    with pytest.raises(Unsupported, match="fx node kind 'call_method'"):
        import_graph("g", [("inference", gm)])


def test_sizes():
    import sympy
    from torch.utils._sympy.functions import FloorDiv, Mod, ModularIndexing

    from lowtide.frontend import sizes
    from lowtide.ir.symbolic import evaluate

    s, t = sympy.Symbol("s0", integer=True, positive=True), sympy.Symbol("s1", integer=True, positive=True)
    at = {"s0": 13, "s1": 4}
    for e, wanted in [
        (3 * s + t, 43), (s * s * t, 676), (FloorDiv(s, t), 3), (Mod(s, t), 1), (ModularIndexing(s, 2, 4), 2),
        (sympy.Integer(7), 7), (FloorDiv(s + t, 2) - 1, 7),
    ]:  # fmt: skip
        assert evaluate(sizes._convert(e), at) == wanted
    assert dim_of(5) == 5
    with pytest.raises(Unsupported, match="no counterpart"):
        sizes._convert(sympy.sin(s))


def test_statistics_of_mixed_normalisations_have_the_type_that_they_really_have():
    x, w, wide = torch.zeros(2, 4, 3, 6, dtype=torch.bfloat16), torch.ones(4), torch.ones(6)
    calls: dict[str, tuple[Callable[..., Any], list[torch.Tensor]]] = {
        "native_layer_norm": (lambda x, w: aten.native_layer_norm.default(x, [6], w, None, 1e-5), [x, wide]),
        "native_group_norm": (lambda x, w: aten.native_group_norm.default(x, w, w, 2, 4, 18, 2, 1e-5), [x, w]),
        "native_batch_norm": (
            lambda x, m, v: aten.native_batch_norm.default(x, None, None, m, v, True, 0.1, 1e-5), [x, w, w.clone()],
        ),
    }  # fmt: skip
    for name, (call, args) in calls.items():
        graph = traced(call, *args)
        names = op(graph, name).outputs
        assert [graph.value[str(n)].layout.dtype for n in names] == ["bf16", "f32", "f32"]
        assert [t.dtype for t in call(*args)] == [torch.bfloat16, torch.float32, torch.float32]
    graph = traced(lambda x, w: aten.detach.default(calls["native_layer_norm"][0](x, w)[1]), x, wide)
    assert graph.value["detach"].layout.dtype == "f32"
    graph = traced(calls["native_layer_norm"][0], x, wide.bfloat16())
    assert {graph.value[str(n)].layout.dtype for n in op(graph, "native_layer_norm").outputs} == {"bf16"}


@pytest.mark.spec("IR-06")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda v: (v, "word"), "has a str among its results"),
        (lambda v: (v, {1.5: v}), "has a dict among its results"),
        (lambda v: 1.5, "gives a scalar that depends on data"),
        (lambda v: "word", "returns a str"),
        (lambda v: (v, v.to_sparse()), "torch.sparse_coo values are not planned"),
    ],
    ids=["text in a list", "key", "scalar", "text", "sparse"],
)
def test_results_of_another_kind_are_named(make: Callable[[torch.Tensor], Any], says: str):
    """A call gives nothing, a tensor, or a nest of tensors and numbers; what is not taken out of it may be anything."""
    gm = make_fx(lambda x: [aten.split.Tensor(x, 2)[1] * 2], tracing_mode="fake")(X)
    gm.graph.eliminate_dead_code()
    (call,) = gm.graph.find_nodes(op="call_function", target=aten.split.Tensor)
    value = gm.graph.find_nodes(op="placeholder")[0].meta["val"]
    with value.fake_mode:
        call.meta["val"] = make(value)
    with pytest.raises(Unsupported, match=says):
        import_graph("g", [("inference", gm)])
    call.meta["val"] = ([value], value)
    graph, _ = import_graph("g", [("inference", gm)])
    assert op(graph, "split").outputs == (None, "split_1")


@pytest.mark.spec("IR-05", "IR-11")
def test_every_kind_of_value_is_asked_in_one_way():
    """Inputs, constants, results, one of several, views, what is changed, other dtypes, no dimensions, no elements."""
    given = [
        X,
        torch.zeros(3, 8)[:, 1:7:2],
        torch.zeros((), dtype=torch.int64),
        torch.zeros(0, 5, dtype=torch.bfloat16),
    ]

    def f(a: torch.Tensor, b: torch.Tensor, n: torch.Tensor, none: torch.Tensor) -> list[torch.Tensor]:
        parts = aten.split.Tensor(a + 1, 3, 1)
        norm, mean, _ = aten.native_layer_norm.default(b, [3], None, None, 1e-5)
        shown = aten.select.int(aten.t.default(norm), 0, 2)
        aten.add_.Tensor(n, 1)
        return [*parts, mean, shown, aten.expand.default(n, [4, 2]), aten.view.dtype(a * 2, torch.int32), none * 2]

    gm = make_fx(f, tracing_mode="fake")(*given)
    gm.graph.eliminate_dead_code()
    graph, _ = import_graph("g", [("inference", gm)])
    values: dict[str, torch.Tensor] = {}
    for node in gm.graph.nodes:
        val = node.meta.get("val")
        several = isinstance(val, tuple | list)
        values |= {f"{node}_{i}": t for i, t in enumerate(val)} if several else {str(node): val}
    asked = [v for v in graph.values if v.name in values]
    assert len(asked) >= 15
    for v in asked:
        t, y = values[v.name], v.layout
        assert (y.dtype, y.device) == (DTYPES[t.dtype], "cpu")
        assert (y.size, y.stride, y.offset) == (tuple(t.shape), t.stride(), t.storage_offset())
        assert y.extent <= graph.nbytes[v.storage]
    norm = op(graph, "native_layer_norm")
    assert norm.outputs[2] is None and "native_layer_norm_2" not in graph.value, "what nobody uses is no value"
    with pytest.raises(KeyError, match="nothing"):
        graph.value["nothing"]


@pytest.mark.spec("IR-01")
def test_what_is_known_of_a_value_is_fixed_when_it_is_made():
    graph = traced(lambda x: x * 2, X)
    value = graph.value["mul"]
    for record, field in ((value, "origin"), (value.layout, "size"), (graph.ops[0], "mutates"), (graph, "values")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field, ())


@pytest.mark.spec("IR-01")
def test_graphs_imported_side_by_side_keep_their_own_lines():
    """Where a value comes from is read from its own node: there is no scope that another thread could be in."""

    def made(line: int) -> Any:
        gm = make_fx(lambda x: [x * 2 + 1], tracing_mode="fake")(X)
        for k, node in enumerate(gm.graph.nodes):
            node.meta["stack_trace"] = f'  File "/u/net{line}.py", line {line + k}, in forward\n'
            node.meta["nn_module_stack"] = {"m": (f"L['self'].layers.{line}", torch.nn.ReLU)}
        return gm

    modules = [made(100 * k) for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        graphs = list(pool.map(lambda gm: import_graph("g", [("inference", gm)])[0], modules))
    for k, graph in enumerate(graphs):
        assert [v.origin for v in graph.values] == [
            Origin(f"/u/net{100 * k}.py", 100 * k + j, f"layers.{100 * k}") for j in range(3)
        ]


@pytest.mark.spec("IR-26")
def test_complex_numbers_seen_as_pairs_stand_on_the_same_bytes():
    z = torch.zeros(3, 2, dtype=torch.complex64)
    graph = traced(lambda z: aten.select.int(aten.view_as_real.default(z + 1), 2, 1) * 2, z)
    pairs = graph.value["view_as_real"]
    assert op(graph, "view_as_real").view and pairs.storage == "add"
    assert (pairs.layout.dtype, pairs.layout.size, pairs.layout.stride) == ("f32", (3, 2, 2), (4, 2, 1))
    assert graph.value["select"].storage == "add" and "view_as_real" not in graph.nbytes
    back = traced(lambda x: aten.view_as_complex.default(x + 1) * 2, torch.zeros(3, 2))
    assert op(back, "view_as_complex").view and back.value["view_as_complex"].storage == "add"
