"""Cross entropy's backward without a second tensor as large as the logits.

Comes in: AOTAutograd's joint graph. Goes out: the same graph, changed in place. ATen computes the gradient of
``nll_loss(log_softmax(x))`` by filling a zero tensor of the logits' size with one value per row, and combining it with
the softmax. Promised: the same arithmetic per element, but from the softmax outwards, so that each step may overwrite
the one before it and, at last use, the saved log-softmax itself:

    grad[i, j] = -exp(logp[i, j]) * v[i]           v[i]: what nll_loss gives at row i's target, 0 where it is ignored
    grad[i, target[i]] += v[i]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
_PASSED_ON = (aten.detach.default, aten.alias.default)


def shrink_cross_entropy(joint: fx.GraphModule) -> None:
    """Rewrite every plain cross entropy over rows (two dimensions, no class weights) in the joint graph."""
    changed = False
    for node in joint.graph.find_nodes(op="call_function", target=aten._log_softmax_backward_data.default):
        spread = node.args[0]
        if _is_plain(node, spread):
            _rewrite(joint.graph, node, spread)
            changed = True
    if changed:
        joint.graph.eliminate_dead_code()
        joint.recompile()


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

    def call(op: Any, *args: Any) -> fx.Node:
        made = graph.call_function(op, args)
        made.meta = {k: v for k, v in node.meta.items() if k in ("stack_trace", "nn_module_stack", "seq_nr")}
        values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
        with logp.meta["val"].fake_mode:
            made.meta["val"] = op(*values)
        return made

    with graph.inserting_before(node):
        counted = call(aten.ne.Scalar, target, ignored)
        first = call(aten.masked_fill.Scalar, target, counted, 0)
        column = call(aten.slice.Tensor, logp, 1, 0, 1)
        value = call(aten.nll_loss_backward.default, grad, column, first, None, reduction, ignored, total)
        at = call(aten.masked_fill.Scalar, target, call(aten.logical_not.default, counted), 0)
        softmax = call(aten.exp.default, logp)
        scaled = call(aten.mul.Tensor, softmax, call(aten.neg.default, value))
        result = call(aten.scatter_add.default, scaled, 1, call(aten.unsqueeze.default, at, 1), value)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
