"""Views that loops read through: slices, broadcasts, permutations and their chains, each against NumPy or eager."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

sys.path.insert(0, str(Path(__file__).parent))

from evaluate import by_oracle

from lowtide.frontend.fx_import import DTYPES, import_graph
from lowtide.ir.graph import Graph, Ref, refs_in, specialise
from lowtide.ir.index import affine, divisions
from lowtide.ir.lowered import LOOP, Lowered, check_lowered
from lowtide.ir.symbolic import symbols_of
from lowtide.ir.verify import verify
from lowtide.lowering.lower import lower

pytestmark = pytest.mark.torch
aten = torch.ops.aten
X = torch.arange(6.0).reshape(2, 3)


def traced(f: Callable[..., list[torch.Tensor]], *given: torch.Tensor, mode: str = "fake") -> Graph:
    gm = make_fx(f, tracing_mode=mode)(*given)
    gm.graph.eliminate_dead_code()
    graph, _ = import_graph("g", [("inference", gm)])
    verify(graph)
    return graph


def computed(graph: Graph, *given: torch.Tensor) -> tuple[list[torch.Tensor], Lowered]:
    """What the loops of a graph make, by the oracle. They read storages, never a view."""
    lowered = lower(graph)
    verify(lowered.graph)
    check_lowered(lowered)
    assert not lowered.reasons
    (section,) = lowered.graph.sections
    names = [i.name for i in section.inputs if isinstance(i, Ref)]
    held: dict[str, Any] = dict(zip(names, given, strict=True))
    for op in section.ops:
        if op.view:
            continue
        assert op.target == LOOP
        for o in op.outputs:
            y = lowered.graph.value[str(o)].layout
            dtype = next(t for t, n in DTYPES.items() if n == y.dtype)
            held[str(o)] = torch.empty_strided(y.size, y.stride, dtype=dtype).fill_(7)
        by_oracle(
            lowered.loops[op.name], [held[n] for a in op.args for n in refs_in(a)] + [held[str(o)] for o in op.outputs]
        )
    return [held[n] for a in section.returns for n in refs_in(a)], lowered


BOUNDS = [(a, b, s) for a in (None, *range(-4, 5)) for b in (None, *range(-4, 5)) for s in (1, 2)]


@pytest.mark.spec("IR-22")
def test_every_slice_of_three_elements():
    x = torch.tensor([3.0, 5.0, 7.0])
    found, _ = computed(traced(lambda x: [aten.slice.Tensor(x, 0, a, b, s) * 2 for a, b, s in BOUNDS], x), x)
    for (a, b, s), y in zip(BOUNDS, found, strict=True):
        assert y.tolist() == (x.numpy()[a:b:s] * 2).tolist(), (a, b, s)


@pytest.mark.spec("IR-22")
@pytest.mark.parametrize("scatter", [True, False], ids=["changed", "gradient"])
def test_every_slice_of_three_elements_changed(scatter: bool):
    x = torch.tensor([3.0, 5.0, 7.0])
    cases = [c for c in BOUNDS if None not in c]
    parts = [torch.arange(len(x.numpy()[a:b:s])) + 10.0 for a, b, s in cases]

    def f(x: torch.Tensor, *parts: torch.Tensor) -> list[torch.Tensor]:
        if scatter:
            return [aten.slice_scatter.default(x, p, 0, *c) for c, p in zip(cases, parts, strict=True)]
        return [aten.slice_backward.default(p, [3], 0, *c) for c, p in zip(cases, parts, strict=True)]

    found, _ = computed(traced(f, x, *parts), x, *parts)
    for (a, b, s), part, y in zip(cases, parts, found, strict=True):
        expected = x.numpy().copy() if scatter else np.zeros(3, np.float32)
        expected[a:b:s] = part.numpy()
        assert y.tolist() == expected.tolist(), (a, b, s)


@pytest.mark.spec("IR-22")
def test_a_slice_of_everything_is_the_tensor_itself():
    graph = traced(lambda x: [aten.slice.Tensor(x, 1, -9, 2**63 - 1) * 2], X)
    (x,) = graph.sections[0].inputs
    assert isinstance(x, Ref)
    assert (graph.value["slice_1"].storage, graph.value["slice_1"].layout) == (x.name, graph.value[x.name].layout)


@pytest.mark.spec("IR-22")
def test_slices_at_sizes_that_are_not_known():
    def f(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        return [x[-y.shape[0] :] * 2, x[1 : y.shape[0]] * 3, x[: x.shape[0] - 1 : 2] * 4]

    given = torch.arange(28.0).reshape(7, 4), torch.zeros(5)
    graph = traced(f, *given, mode="symbolic")
    sizes = [graph.value[r.name].layout.size[0] for r in graph.sections[0].returns if isinstance(r, Ref)]
    assert all(symbols_of(n) for n in sizes)
    known: dict[str, int] = {}
    for i, t in zip(graph.sections[0].inputs, given, strict=True):
        assert isinstance(i, Ref)
        known |= {str(d): n for d, n in zip(graph.value[i.name].layout.size, t.shape, strict=True)}
    found, _ = computed(specialise(graph, known), *given)
    for a, b in zip(found, f(*given), strict=True):
        assert torch.equal(a, b)


SHAPES = [(), (1,), (3,), (0,), (1, 1), (1, 3), (2, 1), (2, 3), (2, 0), (4, 1, 3), (4, 2, 1)]


def fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False))


@pytest.mark.spec("IR-23")
def test_every_pair_of_shapes_is_broadcast_or_refused():
    tensors = [torch.arange(1.0, 1 + np.prod(s, dtype=int)).reshape(s) for s in SHAPES]
    pairs = list(itertools.product(range(len(SHAPES)), repeat=2))
    good = [(i, j) for i, j in pairs if fits(SHAPES[i], SHAPES[j])]
    found, _ = computed(traced(lambda *t: [t[i] - t[j] for i, j in good], *tensors), *tensors)
    for (i, j), y in zip(good, found, strict=True):
        expected = tensors[i].numpy() - tensors[j].numpy()
        assert y.shape == expected.shape and np.array_equal(y.numpy(), expected)
    bad = [p for p in pairs if p not in good]
    assert len(bad) == 16
    for i, j in bad:
        with pytest.raises(RuntimeError, match=r"size|shape|broadcast"):
            traced(lambda a, b: [a - b], tensors[i], tensors[j])


@pytest.mark.spec("IR-23")
def test_expanded_dimensions_have_stride_zero_and_keep_what_is_asked_to_stay():
    graph = traced(lambda x: [aten.expand.default(aten.slice.Tensor(x, 1, 1, 2), [4, -1, 5]) * 2], X)
    y = graph.value["expand"]
    assert (y.layout.size, y.layout.stride, y.layout.offset) == ((4, 2, 5), (0, 3, 0), 1)
    found, _ = computed(graph, X)
    assert torch.equal(found[0], X[:, 1:2].expand(4, 2, 5) * 2)
    with pytest.raises(RuntimeError, match="expanded size"):
        traced(lambda x: [aten.expand.default(x, [2, 4])], X)


@pytest.mark.spec("IR-23")
def test_permutations_count_from_the_end_and_are_permutations():
    x = torch.arange(24.0).reshape(2, 3, 4)
    for order in itertools.permutations(range(3)):
        for turned in (order, tuple(d - 3 for d in order)):
            graph = traced(lambda x: [aten.permute.default(x, list(turned)) * 2], x)  # noqa: B023 (called at once)
            assert graph.value["permute"].layout.stride == tuple((12, 4, 1)[d] for d in order)
            found, _ = computed(graph, x)
            assert torch.equal(found[0], x.permute(order) * 2)
    with pytest.raises(RuntimeError, match="duplicate dims"):
        traced(lambda x: [aten.permute.default(x, [0, 1, -2])], x)


@pytest.mark.spec("IR-25")
def test_a_chain_of_views_is_one_strided_view_of_what_it_starts_from():
    def f(x: torch.Tensor) -> list[torch.Tensor]:
        y = aten.permute.default(x + 1, [2, 0, 1])
        y = aten.select.int(aten.slice.Tensor(y, 0, 1, 4, 2), 1, 1)
        return [aten.expand.default(aten.unsqueeze.default(y, 0), [3, -1, -1]) * 2]

    x = torch.arange(24.0).reshape(2, 3, 4)
    graph = traced(f, x)
    y = graph.value["expand"]
    assert (y.storage, y.layout.size, y.layout.stride, y.layout.offset) == ("add", (3, 2, 3), (0, 2, 4), 13)
    found, lowered = computed(graph, x)
    assert torch.equal(found[0], f(x)[0])
    last = next(op for op in lowered.graph.ops if op.outputs == ("mul",))
    assert last.reads == ("add",)
    (read,) = (x.index for _, x in lowered.loops[last.name].reads(0))
    assert read is not None and affine(read) == ({"r1": 2, "r2": 4}, 13)


@pytest.mark.spec("IR-25")
def test_what_is_no_strided_view_is_copied():
    graph = traced(lambda x: [torch.reshape(aten.t.default(x + 1), (6,)) * 2], X)
    assert [op.target for op in graph.ops if not op.view] == [
        "aten.add.Tensor",
        "aten.clone.default",
        "aten.mul.Tensor",
    ]
    found, lowered = computed(graph, X)
    assert torch.equal(found[0], (X + 1).t().reshape(6) * 2)
    copy = lowered.loops["clone"]
    assert not any(divisions(x.index or 0) for x in copy.body), "the copy walks both dimensions"
    with pytest.raises(ValueError, match="Cannot view"):
        traced(lambda x: [aten.view.default(aten.t.default(x + 1), [6])], X)
