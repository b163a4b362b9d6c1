"""Operators as nodes: what their schema says of arguments, aliases and changes, and where their results may lie."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from lowtide.codegen.host import emit
from lowtide.core.errors import Unsupported
from lowtide.core.options import Options
from lowtide.executor.capture import import_block
from lowtide.frontend.fx_import import import_graph
from lowtide.ir.graph import Graph, Op
from lowtide.ir.symbolic import Expr, symbol
from lowtide.ir.verify import verify
from lowtide.lowering.rules import RECORDS
from lowtide.memory.lifetime import lifetimes
from lowtide.plan.choose import plan_memory
from lowtide.runtime.calls import overload
from lowtide.runtime.probe import probe
from lowtide.schedule.schedule import memory_graph, schedule

pytestmark = pytest.mark.torch
aten = torch.ops.aten
kinds = torch.ops.lowtide_kinds
X = torch.zeros(4, 6)
SCHEMAS = {
    "new(Tensor x, *, float by=2.0) -> Tensor": (lambda x, by=2.0: x * by, lambda x, by=2.0: torch.empty_like(x)),
    "part(Tensor(a) x) -> Tensor(a)": (lambda x: x[1:], lambda x: x[1:]),
    "two(Tensor(a!) x, Tensor y, *, Tensor(b!) z) -> ()": (lambda x, y, z: None, lambda x, y, z: None),
    "all_of(Tensor(a!)[] xs, Tensor y) -> ()": (lambda xs, y: None, lambda xs, y: None),
    "itself(Tensor(a!) x) -> Tensor(a!)": (lambda x: x.add_(1), lambda x: x),
    "sized(Tensor x) -> (Tensor, SymInt)": (lambda x: (x * 2, x.size(0)), lambda x: (torch.empty_like(x), x.size(0))),
    "many(Tensor x, Tensor y, int n=3, int[] m=[1], *, float by, str s='a') -> Tensor": (
        lambda x, y, n=3, m=(1,), by=0.0, s="a": x * by,
        lambda x, y, n=3, m=(1,), by=0.0, s="a": torch.empty_like(x),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def operators() -> Iterator[None]:
    library = torch.library.Library("lowtide_kinds", "FRAGMENT")
    for schema, (real, fake) in SCHEMAS.items():
        library.define(schema)
        library.impl(schema.partition("(")[0], real, "CPU")
        library.impl(schema.partition("(")[0], fake, "Meta")
    yield
    library._destroy()


def traced(f: Callable[..., Any], *args: Any) -> tuple[Graph, Any]:
    gm = make_fx(lambda *given: list(f(*given)), tracing_mode="fake")(*args)
    graph, _ = import_graph("g", [("inference", gm)])
    verify(graph)
    return graph, gm


def op(graph: Graph, name: str) -> Op:
    return next(o for o in graph.ops if o.target.split(".")[1] == name)


@pytest.mark.spec("IR-48", "IR-50")
def test_aliases_and_changes_are_read_from_the_schema():
    def f(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
        s = kinds.new(x)
        kinds.two(s, y, z=z)
        kinds.all_of([s, z], y)
        return [kinds.part(s), kinds.itself(s)]

    graph, _ = traced(f, X, X, X)
    inputs = [i.name for i in graph.sections[0].inputs]
    new, part, two, every, itself = (op(graph, n) for n in ("new", "part", "two", "all_of", "itself"))
    made = new.outputs[0]
    assert (new.view, new.mutates, graph.value[made].storage) == (False, (), made)
    assert part.view and graph.value[part.outputs[0]].storage == made
    assert (two.mutates, two.outputs, two.returns) == ((made, inputs[2]), (), "none")
    assert (every.mutates, every.view) == ((made, inputs[2]), False)
    assert itself.mutates == (made,) and not itself.view and graph.value[itself.outputs[0]].storage == made


@pytest.mark.spec("IR-48", "G12")
def test_an_operator_whose_result_is_no_tensor_is_refused_by_name():
    _, gm = traced(lambda x: [kinds.new(x)], X)
    call = next(n for n in gm.graph.nodes if n.op == "call_function")
    call.meta["val"] = object()
    with pytest.raises(Unsupported, match=r"lowtide_kinds\.new\.default: returns a object"):
        import_graph("g", [("inference", gm)])


@pytest.mark.spec("IR-49")
def test_a_size_among_the_results_is_an_expression_over_the_inputs():
    def f(x: torch.Tensor) -> list[torch.Tensor]:
        y, n = kinds.sized(x)
        return [aten.new_zeros.default(y, [n, 2])]

    gm = make_fx(f, tracing_mode="symbolic")(X)
    graph, _ = import_graph("g", [("inference", gm)])
    verify(graph)
    (size, _) = graph.value[graph.sections[0].inputs[-1].name].layout.size
    made, zeros = op(graph, "sized"), op(graph, "new_zeros")
    assert made.outputs[1] is None and zeros.args[1] == (size, 2)
    compiled = torch.compile(lambda x: f(x)[0], backend="lowtide", dynamic=True)
    for n in (3, 5):
        assert compiled(torch.ones(n, 6)).shape == (n, 2)


def taken_apart(x: torch.Tensor, t: torch.Tensor, other: bool = False) -> Any:
    """The graph of a program that cuts ``t`` by a size among an operator's results. ``other``: by one that nothing else says."""
    gm = make_fx(lambda x, t: [aten.slice.Tensor(t, 0, 0, aten.sym_size.int(x[x > 0], 0))], tracing_mode="symbolic")(
        x, t
    )
    (picked,) = gm.graph.find_nodes(op="call_function", target=aten.index.Tensor)
    (size,) = gm.graph.find_nodes(op="call_function", target=aten.sym_size.int)
    val = picked.meta["val"]
    with gm.graph.inserting_before(size):
        call = gm.graph.call_function(kinds.sized.default, (picked,))
        first, second = (gm.graph.call_function(operator.getitem, (call, i)) for i in range(2))
    n = val.fake_mode.shape_env.create_unbacked_symint() if other else size.meta["val"]
    call.meta["val"], first.meta["val"], second.meta["val"] = (val, n), val, n
    size.replace_all_uses_with(second)
    gm.graph.erase_node(size)
    gm.recompile()
    return gm


@pytest.mark.spec("IR-49", "IR-48")
def test_a_size_among_the_results_that_depends_on_data():
    x, t = torch.tensor([1.0, -1.0, 2.0, 3.0, -4.0]), torch.arange(10.0)
    gm = taken_apart(x, t)
    with pytest.raises(Unsupported, match="depends on data"):
        import_graph("g", [("inference", gm)])
    block, _ = import_block("g", gm)
    cut = next(line.op for line in block.lines if line.op.target == "aten.slice.Tensor")
    (size,) = block.graph.value[op(block.graph, "sized").reads[0]].layout.size
    assert isinstance(size, Expr) and cut.args[3] == size
    block, _ = import_block("g", taken_apart(x, t, other=True))
    sized = next(line for line in block.lines if line.op.target == "lowtide_kinds.sized.default")
    cut = next(line.op for line in block.lines if line.op.target == "aten.slice.Tensor")
    assert [(b.output, b.dim) for b in sized.binds] == [(1, None)]
    assert cut.args[3] == symbol(sized.binds[0].symbol), "nothing else says it"


@pytest.mark.spec("IR-49")
def test_a_program_with_a_size_among_its_results_that_depends_on_data():
    def f(x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        y, n = kinds.sized(x[x > 0])
        return y, t[:n], n

    torch.compiler.reset()
    with torch.no_grad(), torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(f, backend="lowtide")
        for x in (torch.tensor([1.0, -1.0, 2.0, 3.0, -4.0]), torch.tensor([1.0, -1.0, -2.0, -3.0, -4.0])):
            t = torch.arange(10.0)
            for got, want in zip(compiled(x, t), f(x, t), strict=True):
                assert torch.equal(got, want) if isinstance(want, torch.Tensor) else got == want
    torch.compiler.reset()


CALLS = [  # by place and by name, and what the operation then is: x and y stand for the inputs
    (("x", "y"), {"by": 1.0}, ("x", "y"), {"by": 1.0}),
    (("x",), {"y": "y", "by": 1.0}, ("x", "y"), {"by": 1.0}),
    ((), {"y": "y", "by": 1.0, "x": "x"}, ("x", "y"), {"by": 1.0}),
    (("x", "y"), {"m": [2], "by": 1.0}, ("x", "y", 3, (2,)), {"by": 1.0}),
    (("x", "y", 4), {"s": "b", "by": 1.0}, ("x", "y", 4), {"by": 1.0, "s": "b"}),
]


def called(args: Any, kwargs: Any) -> Graph:
    """The graph of one call, whatever its arguments; "x" and "y" are the graph's inputs."""
    _, gm = traced(lambda x, y: [kinds.many(x, y, by=2.0)], X, X)
    given = dict(zip("xy", (n for n in gm.graph.nodes if n.op == "placeholder"), strict=True))
    call = next(n for n in gm.graph.nodes if n.op == "call_function")
    call.args = tuple(given.get(a, a) if isinstance(a, str) else a for a in args)
    call.kwargs = {k: given.get(a, a) if isinstance(a, str) else a for k, a in kwargs.items()}
    return import_graph("g", [("inference", gm)])[0]


@pytest.mark.spec("IR-46")
@pytest.mark.parametrize(("args", "kwargs", "placed", "named"), CALLS)
def test_arguments_stand_in_the_order_of_the_schema(args: Any, kwargs: Any, placed: Any, named: Any):
    graph = called(args, kwargs)
    inputs = dict(zip("xy", graph.sections[0].inputs, strict=True))
    made = op(graph, "many")
    assert made.args == tuple(inputs.get(a, a) if isinstance(a, str) else a for a in placed)
    assert dict(made.kwargs) == named


@pytest.mark.spec("IR-46", "G12")
@pytest.mark.parametrize(
    ("args", "kwargs", "because"),
    [
        (("x",), {"by": 1.0}, "is called without its argument y"),
        (("x", "y"), {}, "is called without its argument by"),
        (("x", "y", 3, [1], 1.0), {}, "is given 5 arguments by their place, and takes 4"),
        (("x", "y"), {"by": 1.0, "y": "x"}, "is given y twice"),
        (("x", "y"), {"by": 1.0, "of": 3}, "takes no argument called of"),
    ],
)
def test_a_call_that_does_not_fit_its_schema_is_an_error_of_our_own(args: Any, kwargs: Any, because: str):
    with pytest.raises(Unsupported, match=rf"lowtide_kinds\.many\.default: {because}"):
        called(args, kwargs)


@pytest.mark.spec("IR-49")
def test_each_result_has_bytes_and_an_end_of_its_own():
    def f(x: torch.Tensor) -> list[torch.Tensor]:
        best, at = aten.max.dim(x * 2, 1)
        return [(best * 2).exp().sum() + (at * 3).sum()]

    graph, _ = traced(f, X)
    best, at = op(graph, "max").outputs
    assert (graph.nbytes[best], graph.nbytes[at]) == (4 * 4, 4 * 8)
    lives = {x.name: x for x in lifetimes(memory_graph(schedule(graph, {}, inplace=False)))}
    assert lives[best].first == lives[at].first and lives[best].end < lives[at].end
    graph, _ = traced(lambda x: [p + 1 for p in aten.split.Tensor(x * 2, 2)], X)
    parts = op(graph, "split").outputs
    assert [graph.value[p].storage for p in parts] == ["mul", "mul"]  # on what their parent stands on
    assert [x.name for x in lifetimes(memory_graph(schedule(graph, {}))) if x.name in parts] == []


@pytest.mark.spec("IR-45")
def test_only_what_writes_into_given_memory_lies_in_a_slab():
    def f(x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
        y = kinds.new(x @ w)
        return [(kinds.new(y @ w) @ w).sum()]

    graph, _ = traced(f, torch.randn(8, 8), torch.randn(8, 8))
    made = schedule(graph, probe(graph))
    plan = plan_memory(made, Options(slabs="one"))
    program = emit(made, plan)
    results = {s.op.target.split(".")[1]: set[bool]() for s in made.steps}
    for s in made.steps:
        place = plan.place[s.op.outputs[0]]
        results[s.op.target.split(".")[1]].add(place.slab is not None)
        if place.slab is not None:
            assert s.facts.out is not None
    assert results["mm"] == {True} and results["new"] == {False}
    assert all("out=" in line for line in program.source.splitlines() if "mm_out(" in line)
    assert program.source.count("mm_out(") == 3 and "new" in program.source


def _rule(target: str) -> tuple[Callable[..., Any], int]:
    """The function that takes an operator's arguments, and how many come before them."""
    record = RECORDS[target]
    return record.takes, int(record.takes is record.rule)


def _plain(default: Any) -> Any:
    """One form for what means the same: nothing as None, the same number in every dimension as that number."""
    if not isinstance(default, list | tuple):
        return default
    return None if not default else default[0] if len(set(default)) == 1 else tuple(default)


@pytest.mark.spec("IR-46")
def test_lowering_rules_take_every_argument_and_have_the_schemas_defaults():
    wrong: list[str] = []
    for target in RECORDS:
        function, before = _rule(target)
        taken = list(inspect.signature(function).parameters.values())[before:]
        by_place = [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        by_name = {p.name: p for p in taken}
        rest = any(p.kind == p.VAR_KEYWORD for p in taken)
        many = any(p.kind == p.VAR_POSITIONAL for p in taken)
        placed = [a for a in overload(target)._schema.arguments if not a.kwarg_only]
        for k, a in enumerate(overload(target)._schema.arguments):
            if a.kwarg_only:
                p = by_name.get(a.name)
                excused = rest
            else:
                p = by_place[k] if k < len(by_place) else None
                excused = many
            if p is None:
                wrong += [] if excused else [f"{target} does not take {a.name}"]
            elif a.has_default_value():
                default, given = _plain(a.default_value), _plain("none" if p.default is p.empty else p.default)
                if given != default:
                    wrong.append(f"{target}: {a.name} is {default!r}, its rule says {given!r}")
        if len(by_place) < len(placed) and not many:
            wrong.append(f"{target} takes {len(by_place)} of {len(placed)}")
    assert not wrong, "\n".join(wrong)
