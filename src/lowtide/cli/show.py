"""``lowtide show``: a planned schedule as text or as a picture, from the file that ``LOWTIDE_DUMP`` leaves, without PyTorch.

Comes in: a ``NNN_steps.json``. Goes out: the steps on stdout, with what is estimated of each, and where asked for what shares
no bytes with others; or a page (an SVG). Promised: a bad file is refused with place and reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowtide.core import codec
from lowtide.core.errors import FileError, OptionError
from lowtide.plan.refused import refusals
from lowtide.report.steps import load_steps, page, svg
from lowtide.schedule.estimate import estimates
from lowtide.schedule.text import print_schedule


def show(
    steps: Annotated[str, typer.Argument(metavar="STEPS.json", help="a file of LOWTIDE_DUMP; - reads standard input")],
    html: Annotated[str | None, typer.Option(help="write a page with the picture (.svg: the picture alone)")] = None,
    refused: Annotated[bool, typer.Option(help="and what shares no bytes with others, each with why")] = False,
) -> None:
    """Show a planned schedule: its steps in order, what is in them, what they hold and cost."""
    if refused and html is not None:
        raise OptionError("--refused goes with the text on stdout, not with --html")
    schedule, plan = load_steps(codec.read_text(steps), steps)
    found = estimates(schedule)
    if html is None:
        print(print_schedule(schedule), end="")
        print("".join(f"{name}: {e}\n" for name, e in found.items()), end="")
        print("".join(f"{reason}\n" for reason in (refusals(schedule, plan) if refused else ())), end="")
        return
    text = svg(schedule, plan, found) if html.endswith(".svg") else page(schedule, plan, found)
    try:
        Path(html).write_text(text, encoding="utf-8")
    except OSError as e:
        raise FileError(html, "", f"cannot be written: {e.strerror or e}") from None
