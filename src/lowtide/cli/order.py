"""``lowtide order``: the order of least peak for a memory graph given as JSON, without PyTorch.

Comes in: a file in the format of docs/schemas/order-graph-1.schema.json. Goes out: a table, or one JSON object. Promised: a bad
file is refused with place and reason; progress is written to stderr, and only where that is a terminal.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from lowtide.core import codec
from lowtide.core.errors import UserError
from lowtide.core.units import format_bytes
from lowtide.memory import json as graph_json
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.lifetime import lifetimes, timeline
from lowtide.order.engine import OrderResult, reorder


def order(
    graph: Annotated[str, typer.Argument(metavar="GRAPH.json", help="The graph; - reads standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[str | None, typer.Option("-o", "--out", help="Write the JSON object to this file.")] = None,
    budget_steps: Annotated[
        int | None, typer.Option(min=0, help="Search steps; 0 compares the classic orders only.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Count the bytes of this device only.")] = None,
) -> None:
    """Order the nodes of a memory graph for the least peak."""
    start = time.perf_counter()
    loaded = graph_json.load(graph)
    if device is not None and all(b.device != device for b in loaded.buffers):
        known = ", ".join(sorted({b.device for b in loaded.buffers})) or "none"
        raise UserError(f"no buffer of {graph} is on device {device!r}; it has: {known}")
    result = reorder(
        loaded, budget_steps=budget_steps, device=device, progress=_progress if sys.stderr.isatty() else None
    )
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    found = _answer(loaded, result, time.perf_counter() - start, device)
    if out is not None:
        Path(out).write_text(codec.dumps(found) + "\n", encoding="utf-8")
    if as_json:
        print(codec.dumps(found))
    else:
        _table(loaded, result, found)


def _progress(steps: int, peak: int, bound: int) -> None:
    print(f"\r\033[K{steps} steps, peak {format_bytes(peak)}, bound {format_bytes(bound)}", end="", file=sys.stderr)


def _answer(graph: MemoryGraph, result: OrderResult, seconds: float, device: str | None) -> dict[str, object]:
    alive = lifetimes(graph, result.order)
    names = sorted({b.device for b in graph.buffers})
    return {
        "status": result.status,
        "peak": result.peak,
        "lower_bound": result.lower_bound,
        "bound_name": result.bound_name,
        "gap": round(result.gap, 6),
        "seconds": round(seconds, 6),
        "device": device,
        "devices": {d: timeline(graph, result.order, device=d, alive=alive).peak for d in names},
        "candidates": dict(result.candidates),
        "steps": result.steps,
        "stopped_by": result.stopped_by,
        "order": [graph.nodes[i].name for i in result.order],
    }


def _table(graph: MemoryGraph, result: OrderResult, found: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("order", "peak", "bytes", "above best", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, peak in sorted(result.candidates.items(), key=lambda item: item[1]):
        above = f"+{peak / result.peak - 1:.1%}" if result.peak else "-"
        table.add_row(name, format_bytes(peak), f"{peak:,}", above)
    console.print(table)
    console.print(
        f"\n{len(graph.nodes)} nodes, {len(graph.buffers)} buffers: peak {format_bytes(result.peak)}, "
        f"{'proved optimal' if result.status == 'OPTIMAL' else f'at most {result.gap:.2%} above the optimum'} "
        f"(bound {format_bytes(result.lower_bound)} by {result.bound_name}; {result.steps} steps, {found['seconds']} s)"
    )
