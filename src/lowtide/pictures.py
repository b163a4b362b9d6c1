"""``lowtide.write_pictures``: a page per compiled graph with its operations in planned order and its buffers.

Comes in: a folder. Goes out: HTML files (``report.steps``). Promised: they load nothing and need no script.
"""

from __future__ import annotations

from pathlib import Path

from lowtide.core.errors import FileError
from lowtide.report.steps import page
from lowtide.runtime.rates import machine
from lowtide.runtime.records import records
from lowtide.schedule.estimate import estimates


def write_pictures(folder: str | Path) -> tuple[Path, ...]:
    """Write ``GRAPH.html`` for every planned graph of this process, ``GRAPH.2.html`` and so on for further sizes. What is
    there under these names is replaced.

    Raises:
        FileError: the folder cannot be made or written to.
    """
    out: list[Path] = []
    for record in records():
        for k, planned in enumerate(record.planned, 1):
            path = Path(folder) / (f"{record.name}.html" if k == 1 else f"{record.name}.{k}.html")
            text = page(planned.schedule, planned.plan, estimates(planned.schedule, machine()))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            except OSError as e:
                raise FileError(str(path), "", f"cannot be written: {e.strerror or e}") from None
            out.append(path)
    return tuple(out)
