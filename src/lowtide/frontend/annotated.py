"""What a program asks of the order of its operations, by annotation.

Comes in: a Graph whose operations carry what was said of them as tags (``Origin.tags``). Goes out: the same with ``Op.after`` and
``Op.group`` as two of those ask. Promised: the program's order stays as it was captured; a graph that asks for nothing comes back
as it is. What is asked for holds within one call of one captured graph that is planned before it runs: ``import_graph`` alone
asks for this, so that in programs that are planned as they run (``executor/capture.py``) such annotations say nothing.

    with torch.fx.traceback.annotate({"stage": "log"}): ...            # any name and text
    with torch.fx.traceback.annotate({"lowtide_after": "stage=log"}):  # runs after all of that which was captured before it
    with torch.fx.traceback.annotate({"lowtide_group": "pair"}):       # runs side by side, nothing else joins it

Operators from outside torch whose effects no schema tells (they print, count, talk to somebody) have no other way to keep their
order.
"""

from __future__ import annotations

from dataclasses import replace

from lowtide.ir.graph import Graph, Op, Section

LONGEST = 60  # characters of a tag: it stands in every message
AFTER, GROUP = "lowtide_after=", "lowtide_group="
_COMPARED = LONGEST - len(AFTER)  # characters of a tag: no more are left of it behind ``AFTER``


def annotated(graph: Graph) -> Graph:
    """The graph with what its tags ask for."""
    if not any(tag.startswith((AFTER, GROUP)) for op in graph.ops for tag in op.origin.tags):
        return graph
    return replace(graph, sections=tuple(map(_section, graph.sections)))


def _section(section: Section) -> Section:
    """Of a group only what stands side by side in the program is one, so that the program's order keeps it: where others were
    captured in between, its parts are groups of their own."""
    said: dict[str, list[str]] = {}  # tag -> operations that have it
    parts: dict[str, int] = {}
    last = ""
    ops: list[Op] = []
    for op in section.ops:
        if op.view:
            ops.append(op)
            continue
        group = _told(op, GROUP)
        if group and group != last:
            parts[group] = parts.get(group, 0) + 1
        last = group
        number = parts.get(group, 0)
        after = tuple(said.get(_told(op, AFTER), ()))
        ops.append(replace(op, after=after, group=group if number < 2 else f"{group}.{number}"))
        for tag in op.origin.tags:
            said.setdefault(tag[:_COMPARED], []).append(op.name)
    return replace(section, ops=tuple(ops))


def _told(op: Op, key: str) -> str:
    return next((tag.removeprefix(key) for tag in op.origin.tags if tag.startswith(key)), "")
