"""The command line's frame: one table of verbs, one mapping from exceptions to exit codes.

Comes in: the words after ``lowtide``. Goes out: what the verb prints, and an exit code. A verb ``x`` is the function
``x`` in ``lowtide.cli.x``, with its arguments declared by typer annotations; its module is imported when the verb is
called, so that starting up stays cheap and no verb pays for another. Promised: this module imports no torch.

Exit codes: 0 fine, 1 the caller's mistake or something we cannot do, 2 a bug of ours, 3 over budget; 130 after Ctrl-C
and 141 after a closed pipe, as shells have it.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, cast

import lowtide
from lowtide.core.errors import BugError, LowtideError, OverBudget

VERBS: dict[str, str] = {
    "demo": "Train a small model eagerly and under Lowtide, side by side.",
    "order": "Order the nodes of a memory graph for the least peak.",
    "pack": "Place buffers with sizes and lifetimes in the fewest bytes.",
    "show": "Show a planned schedule, as text or as a picture.",
    "trace": "Run a script and say what its allocations need, planned and as they are.",
    "doctor": "Say what Lowtide finds on this machine.",
}

OK, USER, BUG, BUDGET, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 3, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lowtide ARGV`` and return its exit code; ``None`` means the process's own words."""
    words = list(sys.argv[1:] if argv is None else argv)
    guard = _ExitCode(words)
    with guard:
        _dispatch(words)
        sys.stdout.flush()
    return guard.code


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
    elif words[0] in ("-V", "--version"):
        print(f"lowtide {lowtide.__version__}")
    elif words[0] in VERBS:
        _run(words[0], words[1:])
    else:
        near = difflib.get_close_matches(words[0], VERBS, 1)
        hint = f"did you mean {near[0]!r}?" if near else "see lowtide --help"
        kind = "option" if words[0].startswith("-") else "verb"
        raise _Usage(f"there is no {kind} {words[0]!r}; {hint}")


def _help() -> str:
    wide = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{wide}}  {line}" for name, line in VERBS.items())
    return (
        "Usage: lowtide [--version] [--help] VERB ...\n\n"
        "Plan the memory of a PyTorch program, or of a list of buffers, before it runs.\n\n"
        f"Verbs:\n{verbs}\n\n'lowtide VERB --help' says what a verb takes."
    )


def _run(verb: str, words: list[str]) -> None:
    import typer

    function: Callable[..., object] = getattr(importlib.import_module(f"lowtide.cli.{verb}"), verb)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(verb)(function)
    command = typer.main.get_command(app)
    # Not through typer's own main: it would swallow a closed pipe and Ctrl-C, and end the process itself.
    with command.make_context(f"lowtide {verb}", words) as context:
        command.invoke(context)


class _HasCode(Protocol):
    """typer's way to end early; the class itself moves with typer's versions."""

    exit_code: int


class _HasMessage(Protocol):
    """typer's usage errors, likewise."""

    def format_message(self) -> str: ...


class _Usage(LowtideError):
    """The words of the command line do not fit."""


class _ExitCode:
    """Turns whatever ends the ``with`` block into ``code``, saying one line on stderr where it is worth one."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.code = words, OK

    def __enter__(self) -> _ExitCode:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if error is None:
            return True
        if isinstance(error, SystemExit):
            self.code = error.code if isinstance(error.code, int) else USER
        elif isinstance(error, BrokenPipeError):
            self.code = CLOSED_PIPE
            _mute_stdout()
        elif isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
            self.code = INTERRUPTED
        elif type(error).__name__ == "Exit" and hasattr(error, "exit_code"):
            self.code = cast(_HasCode, error).exit_code
            self._flush()
        else:
            self._flush()
            self.code = self._say(error)
        return True

    def _flush(self) -> None:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            self.code = CLOSED_PIPE
            _mute_stdout()

    def _say(self, error: BaseException) -> int:
        if isinstance(error, LowtideError) and not isinstance(error, BugError):
            code, text = (BUDGET if isinstance(error, OverBudget) else USER), str(error)
        elif hasattr(error, "format_message"):
            verb = next(iter(self.words), "")
            code, text = USER, f"{cast(_HasMessage, error).format_message().rstrip('.')}; see lowtide {verb} --help"
        elif isinstance(error, OSError) and error.filename is not None:
            code, text = USER, f"{error.filename}: {error.strerror}"
        else:
            traceback.print_exception(error)
            code, text = BUG, f"this is a bug of ours, please report it: {type(error).__name__}: {error}"
        print(f"lowtide: {text}", file=sys.stderr)
        return code


def _mute_stdout() -> None:
    # The reader has gone; without this the interpreter complains once more when it flushes at exit.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
