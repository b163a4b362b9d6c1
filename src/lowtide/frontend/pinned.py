"""Pinned memory that a program asks for, and keeps asking for where functionalisation would forget it.

Comes in: a captured graph. Goes out: the same graph, changed in place. ``torch.empty(..., pin_memory=True).copy_(x)`` is captured
as a pinned tensor that nobody reads any more, and a copy that lies anywhere. Promised: where an operation stands for the change
of a pinned tensor (``copy``, ``fill``, ``zero``, those of a part of it, and the constant of ``torch.tensor``), its result is
pinned: written into that tensor where nobody reads what was there, else copied. Other changes in place (``add_``) look after
capture like the operation that makes a new tensor, which is not pinned; their results are not either.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lowtide.frontend.made import call
from lowtide.schedule.schedule import COPIES_WHOLE
from lowtide.torch_compat import OpOverload, real_tensors, schema_views

aten = torch.ops.aten
_PIN = (aten._pin_memory.default, aten.pin_memory.default)
_OURS = "lowtide_pinned"  # in the meta of what we put in: whoever looks again takes the user's own call for no such
_IN_PLACE: dict[Any, Any] = {
    aten.copy.default: aten.copy_.default,
    aten.fill.Scalar: aten.fill_.Scalar,
    aten.fill.Tensor: aten.fill_.Tensor,
    aten.zero.default: aten.zero_.default,
}


def asks_for_pinned(node: fx.Node) -> bool:
    """Whether a call makes its result in pinned memory, which is the host's."""
    value = node.meta.get("val")
    here = isinstance(value, torch.Tensor) and value.device.type == "cpu"
    return here and (node.target in _PIN or node.kwargs.get("pin_memory") is True)


def keep_pinned(gm: fx.GraphModule) -> None:
    """Rewrite ``gm``, and the programs inside it, in place, so that what is changed in pinned memory stays there."""
    for module in gm.modules():
        if isinstance(module, fx.GraphModule):
            _keep_pinned(module)


def _keep_pinned(gm: fx.GraphModule) -> None:
    pinned: set[fx.Node] = set()
    changed = False
    for node in list(gm.graph.nodes):
        if _is_pinned(gm, node, pinned):
            pinned.add(node)
        elif _changes(node) and node.args[0] in pinned and not any(_OURS in u.meta for u in node.users):
            pinned.add(_pinned_again(gm.graph, node))
            changed = True
    if changed:
        gm.recompile()


def pinned_in(gm: fx.GraphModule) -> set[fx.Node]:
    """Nodes whose values are in pinned memory, or will be once ``keep_pinned`` has seen ``gm``."""
    found: set[fx.Node] = set()
    for node in gm.graph.nodes:
        if _is_pinned(gm, node, found) or (_changes(node) and node.args[0] in found):
            found.add(node)
    return found


def only_copied(node: fx.Node) -> bool:
    """Whether nothing but changes of other tensors reads a value, or changes of a copy of it."""
    return all(str(u.target) in COPIES_WHOLE for u in node.users)


def _is_pinned(gm: fx.GraphModule, node: fx.Node, pinned: set[fx.Node]) -> bool:
    """Whether a node's value is in pinned memory as it is: made there, a constant there, or a view of what is."""
    if node.op == "get_attr":
        held: Any = gm
        for part in str(node.target).split("."):
            held = getattr(held, part)
        with real_tensors():
            return isinstance(held, torch.Tensor) and held.device.type == "cpu" and held.is_pinned()
    if not isinstance(node.target, OpOverload):
        return False
    bases = [node.args[v] for v in schema_views(node.target) if v is not None and v < len(node.args)]
    return asks_for_pinned(node) or any(isinstance(b, fx.Node) and b in pinned for b in bases)


def _changes(node: fx.Node) -> bool:
    """Whether a call stands for the change of its first argument."""
    return node.target in _IN_PLACE or str(node.target) in COPIES_WHOLE or node.target is aten.lift_fresh_copy.default


def _pinned_again(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """What stands for the change in pinned memory; the change itself where only others copy it, whose memory is what was asked
    for."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if node.target in _IN_PLACE and asks_for_pinned(source) and list(source.users) == [node]:
        with graph.inserting_before(node):
            call(graph, node, _IN_PLACE[node.target], *node.args)
        node.replace_all_uses_with(source)
        graph.erase_node(node)
        return source
    if only_copied(node):
        return node
    with graph.inserting_after(node):
        made = graph.call_function(_PIN[0], (node,))
    made.meta = {**node.meta, _OURS: True}
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    return made
