"""JSON of version 1 for every frozen value that leaves a process: strict readers that name the place of a fault.

A reader is written with :class:`Cursor`, which knows the file and the JSON path it stands at. What comes out is
checked; what is wrong raises :class:`~lowtide.core.errors.FileError` with the path, never a KeyError from the depths.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

from lowtide.core.errors import FileError

VERSION = 1
_KINDS = {
    dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "true or false", float: "a number",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cursor:
    """A JSON value with the place it stands at."""

    value: object
    file: str
    path: str = ""

    def fail(self, because: str) -> NoReturn:
        """Raise FileError at this place."""
        raise FileError(self.file, self.path or "top level", because)

    def _as(self, kind: type) -> object:
        value = self.value
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fail(f"{_KINDS[kind]} is expected, not {json.dumps(value)[:60]}")
        return value

    def text(self) -> str:
        """The value as str."""
        value = self._as(str)
        assert isinstance(value, str)
        return value

    def flag(self) -> bool:
        """The value as bool."""
        value = self._as(bool)
        assert isinstance(value, bool)
        return value

    def whole(self, least: int | None = 0) -> int:
        """The value as int, at least ``least`` (None: any)."""
        value = self._as(int)
        assert isinstance(value, int)
        if least is not None and value < least:
            self.fail(f"{value} is below {least}")
        return value

    def items(self) -> Iterator[Cursor]:
        """The members of a list."""
        value = self._as(list)
        assert isinstance(value, list)
        for i, member in enumerate(cast("list[object]", value)):
            yield Cursor(member, self.file, f"{self.path}[{i}]")

    def members(self) -> Iterator[tuple[str, Cursor]]:
        """The members of an object whose names are free, in order."""
        value = self._as(dict)
        dot = f"{self.path}." if self.path else ""
        for key, member in cast("dict[str, object]", value).items():
            yield key, Cursor(member, self.file, f"{dot}{key}")

    def fields(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Cursor]:
        """The members of an object; unknown or missing ones are refused."""
        value = self._as(dict)
        assert isinstance(value, dict)
        dot = f"{self.path}." if self.path else ""
        out: dict[str, Cursor] = {}
        for key, member in cast("dict[str, object]", value).items():
            if key not in required and key not in optional:
                self.fail(f"unknown field {json.dumps(key)}; known: {', '.join(required + optional)}")
            out[key] = Cursor(member, self.file, f"{dot}{key}")
        for key in required:
            if key not in out:
                self.fail(f"field {json.dumps(key)} is missing")
        return out

    def version(self) -> None:
        """Refuse anything but version 1."""
        if self.value != VERSION or isinstance(self.value, bool):
            self.fail(f"version {VERSION} is expected, not {json.dumps(self.value)}")


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [k for k, _ in pairs]
        raise ValueError(f"field {json.dumps(next(k for k in names if names.count(k) > 1))} stands twice in one object")
    return out


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def loads(text: str, file: str = "<text>") -> Cursor:
    """Parse JSON text.

    Raises:
        FileError: not JSON (with line and column), or a field given twice.
    """
    try:
        return Cursor(json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant), file)
    except json.JSONDecodeError as e:
        raise FileError(file, f"line {e.lineno}, column {e.colno}", f"not JSON: {e.msg}") from None
    except (ValueError, RecursionError) as e:
        raise FileError(file, "", f"not usable JSON: {e}") from None


def read(path: str | Path) -> Cursor:
    """Parse a JSON file (``-`` is standard input). Raises FileError as :func:`loads`, also where it cannot be read."""
    return loads(read_text(path), str(path))


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file (``-`` is standard input). Raises FileError where it cannot be read."""

    try:
        return sys.stdin.read() if str(path) == "-" else Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise FileError(str(path), "", f"cannot be read: {e.strerror or e}") from None
    except UnicodeDecodeError as e:
        raise FileError(str(path), f"byte {e.start}", "not UTF-8 text") from None


def dumps(value: object, *, indent: int | None = None) -> str:
    """JSON text with a stable field order (as given) and no NaN."""
    return json.dumps(value, indent=indent, allow_nan=False, separators=(",", ": ") if indent else (",", ":"))
