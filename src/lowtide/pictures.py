"""``lowtide.write_pictures``: a page per compiled graph with its operations in planned order and its buffers.

Comes in: a folder. Goes out: HTML files (``report.steps``). Promised: they load nothing and need no script.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lowtide.core.errors import FileError
from lowtide.report.steps import page
from lowtide.runtime.rates import machine
from lowtide.runtime.records import records
from lowtide.runtime.timing import call_seconds
from lowtide.schedule.estimate import estimates, refuse_unknown


def write_pictures(
    folder: str | Path, *, measured: bool = False, seconds: Mapping[str, float] | None = None
) -> tuple[Path, ...]:
    """Write ``GRAPH.html`` for every planned graph of this process, ``GRAPH.2.html`` and so on for further sizes. What is
    there under these names is replaced.

    measured: run each distinct library call a few times on tensors of its own and show how long it took, instead of what is
    estimated. seconds: of operations, by name, as somebody knows them; they go before both.

    Raises:
        FileError: the folder cannot be made or written to. UserError: ``seconds`` names what is no step of any of the graphs.
    """
    given = dict(seconds or {})
    refuse_unknown(given, {s.op.name for r in records() for p in r.planned for s in p.schedule.steps})
    out: list[Path] = []
    for record in records():
        for k, planned in enumerate(record.planned, 1):
            path = Path(folder) / (f"{record.name}.html" if k == 1 else f"{record.name}.{k}.html")
            steps = {s.op.name for s in planned.schedule.steps}
            known = call_seconds(planned.schedule) if measured else {}
            known |= {n: t for n, t in given.items() if n in steps}
            text = page(planned.schedule, planned.plan, estimates(planned.schedule, machine(), known))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            except OSError as e:
                raise FileError(str(path), "", f"cannot be written: {e.strerror or e}") from None
            out.append(path)
    return tuple(out)
