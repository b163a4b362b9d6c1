"""Joint graph -> forward and backward graph: what is saved between them, and what backward computes again.

Comes in: AOTAutograd's joint graph. Goes out: the two halves as AOTAutograd wants them. Promised: the saved bytes are a
minimum cut (torch's partitioner, with its bans on recomputing pointwise values lifted) in which, beyond pointwise
values, normalisations may be computed again from their input; matrix products, convolutions, attention, random numbers,
reductions, loops and branches never are, unless the user's checkpointing asks for it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from lowtide.frontend.copies import drop_copies, own_storages
from lowtide.frontend.loss import shrink_cross_entropy
from lowtide.frontend.redraw import unwrap_draws
from lowtide.torch_compat import (
    OpOverload,
    checkpointed_block,
    cond_operator,
    keep_saved,
    min_cut_partition,
    recomputable_by_default,
    scan_operator,
    schema_views,
    stacking_while_operator,
    while_operator,
)

# One cheap pass over their input each, and their result is as large as what they read.
CHEAP = frozenset(
    f"aten.{name}"
    for name in (
        "native_layer_norm", "native_group_norm", "_native_batch_norm_legit_functional",
        "_native_batch_norm_legit_no_training", "native_batch_norm", "_fused_rms_norm", "leaky_relu", "elu", "hardswish",
        "hardsigmoid", "hardtanh", "mish", "logit", "celu", "softplus", "bitwise_and", "bitwise_or", "logical_not",
        "logical_and", "logical_or", "masked_fill", "constant_pad_nd", "tril", "triu", "roll", "flip",
    )
)  # fmt: skip
_OF_PROGRAMS = (cond_operator, scan_operator, while_operator, stacking_while_operator)
_BATCH_NORM = torch.ops.aten._native_batch_norm_legit_functional.default


def partition(joint: fx.GraphModule, inputs: Any, **given: Any) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Split ``joint``; ``given`` are the keyword arguments that AOTAutograd passes to a partition function."""
    drop_copies(joint)
    own_storages(joint)
    _forget_running_statistics(joint)
    shrink_cross_entropy(joint)
    for node in joint.graph.nodes:
        if node.op == "call_function" and not _cheap(node):
            keep_saved(node)
    for node in _readers_of_mutated_inputs(joint):
        keep_saved(node, whatever_was_asked=True)
    _save_between_blocks(joint)
    fw, bw = min_cut_partition(joint, inputs, **given)
    unwrap_draws(fw, bw)
    if _statistics_unread(bw):
        _drop_unread(fw, bw, given["num_fwd_outputs"])
    return fw, bw


def _save_between_blocks(joint: fx.GraphModule) -> None:
    """Where a checkpointed block begins with one of several results of the block before it (that of a normalisation), the
    operation that made it is not run again. torch's partitioner forbids that only for the result itself, to no effect:
    backward would then begin with the whole forward, every block of it alive at once."""
    for node in joint.graph.find_nodes(op="call_function", target=operator.getitem):
        made_in = checkpointed_block(node)
        used_in = [b for user in node.users if (b := checkpointed_block(user)) is not None]
        if made_in is not None and any(b > made_in for b in used_in):
            for kept in (node.args[0], *node.args[0].users):
                keep_saved(kept, whatever_was_asked=True)


def _readers_of_mutated_inputs(joint: fx.GraphModule) -> list[fx.Node]:
    """What is computed from an input before the program changes it. Computed again in backward it would see the input as
    it is afterwards, and give a wrong gradient (torch's partitioner alone lets that happen)."""
    changed = [n.args[0] for n in joint.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default)]
    waiting = [n for n in changed if isinstance(n, fx.Node) and n.op == "placeholder"]
    readers: dict[fx.Node, None] = {}
    while waiting:
        for user in waiting.pop().users:
            if user.target is _BATCH_NORM and user.args[5] is True:
                continue  # its result reads the batch's statistics, and computed again it is given no others
            if isinstance(user.target, OpOverload) and user.target is not torch.ops.aten.copy_.default:
                readers[user] = None
                if any(v is not None for v in schema_views(user.target)):
                    waiting.append(user)
    return list(readers)


def _forget_running_statistics(joint: fx.GraphModule) -> None:
    """In training the gradient of a batch normalisation reads the batch's statistics; the running ones, which it also
    takes, would only be kept alive."""
    for node in joint.graph.find_nodes(op="call_function", target=torch.ops.aten.native_batch_norm_backward.default):
        grad, x, weight, _mean, _var, *rest = node.args
        if rest[2] is True:
            node.args = (grad, x, weight, None, None, *rest)


def _cheap(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, OpOverload):
        return target not in _OF_PROGRAMS
    return recomputable_by_default(target) or str(target._overloadpacket) in CHEAP


def _statistics_unread(bw: fx.GraphModule) -> bool:
    """Batch normalisations that backward computes again need no running statistics: they would be saved, and change
    under the feet of a second forward call."""
    changed = False
    for node in bw.graph.find_nodes(op="call_function", target=_BATCH_NORM):
        for unread in [u for u in node.users if not u.users]:
            bw.graph.erase_node(unread)
        x, weight, bias, _mean, _var, _training, momentum, eps = node.args
        with bw.graph.inserting_before(node):
            again = bw.graph.call_function(
                torch.ops.aten._native_batch_norm_legit.no_stats, (x, weight, bias, True, momentum, eps)
            )
        again.meta = dict(node.meta)
        again.meta["val"] = tuple(node.meta["val"][:3])
        node.replace_all_uses_with(again)
        bw.graph.erase_node(node)
        changed = True
    return changed


def _drop_unread(fw: fx.GraphModule, bw: fx.GraphModule, kept: int) -> None:
    """Take saved tensors that backward no longer reads out of both halves."""
    (output,) = fw.graph.find_nodes(op="output")
    unread = {n.name for n in bw.graph.find_nodes(op="placeholder") if not n.users and "tangents" not in n.name}
    returned = list(output.args[0])
    saved = {n.name for n in returned[kept:] if isinstance(n, fx.Node)}
    output.args = ([*returned[:kept], *(n for n in returned[kept:] if getattr(n, "name", None) not in unread)],)
    for node in bw.graph.find_nodes(op="placeholder"):
        if node.name in unread & saved:
            bw.graph.erase_node(node)
    fw.recompile()
    bw.recompile()
