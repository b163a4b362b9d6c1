"""``lowtide trace``: run a script and say what its allocations need, planned and as they are.

Comes in: a Python script and its words, or one function in it. Goes out: a table or one JSON object on stdout (what the script
prints goes to stderr), and on demand a page with the picture. Promised: the script runs once, as ``python SCRIPT`` would run
it; this module names torch nowhere itself.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import runpy
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowtide.core.codec import dumps
from lowtide.core.errors import FileError, UserError
from lowtide.core.units import format_bytes

if TYPE_CHECKING:
    from lowtide.executor.trace import Notes
    from lowtide.executor.traced import MemoryTrace

_MOST = 200_000  # allocations; above it, placing and drawing them takes minutes


def trace(
    script: Annotated[str, typer.Argument(help="Python script to run")],
    words: Annotated[list[str] | None, typer.Argument(help="its own words, after --")] = None,
    function: Annotated[
        str | None, typer.Option(help="only a call of this function of the script, such as step or Net.forward")
    ] = None,
    nth: Annotated[int, typer.Option(help="which call of it, from 1", min=1)] = 1,
    top: Annotated[int, typer.Option(help="how many lines of those that hold the peak", min=1)] = 10,
    lines: Annotated[bool, typer.Option(help="find out the user lines (a little slower)")] = True,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    html: Annotated[str | None, typer.Option(help="write a page with the picture (.svg: the picture alone)")] = None,
) -> None:
    """Run a script, note what it allocates on the CPU, and say what a planned allocator would need."""
    if not Path(script).is_file():
        raise FileError(script, "", "is not a file")
    notes = _noting(lines)
    with _as_main(script, list(words or [])), _only(notes, script, function, nth) as seen, _Running(script):
        runpy.run_path(script, run_name="__main__")
    if function is not None and not notes.count:
        raise UserError(_never(function, nth, seen))
    if notes.count > _MOST:
        raise UserError(f"{notes.count} allocations were noted; name one step of the script with --function")
    found = notes.trace()
    if html is not None:
        _write(html, found)
    print(dumps(found.to_json()) if json else _table(script, function, found, top))


def _noting(lines: bool) -> Notes:
    try:
        importlib.import_module("torch")
    except ImportError:
        raise UserError("a trace needs torch: pip install 'lowtide[torch]'") from None
    return importlib.import_module("lowtide.executor.trace").Notes(lines)


@contextlib.contextmanager
def _as_main(script: str, words: list[str]) -> Generator[None]:
    """The script's own words and folder, and its output on stderr, for the while."""
    before, path = sys.argv, sys.path[:]
    sys.argv = [script, *words]
    sys.path.insert(0, str(Path(script).resolve().parent))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.argv, sys.path[:] = before, path


class _Running:
    """Whatever ends a script is the caller's to know, in one line."""

    def __init__(self, script: str) -> None:
        self.script = script

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, _: TracebackType | None) -> bool:
        if isinstance(e, SystemExit):
            if e.code not in (None, 0):
                raise UserError(f"{self.script} ended with {e.code!r}") from None
            return True
        if isinstance(e, Exception):
            name = Path(self.script).name
            frames = [f for f in traceback.extract_tb(e.__traceback__) if Path(f.filename).name == name]
            where = f" in line {frames[-1].lineno}" if frames else ""
            raise UserError(f"{self.script} raised {type(e).__name__}{where}: {e}") from e
        return False


@contextlib.contextmanager
def _only(notes: Notes, script: str, function: str | None, nth: int) -> Generator[dict[str, int]]:
    """Note while the script runs, or while the ``nth`` call of one of its functions does. Gives how often each function of
    the script was called."""
    seen: dict[str, int] = {}
    if function is None:
        with notes:
            yield seen
        return
    file, inside = str(Path(script).resolve()), list[FrameType]()

    def follow(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and not inside and _resolved(frame.f_code.co_filename) == file:
            name = frame.f_code.co_qualname
            seen[name] = seen.get(name, 0) + 1
            if function in (name, frame.f_code.co_name) and seen[name] == nth and not notes.count:
                inside.append(frame)
                notes.__enter__()
        elif event == "return" and inside and frame is inside[0]:
            notes.__exit__(None, None, None)
            sys.setprofile(None)

    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        yield seen
    finally:
        sys.setprofile(before)


def _resolved(file: str) -> str:
    return str(Path(file).resolve()) if file.endswith(".py") else file


def _never(function: str, nth: int, seen: dict[str, int]) -> str:
    calls = max((n for name, n in seen.items() if function in (name, name.rpartition(".")[2])), default=0)
    if calls:
        return f"{function} was called {calls} times, so there is no call number {nth}"
    near = difflib.get_close_matches(function, [n for n in seen if not n.startswith("<")], 1)
    return f"{function} was never called in the script" + (f"; did you mean {near[0]!r}?" if near else "")


def _table(script: str, function: str | None, found: MemoryTrace, top: int) -> str:
    kept = sum(a.kept for a in found.allocations)
    rows = (
        ("live peak", found.peak_nbytes, "as it was allocated"),
        ("lower bound", found.lower_bound, "no placement needs less"),
        ("planned", found.planned_nbytes, f"a slab of {format_bytes(found.slab_nbytes)}, and what is kept beside it"),
        ("caching allocator", found.caching_nbytes, "a model of PyTorch's, fed with the same requests"),
        ("sum", sum(a.nbytes for a in found.allocations), "of all requests"),
    )
    lines = [
        f"{script}{f', {function}' if function else ''}: {len(found.allocations)} allocations, {kept} of them kept"
    ]
    lines += [f"  {name:18} {format_bytes(n):>10}   {what}" for name, n, what in rows]
    lines.append("at the peak:")
    lines += [f"  {format_bytes(nbytes):>10}  {line}" for line, nbytes in found.holders[:top]]
    if len(found.holders) > top:
        lines.append(f"  and {len(found.holders) - top} lines more")
    return "\n".join(lines)


def _write(path: str, found: MemoryTrace) -> None:
    from lowtide.report.packing import page, svg  # here, because most calls draw nothing and start sooner without

    problem_of: Callable[..., Any] = importlib.import_module("lowtide.executor.traced").problem_of
    problem = problem_of(found.allocations)
    text = svg(problem, found.placement) if path.endswith(".svg") else page(problem, found.placement, "Allocations")
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as e:
        raise FileError(path, "", f"cannot be written: {e.strerror or e}") from None
