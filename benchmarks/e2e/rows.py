"""One measured row, and a file of them.

Bytes are beyond what the caller holds when the iteration begins, times are seconds. A file holds at most one row per
(model, backend, mode); new rows replace old ones, so that a part can be measured again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

MODES = ("train", "infer", "step")
BACKENDS = ("eager", "inductor", "inductor-tuned", "lowtide")
VERSION = 1


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured for one model under one backend in one mode.

    first_seconds: the first call (with backward, and optimizer in ``step``) with empty caches; of it capture_seconds
        were Dynamo and AOTAutograd. step_seconds: the median iteration. heap_peak_nbytes: whole heap; allocator_peak_nbytes:
        what the framework's allocator counts; promised_nbytes: what Lowtide said before. kept_nbytes: what the backend
        keeps between calls, given back before peaks are taken. wrong: where loss or gradient norms differ from eager's.
    """

    model: str
    backend: str
    mode: str
    date: str
    params_nbytes: int = 0
    heap_peak_nbytes: int | None = None
    allocator_peak_nbytes: int | None = None
    promised_nbytes: int | None = None
    lower_bound_nbytes: int | None = None
    kept_nbytes: int | None = None
    first_seconds: float | None = None
    capture_seconds: float | None = None
    step_seconds: float | None = None
    least_seconds: float | None = None
    loss: float | None = None
    graphs: int | None = None
    fallbacks: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    error: str | None = None

    def key(self) -> tuple[str, str, str]:
        """What a file holds one of."""
        return self.model, self.backend, self.mode


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of a file, with where they were measured (of the last run) and the command."""

    machine: str
    versions: str
    command: str
    rows: tuple[Row, ...]

    def find(self, model: str, backend: str, mode: str) -> Row | None:
        """The row, or None if it was not measured."""
        return next((r for r in self.rows if r.key() == (model, backend, mode)), None)

    def models(self, mode: str) -> list[str]:
        """Models measured in a mode, in the file's order."""
        return list(dict.fromkeys(r.model for r in self.rows if r.mode == mode))

    def with_rows(self, new: Iterable[Row], order: Iterable[str]) -> Table:
        """The table with rows added or replaced, models in the given order."""
        rows = {r.key(): r for r in (*self.rows, *new)}
        place = {name: i for i, name in enumerate(order)}
        ordered = sorted(rows.values(), key=lambda r: (MODES.index(r.mode), place.get(r.model, 999), r.model))
        ordered.sort(key=lambda r: (MODES.index(r.mode), place.get(r.model, 999), BACKENDS.index(r.backend)))
        return Table(self.machine, self.versions, self.command, tuple(ordered))


def read(path: Path) -> tuple[Row, ...]:
    """Rows of a file; none if there is no file.

    Raises:
        ValueError: the file is of another version.
    """
    if not path.exists():
        return ()
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("version") != VERSION:
        raise ValueError(f"{path} is not a file of version {VERSION}")
    known = {f.name for f in fields(Row)}
    rows = ({k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k in known} for row in data["rows"])
    return tuple(Row(**row) for row in rows)


def write(path: Path, table: Table) -> None:
    """Write a table as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": VERSION, **asdict(table)}, indent=1) + "\n", encoding="utf-8")
