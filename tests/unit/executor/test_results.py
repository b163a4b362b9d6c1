"""Results that are given their bytes though there are several, or though their operation has no form for that; carried values."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from lowtide.executor.block import LOOP  # noqa: E402
from lowtide.executor.emit import emit  # noqa: E402
from lowtide.executor.lives import carried_pairs  # noqa: E402
from lowtide.runtime.measure import measure  # noqa: E402
from running import D, planned  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]


# ------------------------------------------------------------------------------------------------ several results


@pytest.mark.spec("RT-01", "RT-02", "RT-04")
def test_operations_with_several_results_write_them_into_the_slab():
    def f(x: Tensor) -> tuple[Tensor, ...]:
        v, i = (x * 2).topk(3)
        s, j = x.sort(-1)
        k, m = x.kthvalue(2)
        best, c = (x + 1).max(-1)  # the first leaves, the second stays
        return (v + 1).sum() + s.sin().sum() + k.exp(), i * 2, j + m[:, None], best, (c + 1) * k

    call = planned(f, torch.randn(6, 5), verify=True)
    kept = []
    for n in (6, 6, 9, 4, 2, 9, 6):
        x = torch.randn(n, 5)
        for got, want in zip(call(x), f(x), strict=True):
            assert torch.equal(got, want) and got.stride() == want.stride()
            kept.append((got, want))
    assert all(torch.equal(a, b) for a, b in kept)
    lives = call.executor.plan.built.lives
    assert {"topk_0", "topk_1", "sort_0", "sort_1", "kthvalue_0", "kthvalue_1", "max_1_1"} <= set(lives.order)
    assert "max_1_0" not in lives.buffer
    spans = {n: lives.lives[lives.buffer[n]] for n in ("topk_0", "topk_1", "sort_0", "sort_1")}
    assert spans["topk_0"].first == spans["topk_1"].first and spans["topk_0"].name != spans["topk_1"].name
    assert call.told().leaks == call.told().copies == 0


@pytest.mark.spec("RT-01", "RT-23")
def test_several_results_that_leave_lie_in_the_slab_of_results():
    call, x = planned(lambda x: (x * 2).sort(-1), torch.randn(4, 5), manage_outputs=True), torch.randn(4, 5)
    for _ in range(3):
        got, want = call(x), (x * 2).sort(-1)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    assert call.is_output_managed(got[0]) and call.is_output_managed(got[1])


# ------------------------------------------------------------------------------------------------ picking


@pytest.mark.spec("RT-01", "G1")
def test_rows_are_picked_by_a_faster_operation_where_no_index_is_negative():
    def f(x: Tensor, i: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        order, (values, back) = x[:, 0].argsort(), torch.unique(t, return_inverse=True)
        flat = x.reshape(-1).topk(9).indices
        y = x + 1
        picked = y[order], values[back], y[flat // 4], y[:, flat % 4], y[i], y[i // 2], y[order - 1]
        return tuple(p.float().sin() for p in picked)

    x, i, t = torch.randn(6, 4), torch.tensor([-1, 2, 0, 1, -2]), torch.randint(0, 3, (6,))
    call = planned(f, x, i, t, shapes=(({0: D}, None, {0: D}),), verify=True)
    for n in (6, 6, 3, 9):
        x, t = torch.randn(n, 4), torch.randint(0, 3, (n,))
        for got, want in zip(call(x, i, t), f(x, i, t), strict=True):
            assert torch.equal(got, want)
    source = call.executor.plan.built.loaded.code.source
    assert source.count("torch_index_select(") == 4 and source.count("index_Tensor_out(") == 3


@pytest.mark.spec("RT-01", "G1", "G10")
def test_rows_that_a_mask_says_are_picked_by_faster_operations():
    def f(x: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        flat, turned = x[:, 0], torch.stack([x, x * 2]).movedim(0, 2).movedim(1, 2)
        return x[m], flat[m], x.t()[:, m], x[m[:, None].expand_as(x)], turned[m]

    x, m = torch.randn(6, 4), torch.arange(6) % 2 == 0
    call = planned(f, x, m, verify=True)
    for n, share in ((6, 2), (6, 2), (9, 1), (4, 99), (2, 1), (6, 3)):
        x, m = torch.randn(n, 4), torch.arange(1, n + 1) % share == 0
        for got, want in zip(call(x, m), f(x, m), strict=True):
            assert torch.equal(got, want) and got.stride() == want.stride()
    source = call.executor.plan.built.loaded.code.source
    assert source.count("torch_masked_select(") == 1 and source.count("torch_index_select(") == 1


# ------------------------------------------------------------------------------------------------ as another operation


@pytest.mark.spec("RT-01", "G1")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_what_torch_computes_as_another_operation_is_written_by_that(dtype: torch.dtype):
    def f(x: Tensor) -> Tensor:
        return (x + 1).relu() * 2

    call = planned(f, torch.ones(40, dtype=dtype), verify=True)
    odd = torch.tensor([-0.0, 0.0, -1.0, -3.0, 5.0, float("nan"), float("inf"), -float("inf")])
    for n in (40, 40, 24, 56):
        x = (odd if dtype.is_floating_point else torch.arange(-4, 4)).to(dtype).repeat(n // 8) - 1
        got, want = call(x), f(x)
        assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))  # the sign of 0 too
    lives = call.executor.plan.built.lives
    assert {"add", "relu"} <= {n.partition("_")[0] for n in lives.order} and len(lives.lives) == 1


@pytest.mark.spec("RT-01", "RT-02", "G1")
@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 2, 3)])
def test_rows_of_a_table_are_written_into_the_slab(shape: tuple[int, ...]):
    table = torch.randn(11, 7)

    def f(x: Tensor) -> Tensor:
        return (torch.nn.functional.embedding(x, table) * 2).sin()

    call = planned(f, torch.randint(0, 11, shape), verify=True)
    for n in (6, 6, 9, 2):
        x = torch.randint(0, 11, (n, *shape[1:]))
        assert torch.equal(call(x), f(x))
        x = torch.randint(0, 11, (*shape[1:], n)).movedim(-1, 0)  # comes in other strides
        assert torch.equal(call(x), f(x))
    assert any(n.startswith("embedding") for n in call.executor.plan.built.lives.order)
    for wrong in (11, -1):
        with pytest.raises((IndexError, RuntimeError)):
            call(torch.full(shape, wrong))
    assert torch.equal(call(x), f(x))


@pytest.mark.spec("RT-02", "IR-65", "G1")
def test_a_table_picked_from_by_indices_that_lie_otherwise():
    table = torch.randn(11, 7)

    def f(x: Tensor) -> Tensor:
        return torch.nn.functional.embedding((x + 1).t(), table) * 2

    call = planned(f, torch.randint(0, 9, (6, 5)), verify=True)
    for n in (6, 6, 3):
        x = torch.randint(0, 9, (n, 5))
        assert torch.equal(call(x), f(x))


@pytest.mark.spec("RT-02", "RT-10")
def test_a_number_is_left_to_the_framework_where_a_line_of_memory_would_go_to_it():
    def f(x: Tensor) -> Tensor:
        few, line = x[:15] * 2, x[:16] * 2
        return few.sum() * line.sum() + (x * 3).sum()

    call, x = planned(f, torch.randn(64), shapes=((None,),), verify=True), torch.randn(64)
    for _ in range(3):
        assert torch.equal(call(x), f(x))
    value = call.executor.plan.block.graph.value
    managed = {value[n].layout.extent for n in call.executor.plan.built.lives.order}
    assert managed == {64, 256}
    alone = planned(lambda x: (x * 3).mean(), torch.randn(64), shapes=((None,),), manage_outputs=True)
    for _ in range(3):
        got = alone(x)
    assert torch.equal(got, (x * 3).mean()) and alone.is_output_managed(got)


# ------------------------------------------------------------------------------------------------ carried values


def turns(n: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Two carried values that change places in every turn."""

    def turn(i: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return i + 1, (b * 2 + 1).sin(), (a * b).cos() + a

    return torch._higher_order_ops.while_loop(lambda i, a, b: i < n, turn, (n * 0, x, y))


@pytest.mark.spec("RT-02", "RT-31", "IR-62", "IR-65", "G1")
@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("manage_outputs", [False, True])
def test_carried_values_lie_in_the_slab_unless_they_leave(leaves: bool, manage_outputs: bool):
    def f(n: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        _, a, b = turns(n, x * 2, x + 1)
        c = (a - b).exp() * b
        return (c.tanh(), a) if leaves else (c.tanh(), c * 2)

    def eager(n: int, x: Tensor) -> tuple[Tensor, ...]:
        a, b = x * 2, x + 1
        for _ in range(n):
            a, b = (b * 2 + 1).sin(), (a * b).cos() + a
        c = (a - b).exp() * b
        return (c.tanh(), a) if leaves else (c.tanh(), c * 2)

    call = planned(f, torch.tensor(2), torch.randn(32), verify=True, manage_outputs=manage_outputs)
    kept = []
    for n, size in ((2, 32), (2, 32), (0, 32), (1, 80), (0, 80), (3, 24), (4, 80), (0, 24), (2, 32)):
        x = torch.randn(size)
        got, want = call(torch.tensor(n), x), eager(n, x)
        kept += zip(got, want, strict=True)
        assert all(torch.equal(g, w) for g, w in kept)
        assert not manage_outputs or len(kept) == 2 or all(map(call.is_output_managed, got))
    told, frame = call.told(), call.executor.latest
    assert told.leaks == told.copies == 0
    inside = [n for n in frame.built.lives.order if n.startswith("while_loop")]
    assert len(inside) == 2 - leaves
    body = frame.inner[0][1]
    assert body.slab is frame.slab and any(n.startswith("add") for n in body.built.lives.order)


@pytest.mark.spec("RT-04", "IR-65")
def test_what_every_turn_reads_is_not_written_by_the_first():
    def f(n: Tensor, x: Tensor) -> Tensor:
        y, z = x * 2, x + 1
        a = torch._higher_order_ops.while_loop(lambda i, a: i < n, lambda i, a: (i + 1, a * 0.5 + z), (n * 0, y))[1]
        return (a * 2).sin() + y[1:].sum()

    block = planned(f, torch.tensor(2), torch.randn(40)).executor.plan.block
    line = next(line for line in block.lines if line.kind == LOOP)
    start, y, *_, z = line.op.args
    ours = frozenset((y.name, z.name, "while_loop_1"))
    assert carried_pairs(block.graph, line, ours) == ((y.name, "while_loop_1"),)
    both = replace(line, op=replace(line.op, args=(start, y, *line.op.args[2:-1], y)))
    assert carried_pairs(block.graph, both, ours) == ()
    written = replace(line, op=replace(line.op, mutates=(y.name,)))
    assert carried_pairs(block.graph, written, ours) == ()
    (part,) = (v.name for v in block.graph.values if v.storage == y.name and v.name != y.name)
    written = replace(line, op=replace(line.op, mutates=(part,)))
    assert carried_pairs(block.graph, written, ours) == (), "what stands on its bytes is written"


@pytest.mark.spec("RT-04", "IR-65", "G1")
def test_carried_values_that_change_places_whole():
    """No result of a turn stands on a carried operand, so that one result never lies where another is written to."""

    def f(n: Tensor, x: Tensor) -> Tensor:
        turn = lambda i, a, b: (i + 1, b.clone(), a.clone())  # noqa: E731
        loop = torch._higher_order_ops.while_loop(lambda i, a, b: i < n, turn, (n * 0, x * 2, x + 1))
        return loop[1].exp() - loop[2]

    call = planned(f, torch.tensor(2), torch.randn(32), verify=True)
    for n in (2, 2, 0, 1, 3, 0, 4, 1):
        x = torch.randn(32)
        a, b = (x * 2, x + 1) if n % 2 == 0 else (x + 1, x * 2)
        assert torch.equal(call(torch.tensor(n), x), a.exp() - b)
    assert len([n for n in call.executor.latest.built.lives.order if n.startswith("while_loop")]) == 2
    # torch captures no body that returns its operands themselves; one that a pass made would return copies
    (body,) = (x.blocks[1] for x in call.executor.plan.block.lines if x.kind == LOOP)
    i, a, b, *_ = body.inputs
    section = replace(body.graph.sections[0], returns=(i, b, a))
    bare = replace(body, graph=replace(body.graph, sections=(section,)))
    assert emit(bare, None, {}).returned == tuple(f"{x.name}.clone()" for x in (i, b, a))


@pytest.mark.spec("RT-31", "IR-65")
def test_what_is_carried_shares_bytes_with_what_was_before_the_loop():
    def f(n: Tensor, x: Tensor) -> Tensor:
        before = ((x * 2).exp() * (x + 1).cos() * (x - 1).sin()).sum()
        _, a, b = turns(n, x + before, x - before)
        return (a * b).sum()

    call, x = planned(f, torch.tensor(2), torch.randn(4096)), torch.randn(4096)
    for _ in range(3):
        call(torch.tensor(3), x)
    # The two, what a turn makes of them, and one more while it is made.
    assert measure(lambda: call(torch.tensor(3), x)).peak_nbytes <= 5 * x.nbytes + 1024
