"""Batch normalisation with known statistics, as the product and sum that it is.

Comes in: a captured graph without a backward. Goes out: the same graph, changed in place. ATen's operation allocates its
result; ``shift + x * scale`` may overwrite ``x``, and over channels last in memory takes half the time. Promised: scale and
shift as ATen computes them, per channel.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx

from lowtide.frontend.made import call
from lowtide.frontend.sizes import strided
from lowtide.ir.strides import channels_last

aten = torch.ops.aten


def unfold_batch_norm(gm: fx.GraphModule) -> None:
    """Rewrite every batch normalisation over channels last in memory whose statistics are not returned."""
    found = gm.graph.find_nodes(op="call_function", target=aten._native_batch_norm_legit_no_training.default)
    for node in (chosen := [n for n in found if _is_plain(n)]):
        with gm.graph.inserting_before(node):
            result = _unfolded(gm.graph, node)
        for user in list(node.users):
            user.replace_all_uses_with(result)
            gm.graph.erase_node(user)
        gm.graph.erase_node(node)
    if chosen:
        gm.recompile()


def _is_plain(node: fx.Node) -> bool:
    x, *given = (a.meta["val"] for a in node.all_input_nodes)
    lies = strided(x)
    dense = x.dim() == 4 and lies is not None and channels_last(*lies)
    return dense and all(v.dtype == x.dtype for v in given) and all(user.args[1] == 0 for user in node.users)


def _unfolded(graph: fx.Graph, node: fx.Node) -> fx.Node:
    x, weight, bias, mean, var, _momentum, eps = node.args
    new = functools.partial(call, graph, node)
    channels = [1, mean.meta["val"].shape[0], 1, 1]
    scale = new(aten.rsqrt.default, new(aten.add.Scalar, var, eps))
    if weight is not None:
        scale = new(aten.mul.Tensor, scale, weight)
    product: Any = new(aten.mul.Tensor, mean, scale)
    shift = new(aten.neg.default, product) if bias is None else new(aten.sub.Tensor, bias, product)
    wide = [new(aten.view.default, v, channels) for v in (shift, scale)]
    return new(aten.addcmul.default, wide[0], x, wide[1])
