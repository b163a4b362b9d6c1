"""``lowtide show``: a planned schedule as text or as a picture, from the file that ``LOWTIDE_DUMP`` leaves, without PyTorch.

Comes in: a ``NNN_steps.json``. Goes out: the steps on stdout, with what is estimated of each, and where asked for what shares
no bytes with others, as text or as one JSON object; or a page (an SVG). Promised: a bad file is refused with place and reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from lowtide.core import codec
from lowtide.core.errors import FileError, OptionError
from lowtide.core.json import reason_to_json
from lowtide.core.reason import Reason
from lowtide.plan.plan import MemoryPlan
from lowtide.plan.refused import refusals
from lowtide.report.steps import load_steps, page, svg
from lowtide.schedule.estimate import NodeEstimate, estimates
from lowtide.schedule.schedule import Schedule, memory_graph
from lowtide.schedule.text import print_schedule


def show(
    steps: Annotated[str, typer.Argument(metavar="STEPS.json", help="a file of LOWTIDE_DUMP; - reads standard input")],
    html: Annotated[str | None, typer.Option(help="write a page with the picture (.svg: the picture alone)")] = None,
    refused: Annotated[bool, typer.Option(help="and what shares no bytes with others, each with why")] = False,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Show a planned schedule: its steps in order, what is in them, what they hold and cost."""
    if (refused or json) and html is not None:
        raise OptionError(f"--{'refused' if refused else 'json'} goes with what is printed on stdout, not with --html")
    schedule, plan = load_steps(codec.read_text(steps), steps)
    found = estimates(schedule)
    reasons = refusals(schedule, plan) if refused else ()
    if json:
        print(codec.dumps(as_json(schedule, plan, found, reasons if refused else None)))
        return
    if html is None:
        print(print_schedule(schedule), end="")
        print("".join(f"{name}: {e}\n" for name, e in found.items()), end="")
        print("".join(f"{reason}\n" for reason in reasons), end="")
        return
    text = svg(schedule, plan, found) if html.endswith(".svg") else page(schedule, plan, found)
    try:
        Path(html).write_text(text, encoding="utf-8")
    except OSError as e:
        raise FileError(html, "", f"cannot be written: {e.strerror or e}") from None


def as_json(
    schedule: Schedule, plan: MemoryPlan, found: Mapping[str, NodeEstimate], reasons: Sequence[Reason] | None
) -> dict[str, object]:
    """What is printed as text, by name: per step its bytes alive and what is estimated of it. Bytes are those of ``device``, on
    which most are; what is held on further devices is in ``others``. ``reasons``: None if not asked."""
    at = {n.name: t for t, n in enumerate(memory_graph(schedule).nodes)}
    steps = [
        {
            "name": s.op.name,
            "target": s.op.target,
            "section": schedule.graph.sections[s.section].name,
            "kernel": s.loop is not None,
            "origin": str(s.op.origin),
            "live_bytes": plan.live[at[s.op.name]],
            "moved_bytes": found[s.op.name].nbytes,
            "operations": found[s.op.name].operations,
            "seconds": found[s.op.name].seconds,
        }
        for s in schedule.steps
    ]
    out: dict[str, object] = {
        "version": codec.VERSION,
        "kind": "shown",
        "graph": schedule.graph.name,
        "device": plan.device,
        "promised_bytes": plan.promised_nbytes,
        "lower_bound_bytes": plan.lower_bound,
        "others": [
            {
                "device": told.device,
                "promised_bytes": told.promised_nbytes,
                "lower_bound_bytes": told.lower_bound,
                "live_bytes": {s.op.name: told.live[at[s.op.name]] for s in schedule.steps},
            }
            for told in plan.others
        ],
        "steps": steps,
    }
    return out if reasons is None else out | {"refused": [reason_to_json(r) for r in reasons]}
