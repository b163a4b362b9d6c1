"""Copies: those that copy nothing but bytes go, and those of a whole storage under a view become ones of the view.

Comes in: a captured graph without mutation (but for ``copy_`` to its inputs at the end). Goes out: the same graph, changed
in place. Dropout that is off, ``contiguous`` and ``to`` leave ``clone`` behind. Promised: one goes only where nobody can
tell: its elements lie as those of what it copies do, which the graph itself computed, and neither it nor a view of it is
returned, so nothing outside is given an alias that it did not have; and where it has views, which say where they begin in its
storage, it begins where what it copies does.

To change a part of a tensor without touching it (``slice_scatter`` and its like), ATen copies the whole storage that it
stands on. Promised: after ``own_storages`` no such operation reads a view whose size is known, so that what it copies is what
its result needs; a copy of what is pinned is asked for pinned.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from lowtide.core.errors import Unsupported
from lowtide.frontend.made import call
from lowtide.frontend.pinned import only_copied, pinned_in
from lowtide.frontend.sizes import dim_of
from lowtide.ir.strides import same_places
from lowtide.schedule.schedule import COPIES_WHOLE
from lowtide.torch_compat import OpOverload, schema_views

aten = torch.ops.aten


def drop_copies(gm: fx.GraphModule) -> None:
    """Let the readers of a needless copy read the original."""
    if any(_mutates(n) for n in gm.graph.nodes):
        return
    gone = False
    for node in list(gm.graph.find_nodes(op="call_function", target=aten.clone.default)):
        if _needless(node):  # asked one after the other: a copy of a copy that went copies something else
            node.replace_all_uses_with(node.args[0])
            gm.graph.erase_node(node)
            gone = True
    if gone:
        gm.recompile()


def own_storages(gm: fx.GraphModule) -> None:
    """Where a part of a view is to be changed, a copy of the view to change instead."""
    changed = False
    pinned: set[fx.Node] | None = None
    for node in list(gm.graph.nodes):
        view = node.args[0] if str(node.target) in COPIES_WHOLE else None
        if not isinstance(view, fx.Node) or _base(view) is None or not _static(view.meta["val"]):
            continue
        value = view.meta["val"]
        with gm.graph.inserting_before(node):
            pinned = pinned_in(gm) if pinned is None else pinned
            form = {"dtype": value.dtype, "device": value.device}
            if view in pinned and not only_copied(node):
                form["pin_memory"] = True
            own = call(gm.graph, node, aten.new_empty_strided.default, view, [*value.shape], [*value.stride()], **form)
            if node.target is not aten.copy.default:  # that one changes all of it
                own = call(gm.graph, node, aten.copy.default, own, view)
        node.update_arg(0, own)
        changed = True
    if changed:
        gm.recompile()


def _static(value: torch.Tensor) -> bool:
    return all(isinstance(n, int) for n in (*value.shape, *value.stride()))


def _mutates(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, OpOverload):
        return False
    if target is aten.copy_.default:
        changed = node.args[0]
        return not (isinstance(changed, fx.Node) and changed.op == "placeholder")
    return target._schema.is_mutable


def _needless(node: fx.Node) -> bool:
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op == "placeholder":
        return False
    theirs, ours = source.meta.get("val"), node.meta.get("val")
    if not isinstance(theirs, torch.Tensor) or not isinstance(ours, torch.Tensor):
        return False
    if theirs.dtype != ours.dtype or theirs.layout != torch.strided or _of_an_input(source) or _returned(node):
        return False
    try:  # as they are written: to ask for the values of symbols would add a guard
        size, was, now = (tuple(map(dim_of, dims)) for dims in (ours.shape, theirs.stride(), ours.stride()))
        begins = dim_of(theirs.storage_offset()) == dim_of(ours.storage_offset())
    except Unsupported:
        return False
    return same_places(size, was, now) and (begins or not any(_base(u) is node for u in node.users))


def _of_an_input(node: fx.Node) -> bool:
    """Whether it is an input or a view of one: the program may change it."""
    at: fx.Node | None = node
    while at is not None:
        if at.op == "placeholder":
            return True
        at = _base(at)
    return False


def _returned(node: fx.Node) -> bool:
    """Whether it or a view of it is returned, or given to something that is no operation."""
    waiting = [node]
    while waiting:
        at = waiting.pop()
        for user in at.users:
            if _base(user) is at:
                waiting.append(user)
            elif not isinstance(user.target, OpOverload):
                return True
    return False


def _base(node: fx.Node) -> fx.Node | None:
    """What it is a view, or a part, of."""
    if node.target is operator.getitem or node.target is aten._unsafe_view.default:  # a view, whatever its schema says
        position: int | None = 0
    elif isinstance(node.target, OpOverload):
        position = next((v for v in schema_views(node.target) if v is not None), None)
    else:
        return None
    base = node.args[position] if position is not None and position < len(node.args) else None
    return base if isinstance(base, fx.Node) else None
