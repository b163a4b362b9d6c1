"""minimalloc's CSV: problems read, placements written.

Comes in: text whose first line names the columns in any order. ``id, lower, upper, size`` are required (``buffer`` and
``buffer_id`` mean id; ``begin`` and ``start`` mean lower; ``end`` means upper but counts the last moment itself, in
gaps too). Optional: ``alignment`` (1), ``hint``, ``offset`` (a fixed place) and ``gaps``: blank-separated ``lo-hi``
during which nothing is occupied, or ``lo-hi@wlo:whi`` during which only those bytes are. There is no quoting; the
first blank line ends the file. Promised: what is malformed is refused with its line and the reason; what is written
reads back equal. The format is the one of the minimalloc project.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn

from lowtide.core.errors import FileError
from lowtide.plan.problem import PackBuffer, PackProblem, validate

_COLUMNS = {
    "id": "id", "buffer": "id", "buffer_id": "id", "lower": "lower", "begin": "lower", "start": "lower",
    "upper": "upper", "end": "end", "size": "size", "alignment": "alignment", "hint": "hint", "gaps": "gaps",
    "offset": "offset",
}  # fmt: skip
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_GAP = re.compile(r"(-?[0-9]{1,18})-(-?[0-9]{1,18})(?:@([0-9]{1,18}):([0-9]{1,18}))?")


def parse_csv(text: str, file: str = "<text>", capacity: int | None = None) -> PackProblem:
    """The problem that a CSV states.

    Raises:
        FileError: with the line and the reason.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or not lines[0].strip():
        raise FileError(file, "line 1", "the names of the columns are expected: id,lower,upper,size")
    columns = _header(lines[0], file)
    buffers: list[PackBuffer] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            break
        buffer = _Row(line, columns, file, number).buffer()
        if buffer.id in seen:
            raise FileError(file, f"line {number}", f"id {buffer.id!r} stands on line {seen[buffer.id]} already")
        seen[buffer.id] = number
        buffers.append(buffer)
    problem = PackProblem(tuple(buffers), capacity)
    validate(problem, file)
    return problem


def _header(line: str, file: str) -> list[str]:
    columns: list[str] = []
    for word in line.split(","):
        name = word.strip()
        if name not in _COLUMNS:
            raise FileError(file, "line 1", f"unknown column {name!r}; known: {', '.join(_COLUMNS)}")
        column = _COLUMNS[name]
        if column in columns or (column in ("upper", "end") and {"upper", "end"} & set(columns)):
            raise FileError(file, "line 1", f"column {name!r} stands twice, or under two names")
        columns.append(column)
    for needed in ("id", "lower", "size"):
        if needed not in columns:
            raise FileError(file, "line 1", f"column {needed!r} is missing")
    if "upper" not in columns and "end" not in columns:
        raise FileError(file, "line 1", "column 'upper' is missing")
    return columns


class _Row:
    """One line on its way to a buffer."""

    def __init__(self, line: str, columns: list[str], file: str, number: int) -> None:
        self.file, self.number = file, number
        cells = [c.strip() for c in line.split(",")]
        if len(cells) != len(columns):
            self.fail(f"{len(cells)} fields, but the first line names {len(columns)} columns")
        self.cell = dict(zip(columns, cells, strict=True))
        self.inclusive = 1 if "end" in columns else 0

    def fail(self, because: str) -> NoReturn:
        raise FileError(self.file, f"line {self.number}", because)

    def whole(self, column: str) -> int:
        if not _WHOLE.fullmatch(self.cell[column]):
            self.fail(f"column {column!r} holds {self.cell[column]!r}; a whole number is expected")
        return int(self.cell[column])

    def optional(self, column: str) -> int | None:
        return self.whole(column) if self.cell.get(column) and self.cell[column] != "-1" else None

    def buffer(self) -> PackBuffer:
        if not self.cell["id"]:
            self.fail("the id is empty")
        lower, size = self.whole("lower"), self.whole("size")
        upper = self.whole("end") + 1 if self.inclusive else self.whole("upper")
        alignment = self.whole("alignment") if self.cell.get("alignment") else 1
        offset = self.optional("offset")
        if lower >= upper:
            self.fail(f"lifetime [{lower}, {upper}) is empty or runs backwards")
        if size < 0:
            self.fail(f"size {size} is below 0")
        if alignment < 1:
            self.fail(f"alignment {alignment} is below 1")
        if offset is not None and (offset < 0 or offset % alignment):
            self.fail(f"offset {offset} is below 0 or no multiple of the alignment {alignment}")
        intervals, windows = self.gaps(lower, upper, size)
        return PackBuffer(self.cell["id"], size, intervals, alignment, offset, windows, (), self.optional("hint"))

    def gaps(
        self, lower: int, upper: int, size: int
    ) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int] | None, ...]]:
        found: list[tuple[int, int, tuple[int, int] | None]] = []
        for word in self.cell.get("gaps", "").split():
            m = _GAP.fullmatch(word)
            if not m:
                self.fail(f"gap {word!r} is not lo-hi or lo-hi@wlo:whi")
            lo, hi = int(m[1]), int(m[2]) + self.inclusive
            if not lower <= lo < hi <= upper:
                self.fail(f"gap {word!r} is empty, runs backwards or leaves the lifetime [{lower}, {upper})")
            window = (int(m[3]), int(m[4])) if m[3] is not None else None
            if window is not None and not window[0] < window[1] <= size:
                self.fail(f"the window of gap {word!r} is empty, runs backwards or leaves 0:{size}")
            found.append((lo, hi, window))
        found.sort()
        intervals: list[tuple[int, int]] = []
        windows: list[tuple[int, int] | None] = []
        at = lower
        for lo, hi, window in found:
            if lo < at:
                self.fail(f"gap {lo}-{hi} overlaps the one before it")
            if at < lo:
                intervals.append((at, lo))
                windows.append(None)
            if window is not None:
                intervals.append((lo, hi))
                windows.append(window)
            at = hi
        if at < upper:
            intervals.append((at, upper))
            windows.append(None)
        return tuple(intervals), tuple(windows) if any(w is not None for w in windows) else ()


def format_csv(problem: PackProblem, offsets: Mapping[str, int] | None = None) -> str:
    """CSV text of a problem, with an ``offset`` column for the given offsets or for fixed places.

    Raises:
        FileError: an id that holds a comma, a line break or outer blanks; an empty life; arms, merges or exclusions,
            which the format cannot say.
    """
    if problem.merges or problem.exclusions or any(b.arms for b in problem.buffers):
        raise FileError("CSV", "", "the format has no words for arms, merges and exclusions; write JSON")
    with_gaps = any(len(b.intervals) > 1 or b.windows for b in problem.buffers)
    with_hint = any(b.hint is not None for b in problem.buffers)
    with_offset = offsets is not None or any(b.offset is not None for b in problem.buffers)
    columns = ["id", "lower", "upper", "size", "alignment"]
    columns += ["hint"] * with_hint + ["gaps"] * with_gaps + ["offset"] * with_offset
    lines = [",".join(columns)]
    for b in problem.buffers:
        if b.id != b.id.strip() or not b.id or re.search(r"[,\x00-\x1f\x85\u2028\u2029]", b.id):
            raise FileError("CSV", b.id, "an id cannot be empty nor hold commas, line breaks or outer blanks")
        if not b.intervals:
            raise FileError("CSV", b.id, "a buffer that never lives cannot be written")
        at = offsets[b.id] if offsets is not None else b.offset
        cell = {
            "id": b.id, "lower": b.intervals[0][0], "upper": b.intervals[-1][1], "size": b.size,
            "alignment": b.alignment, "hint": -1 if b.hint is None else b.hint, "gaps": _gaps(b),
            "offset": -1 if at is None else at,
        }  # fmt: skip
        lines.append(",".join(str(cell[c]) for c in columns))
    return "\n".join(lines) + "\n"


def _gaps(b: PackBuffer) -> str:
    words: list[str] = []
    before = b.intervals[0][0]
    for i, (first, end) in enumerate(b.intervals):
        if before < first:
            words.append(f"{before}-{first}")
        window = b.windows[i] if b.windows else None
        if window is not None:
            words.append(f"{first}-{end}@{window[0]}:{window[1]}")
        before = end
    return " ".join(words)
