"""The words of the text form: which may stand bare, how the others are quoted, and how a line is read word by word.

Comes in: names and texts to print, or one line to read. Goes out: their text, or sizes, layouts and arguments.
Promised: whatever cannot be read is refused with line, column and an excerpt, never with an error from the depths.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import NoReturn

from lowtide.core.errors import FileError, VerifyError
from lowtide.ir.graph import Arg, Atom, Layout, Ref
from lowtide.ir.symbolic import Dim, parse_dim

KINDS = ("dtype", "device", "format", "layout", "constant")
NAME = re.compile(r"[\w.$-]+", re.ASCII)
WORD = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
DEVICE = re.compile(r"[\w:.]+", re.ASCII)
PLACE = re.compile(r'[^\s":#]+')
TAG = re.compile(r"[\w.=/-]+", re.ASCII)
_PINNED = re.compile(r"pinned\b", re.ASCII)
_FLOAT = re.compile(r"-?(?:\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|inf\b|nan\b)", re.ASCII)
_CONSTANTS: Mapping[str, bool | None] = {"None": None, "True": True, "False": False}
DEEPEST = 64  # lists within lists; a call has two or three


def quoted(text: str) -> str:
    """``text`` in double quotes, all on one line, ASCII only."""
    return json.dumps(text)


def bare(text: str, allowed: re.Pattern[str]) -> str:
    """The text as it is where ``allowed`` matches all of it, else in quotes."""
    return text if allowed.fullmatch(text) else quoted(text)


class Scan:
    """One line and how far it has been read; used once per line."""

    def __init__(self, text: str, number: int, file: str) -> None:
        self.text, self.number, self.file, self.at = text, number, file, 0

    def rest(self) -> str:
        """What is left of the line."""
        return self.text[self.at :]

    def fail(self, because: str, at: int | None = None) -> NoReturn:
        """Raise FileError here, or at another column (from 0)."""
        at = self.at if at is None else at
        first = max(0, at - 60)
        caret = f"    {self.text[first : at + 60]}\n    {' ' * (at - first)}^"
        raise FileError(self.file, f"line {self.number}, column {at + 1}", f"{because}\n{caret}")

    def space(self) -> None:
        """Pass over spaces."""
        while self.at < len(self.text) and self.text[self.at] in " \t\r":
            self.at += 1

    def maybe(self, pattern: str | re.Pattern[str]) -> str | None:
        """Read what matches here, and the space behind it."""
        found = re.compile(pattern, re.ASCII).match(self.text, self.at) if isinstance(pattern, str) else None
        found = pattern.match(self.text, self.at) if isinstance(pattern, re.Pattern) else found
        if found is None:
            return None
        self.at = found.end()
        self.space()
        return found.group()

    def need(self, pattern: str | re.Pattern[str], what: str) -> str:
        """Read what matches here, or fail: ``what`` is expected."""
        found = self.maybe(pattern)
        if found is None:
            self.fail(f"{what} is expected")
        return found

    def end(self) -> None:
        """Fail where something is left."""
        if self.rest():
            self.fail("the line should end here")

    def word(self, allowed: re.Pattern[str], what: str) -> str:
        """A bare word or a quoted text."""
        return self.string() if self.rest().startswith('"') else self.need(allowed, what)

    def string(self) -> str:
        """A text in double quotes."""
        start = self.at
        raw = self.need(r'"(?:[^"\\]|\\.)*"', "a text in double quotes")
        try:
            return str(json.loads(raw))
        except ValueError as e:
            self.fail(f"not a text in double quotes: {e}", start)

    def value(self) -> str:
        """The name of a value, without its ``%``."""
        if not self.rest().startswith("%"):
            self.fail("the name of a value, such as %x, is expected")
        self.at += 1
        return self.word(NAME, "the name of a value")

    def values(self) -> tuple[str, ...]:
        """Names of values, one behind the other."""
        out: list[str] = []
        while self.rest().startswith("%"):
            out.append(self.value())
        return tuple(out)

    def whole(self) -> int:
        """A whole number."""
        start, digits = self.at, self.need(r"-?\d+", "a whole number")
        try:
            return int(digits)
        except ValueError:
            self.fail(f"a whole number of {len(digits)} digits is not read", start)

    def size(self) -> Dim:
        """A whole number or an expression over symbols."""
        start, depth = self.at, 0
        self.maybe(r"-?\d+|[A-Za-z_]\w*")
        if self.rest().startswith("("):
            while self.at < len(self.text):
                depth += {"(": 1, ")": -1}.get(self.text[self.at], 0)
                self.at += 1
                if not depth:
                    break
        try:
            dim = parse_dim(self.text[start : self.at])
        except VerifyError as e:
            self.fail(str(e), start)
        self.space()
        return dim

    def sizes(self, opening: str, closing: str) -> tuple[Dim, ...]:
        """Sizes between brackets, with commas between them."""
        self.need(re.escape(opening), opening)
        out: list[Dim] = []
        while not self.maybe(re.escape(closing)):
            if out:
                self.need(",", f"',' or {closing!r}")
            out.append(self.size())
        return tuple(out)

    def layout(self) -> Layout:
        """``f32[8,4]{4,1}+16 @cpu``, and ``pinned`` where it is."""
        dtype = self.word(WORD, "a dtype such as f32")
        size = self.sizes("[", "]")
        stride = self.sizes("{", "}") if self.rest().startswith("{") else ()
        offset = self.size() if self.maybe(r"\+") else 0
        self.need("@", "'@' and the device")
        device = self.word(DEVICE, "a device such as cpu")
        return Layout(dtype, device, size, stride, offset, self.maybe(_PINNED) is not None)

    def arg(self, depth: int = 0) -> Arg:
        """One argument. ``depth``: how many lists it stands in."""
        if depth > DEEPEST:
            self.fail(f"lists stand more than {DEEPEST} deep in one another")
        rest = self.rest()
        if rest.startswith("%"):
            return Ref(self.value())
        if rest.startswith("["):
            return self.list_("[", "]", depth)
        if number := self.maybe(_FLOAT):
            return math.nan if number == "nan" else float(number)  # one nan object: equality asks identity first
        if re.match(r"[-(\d]", rest) or re.match(r"(max|min|ceildiv|pow)\(", rest):
            return self.size()
        if atom := re.match(r'([A-Za-z_]\w*|"(?:[^"\\]|\\.)*"):', rest):
            kind = self.word(re.compile(r"\w+"), "a kind")
            self.at += atom.end() - len(atom.group(1))
            return Atom(kind, self.word(DEVICE, f"a {kind}"))
        if rest.startswith('"'):
            return self.string()
        word = self.maybe(re.compile(r"(None|True|False)\b"))
        return _CONSTANTS[word] if word else self.size()

    def list_(self, opening: str, closing: str, depth: int) -> tuple[Arg, ...]:
        """Arguments between brackets."""
        self.need(re.escape(opening), opening)
        out: list[Arg] = []
        while not self.maybe(re.escape(closing)):
            if out:
                self.need(",", f"',' or {closing!r}")
            out.append(self.arg(depth + 1))
        return tuple(out)

    def call_args(self) -> tuple[tuple[Arg, ...], tuple[tuple[str, Arg], ...]]:
        """``(a, b, key=c)``."""
        self.need(r"\(", "'('")
        args: list[Arg] = []
        named: list[tuple[str, Arg]] = []
        while not self.maybe(r"\)"):
            if args or named:
                self.need(",", "',' or ')'")
            if re.match(r'([A-Za-z_][\w.]*|"(?:[^"\\]|\\.)*")=', self.rest()):
                key = self.word(WORD, "an argument's name")
                self.need("=", "'='")
                named.append((key, self.arg()))
            elif named:
                self.fail("an argument with a name is expected, after one that has one")
            else:
                args.append(self.arg())
        return tuple(args), tuple(named)
