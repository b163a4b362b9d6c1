"""The contract with torch: every private part that we use exists and does what we take it to do (torch 2.11 to 2.13)."""

from __future__ import annotations

import functools
import logging

import pytest
import torch
from torch._library.opaque_object import register_opaque_type
from torch._opaque_base import OpaqueBase
from torch.fx.experimental.proxy_tensor import make_fx

from lowtide import torch_compat as c

pytestmark = pytest.mark.torch
aten = torch.ops.aten


def test_everything_named_is_there():
    assert all(hasattr(c, name) for name in c.__all__)
    assert sorted(c.__all__, key=str.lower) == sorted(set(c.__all__), key=str.lower)


def test_no_test_has_torch_write_down_what_it_compiles():
    """It does for whoever listens to its trace, and pytest would (tests/conftest.py)."""
    listening = logging.getLogger("torch.__trace").handlers
    assert not [h for h in listening if type(h).__module__.startswith("_pytest")]


def test_boxed_calls_are_marked():
    assert c.boxed(lambda args: args)._boxed_call is True


def test_a_backend_that_joined_is_reset_once():
    calls = []

    def backend() -> None:
        raise AssertionError("only its reset is called")

    backend.reset = lambda: calls.append(1)
    c.join_next_reset(backend)
    torch.compiler.reset()
    torch.compiler.reset()
    assert calls == [1]


def test_compilers_get_functional_graphs_and_keep_input_mutations():
    seen = []

    def compiler(gm, inputs):
        seen.append([str(n.target) for n in gm.graph.nodes if n.op == "call_function"])
        return c.boxed(lambda args: gm(*args))

    backend = c.aot_backend(fw_compiler=compiler, bw_compiler=compiler, inference_compiler=compiler)
    x = torch.ones(3)
    torch.compile(lambda x: x.add_(1).mul(2), backend=backend)(x)
    assert seen == [["aten.add.Tensor", "aten.mul.Tensor", "aten.copy_.default"]]
    assert torch.equal(x, torch.full((3,), 2.0))
    torch.compiler.reset()


def test_keep_graph_is_seen_inside_backward():
    seen = []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            seen.append(c.keeps_graph())
            return g * 2

    y = Look.apply(torch.ones(2, requires_grad=True)).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert seen == [True, False]


def test_uses_of_a_storage():
    t = torch.empty(4)
    storage = t.untyped_storage()
    uses = c.storage_counter(storage)
    alone = uses()
    part = t.detach()[1:]
    assert uses() == c.storage_counter(storage)() > alone
    del part
    assert uses() == alone


def test_allocations_are_counted_in_order():
    result, events = c.memory_events(lambda: torch.empty(1000).add_(1).numel())
    assert result == 1000
    assert events[0] == 4000 and events[-1] == -4000 and sum(events) == 0
    with pytest.raises(ZeroDivisionError):
        c.memory_events(lambda: 1 // 0)
    assert c.memory_events(lambda: None)[1] == [], "it was switched off after the exception"


def test_profilers_are_seen():
    assert not c.profiling()
    with torch.autograd.profiler.profile(use_kineto=False):
        assert c.profiling()
    assert not c.profiling()


@pytest.mark.parametrize(
    ("op", "views"),
    [
        (aten.add.Tensor, (None,)),
        (aten.t.default, (0,)),
        (aten.split.Tensor, (0,)),
        (aten.add_.Tensor, (0,)),
        (aten.native_layer_norm.default, (None, None, None)),
        (aten._unsafe_view.default, (None,)),
    ],
)
def test_views_by_schema(op: c.OpOverload, views: tuple[int | None, ...]):
    assert c.schema_views(op) == views


def test_what_is_cheap_for_torch():
    assert c.recomputable_by_default(aten.mul.Tensor)
    assert not c.recomputable_by_default(aten.mm.default)


def test_expressions_of_sizes():
    gm = make_fx(lambda x: x + 1, tracing_mode="symbolic")(torch.zeros(3, 4))
    (x,) = gm.graph.find_nodes(op="placeholder")
    size = x.meta["val"].shape[0]
    assert isinstance(size, torch.SymInt) and c.sym_expr(size).is_Symbol
    assert c.sym_expr(5) == 5
    assert not c.unbacked(size) and not c.unbacked(x.meta["val"])
    assert isinstance(x.meta["val"], c.FakeTensor)


def test_sizes_that_depend_on_data_are_seen():
    gm = make_fx(lambda x: aten.nonzero.default(x), tracing_mode="symbolic")(torch.ones(3))
    (call,) = gm.graph.find_nodes(op="call_function", target=aten.nonzero.default)
    assert c.unbacked(call.meta["val"])


def test_min_cut_keeps_what_it_is_told_and_recomputes_the_rest():
    """exp is computed again in backward unless it must be saved."""
    from torch.utils.checkpoint import CheckpointPolicy

    for keep in (False, True):
        saved = []

        def split(joint, inputs, keep=keep, saved=saved, **given):
            for node in joint.graph.find_nodes(op="call_function", target=aten.exp.default):
                if keep:
                    c.keep_saved(node)
                    assert node.meta["recompute"] is CheckpointPolicy.MUST_SAVE
            fw, bw = c.min_cut_partition(joint, inputs, **given)
            (output,) = fw.graph.find_nodes(op="output")
            saved += [str(n.target) for n in output.args[0][given["num_fwd_outputs"] :]]
            return fw, bw

        compiler = lambda gm, inputs: c.boxed(lambda args: gm(*args))  # noqa: E731
        backend = c.aot_backend(fw_compiler=compiler, bw_compiler=compiler, partition_fn=split)
        x = torch.ones(3, requires_grad=True)
        torch.compile(lambda x: x.sin().exp().sum(), backend=backend)(x).backward()
        assert torch.allclose(x.grad, torch.cos(torch.ones(3)) * torch.sin(torch.ones(3)).exp())
        assert any("exp" in name or "detach" in name for name in saved) == keep, saved
        torch.compiler.reset()


def test_trees():
    leaves, spec = c.tree_flatten(({"a": 1, "b": [2, None]}, 3))
    assert c.tree_unflatten(leaves, spec) == ({"a": 1, "b": [2, None]}, 3)


@pytest.mark.spec("IR-11")
def test_pinning_is_captured_as_a_tensor_alike():
    c.capture_pinning()
    with c.fake_mode():
        x = torch.empty_strided((3, 4), (1, 3), dtype=torch.float64)
        pinned = aten._pin_memory.default(x)
    assert (pinned.shape, pinned.stride(), pinned.dtype) == (x.shape, x.stride(), x.dtype)


@pytest.mark.spec("IR-72")
def test_what_is_no_opaque_object_has_no_bytes():
    assert c.opaque_nbytes(3) is None and c.opaque_nbytes(torch.ones(2)) is None and c.opaque_nbytes(object()) is None


class _Flat(OpaqueBase):
    """Its flattened form is a tensor."""

    def __obj_flatten__(self) -> torch.Tensor:
        return torch.zeros(3)


class _Unpicklable(OpaqueBase):
    def __init__(self) -> None:
        self.table = torch.zeros(5)

    def __getstate__(self) -> object:
        raise TypeError("on purpose")


@pytest.mark.spec("IR-72")
@pytest.mark.parametrize(("kind", "nbytes"), [(_Flat, 12), (_Unpicklable, 20)])
def test_bytes_of_an_object_are_counted_whatever_it_says_of_itself(kind: type, nbytes: int):
    register_opaque_type(kind, typ="reference")
    assert c.opaque_nbytes(kind()) == nbytes
    assert c.opaque_nbytes(object()) is None


@pytest.mark.spec("IR-11")
def test_a_releases_own_rule_for_pinning_stays(monkeypatch: pytest.MonkeyPatch):
    pin = aten._pin_memory.default
    for rule, ours in ((c._fake_rules[pin], True), (lambda *_: None, False), (functools.partial(print), False)):
        monkeypatch.delitem(c._rules_of_each_call, pin, raising=False)
        monkeypatch.setitem(c._fake_rules, pin, rule)
        c.capture_pinning()
        assert (pin in c._rules_of_each_call) is ours
