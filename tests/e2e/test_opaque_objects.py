"""Objects that a program hands to operators without anybody looking into them: named inputs of the plan."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._library.opaque_object import get_opaque_type_name, register_opaque_type
from torch._opaque_base import OpaqueBase
from torch.fx.experimental.proxy_tensor import make_fx

import lowtide
from lowtide.backend import build_planned
from lowtide.core.options import Options
from lowtide.frontend.fx_import import import_graph
from lowtide.ir.text import parse, print_graph
from lowtide.ir.verify import verify
from lowtide.runtime.records import Record, records

pytestmark = [pytest.mark.torch, pytest.mark.spec("IR-72"), pytest.mark.usefixtures("fresh_compiler")]
OPTIONS = {"verify": True}


class Counter(OpaqueBase):
    """Two tensors and a number that its operators change."""

    def __init__(self) -> None:
        self.seen = 0
        self.table, self.more = torch.arange(6.0), {"scale": torch.full((3,), 2.0, dtype=torch.float64)}


register_opaque_type(Counter, typ="reference")
_library = torch.library.Library("lowtide_opaque", "FRAGMENT")
_library.define(f"counted({get_opaque_type_name(Counter)} counter, Tensor x) -> Tensor")


@torch.library.impl(_library, "counted", "CompositeExplicitAutograd")
def _counted(counter: Counter, x: Tensor) -> Tensor:
    counter.seen += 1
    return x * counter.table[: x.shape[-1]] * counter.more["scale"][0].float() + counter.seen


torch.library.register_fake("lowtide_opaque::counted", lambda counter, x: torch.empty_like(x), lib=_library)


def step(counter: Counter, x: Tensor, w: Tensor) -> Tensor:
    """Two calls that may change places, were it not for the object: the first one's result is larger and read last."""
    first = torch.ops.lowtide_opaque.counted(counter, (x @ w).sin())
    second = torch.ops.lowtide_opaque.counted(counter, x[:2].cos())
    return second.sum().tanh() + first


@pytest.mark.parametrize("kernels", ["loops", "aten"])
def test_an_object_is_a_named_input_whose_operators_keep_their_order(kernels: str):
    ours, eagers = Counter(), Counter()
    x, w = torch.randn(4, 3), torch.randn(3, 3)
    compiled = torch.compile(step, backend="lowtide", options={**OPTIONS, "kernels": kernels})
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(ours, x, w), step(eagers, x, w))
    assert ours.seen == eagers.seen == 4
    (record,) = records()
    assert record.fallback is None
    graph = record.planned[0].schedule.graph
    (held,) = [v for v in graph.values if v.layout.dtype == "object"]
    assert graph.nbytes[held.name] == 6 * 4 + 3 * 8, "the bytes of the tensors in it"
    assert held.name in graph.caller_owned
    calls = [op for op in graph.ops if op.target == "lowtide_opaque.counted.default"]
    assert [op.mutates for op in calls] == [(held.name,)] * 2
    verify(graph)
    assert parse(print_graph(graph)) == graph


def test_an_object_costs_the_program_nothing():
    counter, x, w = Counter(), torch.randn(64, 3), torch.randn(3, 3)
    compiled = torch.compile(step, backend="lowtide", options=OPTIONS)
    with torch.no_grad():
        compiled(counter, x, w)
        found = lowtide.memory_analysis(lambda: compiled(counter, x, w))
    tensors = sum(t.nbytes for t in (x, w, counter.table, counter.more["scale"]))
    assert found.graphs[0].argument_bytes == tensors
    assert found.measured_peak_bytes is not None and found.measured_peak_bytes >= found.promised_peak_bytes > 0


def test_an_object_is_there_where_the_plan_is_made_as_it_runs():
    def f(counter: Counter, x: Tensor) -> Tensor:
        y = torch.ops.lowtide_opaque.counted(counter, x.sin())
        return (y[y > 1].exp() + 1).sum() + torch.ops.lowtide_opaque.counted(counter, y.cos()).sum()

    ours, eagers = Counter(), Counter()
    compiled = torch.compile(f, backend="lowtide", options=OPTIONS)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        for _ in range(4):
            x = torch.randn(4, 3)
            torch.testing.assert_close(compiled(ours, x), f(eagers, x))
    (record,) = records()
    assert record.at_run_time and record.fallback is None


def test_an_object_is_there_in_training():
    ours, eagers = Counter(), Counter()
    given = [torch.randn(4, 3, requires_grad=True) for _ in range(2)]
    given[1].data.copy_(given[0].data)
    w = torch.randn(3, 3)

    def f(counter: Counter, x: Tensor, w: Tensor) -> Tensor:
        return (torch.ops.lowtide_opaque.counted(counter, x.detach()) * (x @ w).sin()).sum()

    compiled = torch.compile(f, backend="lowtide", options=OPTIONS)
    compiled(ours, given[0], w).backward()
    f(eagers, given[1], w).backward()
    torch.testing.assert_close(given[0].grad, given[1].grad)
    assert [r.fallback for r in records()] == [None]


class Box(OpaqueBase):
    """Keeps the tensor that it is made of."""

    def __init__(self, held: Tensor) -> None:
        self.held = held


register_opaque_type(Box, typ="reference")
_BOX = get_opaque_type_name(Box)
for _schema in (
    f"boxed(Tensor x) -> {_BOX}",
    f"halved(Tensor x) -> ({_BOX}, Tensor)",
    f"opened({_BOX} box, Tensor x) -> Tensor",
    f"swapped({_BOX} box, Tensor x) -> Tensor",
    f"appended({_BOX} box, Tensor x) -> Tensor",
):
    _library.define(_schema)


@torch.library.impl(_library, "swapped", "CompositeExplicitAutograd")
def _swapped(box: Box, x: Tensor) -> Tensor:
    before, box.held = box.held, x
    return before.clone()


@torch.library.impl(_library, "appended", "CompositeExplicitAutograd")
def _appended(box: Box, x: Tensor) -> Tensor:
    box.held = box.held + x
    return box.held


torch.library.impl(_library, "boxed", "CompositeExplicitAutograd")(Box)
torch.library.impl(_library, "halved", "CompositeExplicitAutograd")(lambda x: (Box(x / 2), x + 1))
torch.library.impl(_library, "opened", "CompositeExplicitAutograd")(lambda box, x: box.held + x)
torch.library.register_fake("lowtide_opaque::boxed", lambda x: Box(torch.empty_like(x)), lib=_library)
torch.library.register_fake(
    "lowtide_opaque::halved", lambda x: (Box(torch.empty_like(x)), torch.empty_like(x)), lib=_library
)
torch.library.register_fake("lowtide_opaque::opened", lambda box, x: torch.empty_like(x), lib=_library)
for _name in ("swapped", "appended"):
    torch.library.register_fake(f"lowtide_opaque::{_name}", lambda box, x: torch.empty_like(x), lib=_library)
ours = torch.ops.lowtide_opaque


def made(x: Tensor) -> tuple[Tensor, Box]:
    """Objects among results: alone, in a tuple, and one that the caller gets. What each is made of dies at once for whoever does
    not know what the object keeps, and others would lie there."""
    box = ours.boxed(x.sin())
    y = (x * 3).cos().exp() + 1
    both, z = ours.halved(y.tanh())
    kept = ours.boxed((z * 2).relu() + 1)
    for _ in range(3):
        z = (z.sigmoid() * 2).tanh()
    return ours.opened(box, z) + ours.opened(both, y), kept


@pytest.mark.parametrize("kernels", ["loops", "aten"])
@pytest.mark.parametrize("slabs", ["auto", "one"])
def test_objects_among_results_keep_what_they_were_made_of(kernels: str, slabs: str):
    compiled = torch.compile(made, backend="lowtide", options={**OPTIONS, "kernels": kernels, "slabs": slabs})
    x = torch.randn(32, 8)
    with torch.no_grad():
        for _ in range(3):
            (got, box), (wanted, theirs) = compiled(x), made(x)
            torch.testing.assert_close(got, wanted)
            assert type(box) is Box
            torch.testing.assert_close(box.held, theirs.held)
    (record,) = records()
    assert record.fallback is None
    graph = record.planned[0].schedule.graph
    objects = [v for v in graph.values if v.layout.dtype == "object"]
    assert [graph.nbytes[v.name] for v in objects] == [x.nbytes] * 3, "the bytes of the tensor in each"
    verify(graph)
    assert parse(print_graph(graph)) == graph


def test_an_object_that_is_given_may_keep_what_it_is_given():
    def f(last: Box, x: Tensor) -> Tensor:
        before = ours.swapped(last, (x * 2).sin())
        y = x
        for _ in range(4):
            y = (y.cos() + 1).tanh()
        return before + y + ours.swapped(last, y.exp())

    compiled = torch.compile(f, backend="lowtide", options={**OPTIONS, "slabs": "one"})
    states = [Box(torch.zeros(16, 16)) for _ in range(2)]
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(16, 16)
            torch.testing.assert_close(compiled(states[0], x), f(states[1], x))
            torch.testing.assert_close(states[0].held, states[1].held)
    assert [r.fallback for r in records()] == [None]


@pytest.mark.parametrize("slabs", ["auto", "one"])
def test_an_object_that_is_given_may_keep_what_it_gives(slabs: str):
    def f(box: Box, x: Tensor) -> Tensor:
        y = (ours.appended(box, x) * 2).cos()
        return y @ y

    compiled = torch.compile(f, backend="lowtide", options={**OPTIONS, "slabs": slabs})
    states = [Box(torch.zeros(16, 16)) for _ in range(2)]
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(16, 16)
            torch.testing.assert_close(compiled(states[0], x), f(states[1], x))
            torch.testing.assert_close(states[0].held, states[1].held)
    assert [r.fallback for r in records()] == [None]


def test_an_object_is_made_where_the_plan_is_made_as_it_runs():
    def f(x: Tensor) -> tuple[Tensor, Box]:
        rows = x[x[:, 0] > 0]
        box = ours.boxed((rows * 2).sin())
        y = (rows.cos() + 1).tanh()
        return ours.opened(box, y).sum(), ours.boxed(y.exp())

    compiled = torch.compile(f, backend="lowtide", options=OPTIONS)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        for _ in range(4):
            x = torch.randn(16, 4)
            (got, box), (wanted, theirs) = compiled(x), f(x)
            torch.testing.assert_close(got, wanted)
            torch.testing.assert_close(box.held, theirs.held)
    (record,) = records()
    assert record.at_run_time and record.fallback is None


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_packed_weights_are_a_constant():
    """An object of torch's own (TorchBind), which of all that captures only ``make_fx`` takes in."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch packs no weights here")
    weight = torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, None)

    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [torch.ops.quantized.linear_dynamic(x.sin(), self.packed).relu() + 1]

    net, x = Net(), torch.rand(2, 4)
    net.packed = packed
    gm = make_fx(net, tracing_mode="fake")(x)
    graph, constants = import_graph("g", [("inference", gm)])
    verify(graph)
    (name,) = graph.constants
    assert graph.value[name].layout.dtype == "object" and graph.nbytes[name] == weight.numel()
    assert isinstance(constants[name], torch.ScriptObject) and name in graph.caller_owned
    record = Record("packed")
    found = build_planned(record, Options.of(OPTIONS), [("inference", gm)], None)
    assert found is not None, record.fallback
    for _ in range(2):
        torch.testing.assert_close(found.section(0)([x]), net(x))
