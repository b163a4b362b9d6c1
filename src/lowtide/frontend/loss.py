"""Cross entropy without a second tensor as large as the logits.

Comes in: AOTAutograd's joint graph. Goes out: the same graph, changed in place. ATen computes the gradient of
``nll_loss(log_softmax(x))`` by filling a zero tensor of the logits' size with one value per row, and combining it with
the softmax. Promised: the same arithmetic per element, but from the softmax outwards, so that each step may overwrite
the one before it and, at last use, the saved log-softmax itself:

    grad[i, j] = -exp(logp[i, j]) * v[i]           v[i]: what nll_loss gives at row i's target, 0 where it is ignored
    grad[i, target[i]] += v[i]

Without a backward the log-softmax is wanted at one element per row only. Kernels of our own take each row's maximum and
sum of exponentials, which are all that is stored:

    logp[i, target[i]] = x[i, target[i]] - max(x[i]) - log(sum(exp(x[i] - max(x[i]))))

ATen computes the log-softmax of a few rows at a time, and what ``nll_loss`` would have picked is picked there: the same
numbers, bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from lowtide.frontend.made import call

aten = torch.ops.aten
_BLOCK = 1 << 19  # bytes of log-softmax at a time: in cache, and little beside logits that are worth it
_WORTH = 8 * _BLOCK
_MOST_BLOCKS = 64  # each costs a few calls
_COMPUTED = (torch.float32, torch.float64)  # half types would be rounded on the way
_PASSED_ON = (aten.detach.default, aten.alias.default)


def shrink_cross_entropy(joint: fx.GraphModule) -> None:
    """Rewrite every plain cross entropy over rows (two dimensions, no class weights) in the joint graph."""

    def rewrite(node: fx.Node) -> bool:
        plain = _is_plain(node, node.args[0])
        if plain:
            _rewrite(joint.graph, node, node.args[0])
        return plain

    _each(joint, aten._log_softmax_backward_data.default, rewrite)


def _each(gm: fx.GraphModule, target: Any, rewrite: Callable[[fx.Node], bool]) -> None:
    """Have all calls of ``target`` rewritten; ``rewrite`` says whether it did."""
    if [node for node in gm.graph.find_nodes(op="call_function", target=target) if rewrite(node)]:
        gm.graph.eliminate_dead_code()
        gm.recompile()


def _source(node: Any) -> Any:
    while isinstance(node, fx.Node) and node.target in _PASSED_ON:
        node = node.args[0]
    return node


def _is_plain(node: fx.Node, spread: Any) -> bool:
    if not isinstance(spread, fx.Node) or spread.target is not aten.nll_loss_backward.default or len(spread.users) != 1:
        return False
    _, logp, dim, dtype = node.args
    value = logp.meta["val"]
    same = _source(spread.args[1]) is _source(logp)
    return same and value.dim() == 2 and dim in (1, -1) and spread.args[3] is None and value.dtype == dtype


def _rewrite(graph: fx.Graph, node: fx.Node, spread: fx.Node) -> None:
    logp = node.args[1]
    grad, _, target, _, reduction, ignored, total = spread.args

    new = functools.partial(call, graph, node)
    with graph.inserting_before(node):
        counted = new(aten.ne.Scalar, target, ignored)
        first = new(aten.masked_fill.Scalar, target, counted, 0)
        column = new(aten.slice.Tensor, logp, 1, 0, 1)
        value = new(aten.nll_loss_backward.default, grad, column, first, None, reduction, ignored, total)
        at = new(aten.masked_fill.Scalar, target, new(aten.logical_not.default, counted), 0)
        softmax = new(aten.exp.default, logp)
        scaled = new(aten.mul.Tensor, softmax, new(aten.neg.default, value))
        result = new(aten.scatter_add.default, scaled, 1, new(aten.unsqueeze.default, at, 1), value)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def split_cross_entropy(gm: fx.GraphModule, *, loops: bool) -> None:
    """Rewrite every cross entropy over rows of known number in a graph without a backward, where the logits are large.

    ``loops``: what is between two reductions over a row is computed in kernels of our own, hence not stored.
    """

    def rewrite(node: fx.Node) -> bool:
        logp, _target, weight, *_ = node.args
        large = weight is None and _is_rows(logp) and list(logp.users) == [node]
        if large:
            _split(gm.graph, node, logp, loops and logp.meta["val"].dtype in _COMPUTED)
        return large

    _each(gm, aten.nll_loss_forward.default, rewrite)


def _is_rows(logp: Any) -> bool:
    if not isinstance(logp, fx.Node) or logp.target is not aten._log_softmax.default:
        return False
    value, dim, in_float = logp.meta["val"], logp.args[1], logp.args[2]
    if value.dim() != 2 or dim not in (1, -1) or in_float or not all(isinstance(n, int) for n in value.shape):
        return False
    return value.shape[0] > 1 and value.nbytes >= _WORTH


def _split(graph: fx.Graph, node: fx.Node, logp: fx.Node, loops: bool) -> None:
    _, target, _, reduction, ignored = node.args
    new = functools.partial(call, graph, node)
    with graph.inserting_before(node):
        counted = new(aten.ne.Scalar, target, ignored)
        first = new(aten.masked_fill.Scalar, target, counted, 0)
        at = new(
            aten.unsqueeze.default, new(aten.masked_fill.Scalar, target, new(aten.logical_not.default, counted), 0), 1
        )
        column = (_whole if loops else _by_blocks)(new, logp, at)
        result = new(aten.nll_loss_forward.default, column, first, None, reduction, ignored)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _whole(new: Callable[..., fx.Node], logp: fx.Node, at: fx.Node) -> fx.Node:
    """The log-softmax at column ``at`` of each row, from each row's maximum and sum."""
    x = logp.args[0]
    most = new(aten.amax.default, x, [1], True)
    total = new(aten.sum.dim_IntList, new(aten.exp.default, new(aten.sub.Tensor, x, most)), [1], True)
    picked = new(aten.sub.Tensor, new(aten.gather.default, x, 1, at), most)
    return new(aten.sub.Tensor, picked, new(aten.log.default, total))


def _by_blocks(new: Callable[..., fx.Node], logp: fx.Node, at: fx.Node) -> fx.Node:
    """The log-softmax at column ``at`` of each row, of a few rows at a time."""
    x, value = logp.args[0], logp.meta["val"]
    rows = value.shape[0]
    each = max(_BLOCK // (value.nbytes // rows), -(-rows // _MOST_BLOCKS), 1)
    picked: list[fx.Node] = []
    for begin in range(0, rows, each):
        end = min(begin + each, rows)
        block = new(aten._log_softmax.default, new(aten.slice.Tensor, x, 0, begin, end), 1, False)
        picked.append(new(aten.gather.default, block, 1, new(aten.slice.Tensor, at, 0, begin, end)))
    return new(aten.cat.default, picked) if len(picked) > 1 else picked[0]
