"""What is rewritten in a graph without a backward: copies, cross entropy, the layout of convolutions, batch normalisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

import lowtide
from lowtide.frontend.batch_norm import unfold_batch_norm
from lowtide.frontend.convolution import channels_last
from lowtide.frontend.copies import drop_copies, own_storages
from lowtide.frontend.loss import split_cross_entropy

aten = torch.ops.aten
pytestmark = pytest.mark.torch


def traced(f, *args: torch.Tensor) -> fx.GraphModule:
    gm = make_fx(f, tracing_mode="fake")(*args)
    gm.graph.eliminate_dead_code()
    return gm


def count(gm: fx.GraphModule, op: object) -> int:
    return len(gm.graph.find_nodes(op="call_function", target=op))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [-100, 3])
def test_cross_entropy_by_rows_is_the_same_bit_for_bit(reduction: str, ignored: int):
    logits = torch.randn(1030, 1500) * 4  # the last rows are not as many as the others
    target = torch.randint(0, 1500, (1030,))
    target[::7] = ignored

    def loss(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x, t, reduction=reduction, ignore_index=ignored)

    gm = traced(loss, logits, target)
    split_cross_entropy(gm, loops=False)
    gm.graph.lint()
    made = [n.meta["val"].nbytes for n in gm.graph.find_nodes(op="call_function", target=aten._log_softmax.default)]
    assert len(made) > 1 and max(made) <= 1 << 20
    assert torch.equal(gm(logits, target), loss(logits, target))


@pytest.mark.parametrize("ignored", [-100, 3])
def test_cross_entropy_of_loops_stores_no_row(ignored: int):
    logits = torch.randn(1030, 1500) * 4
    logits[5, 7], logits[6] = float("-inf"), 60.0
    target = torch.randint(0, 1500, (1030,))
    target[::7] = ignored

    def loss(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x, t, ignore_index=ignored)

    gm = traced(loss, logits, target)
    split_cross_entropy(gm, loops=True)
    gm.graph.lint()
    torch.testing.assert_close(gm(logits, target), loss(logits, target))
    torch._dynamo.reset()
    run = torch.compile(loss, backend="lowtide", options={"kernels": "loops", "verify": True})
    with torch.no_grad():
        torch.testing.assert_close(run(logits, target), loss(logits, target))
        assert lowtide.memory_analysis(lambda: run(logits, target)).promised_peak_bytes < 1 << 16


def test_half_types_keep_their_log_softmax():
    logits, target = torch.randn(1024, 4096, dtype=torch.bfloat16), torch.randint(0, 4096, (1024,))
    gm = traced(lambda x, t: F.cross_entropy(x, t), logits, target)
    split_cross_entropy(gm, loops=True)
    assert count(gm, aten._log_softmax.default) > 1


def test_rows_all_ignored_give_nan_as_eager_does():
    logits, target = torch.randn(1024, 2048), torch.full((1024,), -100)
    gm = traced(lambda x, t: F.cross_entropy(x, t), logits, target)
    split_cross_entropy(gm, loops=False)
    assert count(gm, aten._log_softmax.default) > 1
    assert gm(logits, target).isnan()


@pytest.mark.parametrize(
    "case",
    {
        "small": lambda x, t, w: F.cross_entropy(x[:8, :8], t[:8].clamp(max=7)),
        "weights": lambda x, t, w: F.cross_entropy(x, t, weight=w),
        "read twice": lambda x, t, w: (F.nll_loss(y := F.log_softmax(x, 1), t), y.sum()),
        "in two dimensions": lambda x, t, w: F.cross_entropy(x.view(8, 128, 2048).transpose(1, 2), t.view(8, 128)),
    }.items(),
    ids=lambda c: c[0],
)
def test_other_losses_stay_as_they_are(case):
    x, t, w = torch.randn(1024, 2048), torch.randint(0, 2048, (1024,)), torch.rand(2048)
    gm = traced(case[1], x, t, w)
    before = gm.code
    split_cross_entropy(gm, loops=False)
    assert gm.code == before


COPIES = {
    # function of (an input, a weight) -> copies that stay
    "in the middle": (lambda x, w: (x @ w).clone().relu(), 0),
    "of a view": (lambda x, w: (x @ w).view(-1).clone() + 1, 0),
    "through a view": (lambda x, w: (x @ w).clone().view(-1) + 1, 0),
    "of an input": (lambda x, w: x.clone() + 1, 1),
    "of a view of an input": (lambda x, w: x.view(-1).clone() + 1, 1),
    "of a part of an input": (lambda x, w: x.split(2)[0].clone() + 1, 1),
    "returned": (lambda x, w: (x @ w).clone(), 1),
    "returned through a view": (lambda x, w: (x @ w).clone().view(-1), 1),
    "a part returned": (lambda x, w: (x @ w).clone().split(2)[0], 1),
    "changes strides": (lambda x, w: (x @ w).t().contiguous() + 1, 1),
    "begins elsewhere": (lambda x, w: (x @ w)[1:].clone() + 1, 0),
    "begins elsewhere and has views": (lambda x, w: (x @ w)[1:].clone()[:, 1:] + 1, 1),
    "twice, begins elsewhere and has views": (lambda x, w: (x @ w)[1:].clone().clone()[:, 1:] + 1, 1),
    "changes the stride of one element": (lambda x, w: _rows_of_one(x @ w).clone(memory_format=ROWS) + 1, 0),
}
ROWS = torch.contiguous_format


def _rows_of_one(y: torch.Tensor) -> torch.Tensor:
    """(1, 4, 6) with the stride of a row where a copy has that of all of it."""
    return y[:, None].transpose(0, 1)


@pytest.mark.parametrize("case", COPIES.items(), ids=lambda c: c[0])
def test_copies_go_where_nobody_can_tell(case):
    f, stay = case[1]
    x, w = torch.randn(4, 6), torch.randn(6, 6)
    gm = traced(f, x, w)
    drop_copies(gm)
    gm.graph.lint()
    assert count(gm, aten.clone.default) == stay
    assert torch.equal(gm(x, w), f(x, w))
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(f, backend="lowtide", options={"verify": True})(x, w), f(x, w))


@pytest.mark.spec("IR-15")
def test_strides_of_unknown_sizes_are_compared_as_they_are_written():
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        same = (x + 1).clone()
        other = aten.as_strided.default(x * 2, [y.shape[0], y.shape[1]], [x.shape[1], 1]).clone(memory_format=ROWS)
        return same.sum() + other.cos()

    gm = make_fx(f, tracing_mode="symbolic")(torch.randn(4, 6), torch.randn(3, 5))
    gm.graph.eliminate_dead_code()
    drop_copies(gm)
    assert count(gm, aten.clone.default) == 1, "one is as it was, of the other that is not known"


def test_nothing_goes_from_a_graph_that_changes_what_it_makes():
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        z = y.clone()
        y.add_(1)
        return z + y

    x = torch.randn(5)
    gm = traced(f, x)
    drop_copies(gm)
    assert count(gm, aten.clone.default) == 1
    assert torch.equal(gm(x), f(x))


CHANGED = {
    # function of (a tensor of 8 x 6, one of 4 x 6) -> copies made
    "slice_scatter": (lambda x, s: aten.slice_scatter((x + 1)[2:7], s, 0, 0, 4), 1),
    "select_scatter": (lambda x, s: aten.select_scatter((x + 1).t(), s[0], 1, 2), 1),
    "diagonal_scatter": (lambda x, s: aten.diagonal_scatter((x + 1)[1:, :3], s[0, :3]), 1),
    "copy": (lambda x, s: aten.copy((x + 1)[::2], s), 0),
    "of a part": (lambda x, s: aten.slice_scatter((x + 1).split(4)[1], s, 0, 0, 4), 1),
    "not of a view": (lambda x, s: aten.slice_scatter(x + 1, s, 0, 0, 4), 0),
}


@pytest.mark.parametrize("case", CHANGED.items(), ids=lambda c: c[0])
def test_a_part_of_a_view_is_changed_in_a_copy_of_that_view_alone(case):
    f, copies = case[1]
    x, s = torch.randn(8, 6), torch.randn(4, 6)
    gm = traced(f, x, s)
    before = count(gm, aten.copy.default)
    own_storages(gm)
    gm.graph.lint()
    assert count(gm, aten.copy.default) - before == copies
    got, wanted = gm(x, s), f(x, s)
    assert torch.equal(got, wanted) and got.stride() == wanted.stride()
    extent = 1 + sum((n - 1) * step for n, step in zip(got.shape, got.stride(), strict=True))
    assert case[0] == "not of a view" or got.untyped_storage().nbytes() == extent * 4


def test_what_is_copied_whole_lies_in_no_slab():
    """Otherwise the slab would be copied with it, and the promise broken."""

    def step(x: torch.Tensor) -> torch.Tensor:
        a = x.sin().cos()
        b = (a * 2).exp().tanh()
        b[:, ::2] = b[:, ::2] * 2 - 1
        c = (b + 1).sin().cos() * a
        return c.sum()

    x = torch.randn(256, 512)
    compiled = torch.compile(step, backend="lowtide", options={"verify": True, "slabs": "one"})
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), step(x))
        found = lowtide.memory_analysis(lambda: compiled(x))
    assert found.measured_peak_bytes <= found.promised_peak_bytes


def layouts(gm: fx.GraphModule) -> list[bool]:
    """Per convolution, whether what it reads has its channels last in memory."""
    found = gm.graph.find_nodes(op="call_function", target=aten.convolution.default)
    return [n.args[0].meta["val"].is_contiguous(memory_format=torch.channels_last) for n in found]


def network(tail):
    """Two convolutions over images large beside the weights, and what ``tail`` does with their result."""

    def f(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor):
        return tail(F.conv2d(F.conv2d(x, a, padding=1).relu(), b, padding=1), x)

    return f


NETWORKS = {
    # what comes after the convolutions -> the copies that are made
    "returned": (lambda y, x: y, 2),
    "returned through a permutation": (lambda y, x: y.permute(0, 2, 3, 1), 2),
    "pooled and flattened": (lambda y, x: F.adaptive_avg_pool2d(y, 1).flatten(1), 1),
    "flattened": (lambda y, x: y.flatten(1) * 2, 2),
    "reshaped by hand": (lambda y, x: y.as_strided((4, 3), (3, 1)) + 1, 2),
    "with other images": (lambda y, x: (y + x[:, :1]).sum(), 1),
    "parts": (lambda y, x: y.split(2, 1)[1].mean((2, 3)), 1),
    "two results": (lambda y, x: (y.relu(), y.amax(1)), 2),
}


@pytest.mark.spec("IR-21")
@pytest.mark.parametrize("case", NETWORKS.items(), ids=lambda c: c[0])
def test_convolutions_read_channels_last_and_results_keep_their_strides(case):
    tail, copies = case[1]
    given = torch.randn(2, 3, 24, 24), torch.randn(8, 3, 3, 3), torch.randn(4, 8, 3, 3)
    f = network(tail)
    gm = traced(f, *given)
    clones = count(gm, aten.clone.default)
    channels_last(gm)
    gm.graph.lint()
    assert layouts(gm) == [True, True]
    assert count(gm, aten.clone.default) - clones == copies
    for ours, eagers in zip(pytree.tree_leaves(gm(*given)), pytree.tree_leaves(f(*given)), strict=True):
        assert ours.stride() == eagers.stride()
        torch.testing.assert_close(ours, eagers)


def test_random_numbers_are_drawn_in_the_order_of_memory_from_before():
    given = torch.randn(2, 3, 24, 24), torch.randn(8, 3, 3, 3), torch.randn(4, 8, 3, 3)
    f = network(lambda y, x: (y * torch.bernoulli(y.sigmoid())).sum((2, 3)))
    gm = traced(f, *given)
    channels_last(gm)
    assert layouts(gm) == [True, True]
    torch.manual_seed(3)
    expected = f(*given)
    torch.manual_seed(3)
    torch.testing.assert_close(gm(*given), expected)


@pytest.mark.parametrize(
    ("sizes", "f"),
    {
        "heavy weights": (((1, 64, 4, 4), (64, 64, 3, 3)), lambda x, w: F.conv2d(x, w)),
        "transposed": (((2, 3, 24, 24), (3, 8, 3, 3)), lambda x, w: F.conv_transpose2d(x, w)),
        "one dimension": (((2, 3, 24), (8, 3, 3)), lambda x, w: F.conv1d(x, w)),
        "volumes": (((1, 3, 8, 8, 8), (8, 3, 3, 3, 3)), lambda x, w: F.conv3d(x, w)),
    }.values(),
    ids=["heavy weights", "transposed", "one dimension", "volumes"],
)
def test_other_convolutions_stay_as_they_are(sizes, f):
    gm = traced(f, *(torch.randn(s) for s in sizes))
    before = gm.code
    channels_last(gm)
    assert gm.code == before


@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalisation_with_known_statistics_is_a_product_and_a_sum(affine: bool):
    x = torch.randn(2, 6, 9, 9).to(memory_format=torch.channels_last)
    weight, bias, mean = torch.randn(3, 6)
    var = torch.rand(6) + 0.1

    def f(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        given = (w, b) if affine else (None, None)
        return aten._native_batch_norm_legit_no_training(x, *given, mean, var, 0.1, 1e-5)[0] * 2

    given = (x, mean, var, weight, bias)
    gm = traced(f, *given)
    unfold_batch_norm(gm)
    gm.graph.lint()
    assert count(gm, aten.addcmul.default) == 1 and not count(gm, aten._native_batch_norm_legit_no_training.default)
    torch.testing.assert_close(gm(*given), f(*given))
    other = traced(f, x.contiguous(), *given[1:])
    unfold_batch_norm(other)
    assert not count(other, aten.addcmul.default)


def test_a_network_of_convolutions_gives_eagers_numbers_with_a_kept_promise():
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.BatchNorm2d(16, affine=False), nn.Hardswish(), nn.MaxPool2d(2), nn.Conv2d(16, 8, 1), nn.Flatten(),
    ).eval()  # fmt: skip
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(net, backend="lowtide", options={"verify": True})
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(compiled(x), net(x), rtol=1e-5, atol=1e-5)
        found = lowtide.memory_analysis(lambda: compiled(x))
    assert found.measured_peak_bytes == found.promised_peak_bytes
