"""fx graphs as Graphs: views, several results, mutation, constants, symbols without guards, provenance, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from lowtide.core.errors import Unsupported
from lowtide.frontend.fx_import import import_graph
from lowtide.frontend.sizes import dim_of
from lowtide.ir.graph import Graph, Op, Ref
from lowtide.ir.symbolic import Expr, symbols_of
from lowtide.ir.verify import verify
from lowtide.program import usable

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

    from lowtide.runtime.records import records

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


def test_names_are_usable():
    gm = make_fx(lambda x: [x * 2 + 1], tracing_mode="fake")(X)
    for node, name in zip(gm.graph.nodes, ("h0", "exact", "_"), strict=False):
        node.name = name
    graph, _ = import_graph("g", [("inference", gm)])
    assert all(usable(v.name) for v in graph.values)
    assert len({v.name for v in graph.values}) == len(graph.values) == 3


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
        (lambda m: m.from_tensor(torch.zeros(3, device="meta")), "lies on meta"),
        (lambda m: m.from_tensor(torch.zeros(3).to(torch.float8_e5m2fnuz)), "float8_e5m2fnuz"),
        (lambda m: 1.5, "is a float"),
        (lambda m: "text", "is a str"),
    ],
    ids=["sparse", "meta", "dtype", "float", "str"],
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
