"""Who watches a compilation: the ladder of ``LOWTIDE_DEBUG`` on standard error, and the files of ``LOWTIDE_DUMP``.

Comes in: the two environment variables, once, and what each stage made. Goes out: lines for people and numbered files.
Promised: stages stay silent and only call ``see``; a text given as a function is not made where nobody looks; what is
watched never changes what is compiled, and a file that cannot be written stops nothing: a warning is logged. Files are
private to the user and nothing that exists is overwritten.

    LOWTIDE_DEBUG  1 a line per graph     2 time and bytes per stage    3 the schedule
                   4 the plan             5 the generated source        6 the graph
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from lowtide.core.errors import BugError, OptionError
from lowtide.core.units import format_bytes

log = logging.getLogger(__name__)
DEBUG, DUMP = "LOWTIDE_DEBUG", "LOWTIDE_DUMP"
TOP = 6

# Stage -> the rung of the ladder that prints its text, and the ending of its file.
STAGES: Mapping[str, tuple[int, str]] = {
    "summary": (1, "txt"),
    "capture": (6, "ir"),
    "lower": (6, "ir"),
    "fusion": (6, "txt"),
    "layouts": (6, "txt"),
    "kernels": (5, "cpp"),
    "schedule": (3, "txt"),
    "buffers": (TOP + 1, "txt"),  # this and what has as high a number is only ever a file
    "memory": (TOP + 1, "json"),  # the format of ``lowtide order``
    "order": (3, "txt"),
    "plan": (4, "json"),
    "refused": (TOP + 1, "txt"),  # only ever a file, as long as the program
    "steps": (TOP + 1, "json"),  # the format of ``lowtide show``
    "picture": (TOP + 1, "html"),
    "program": (5, "py"),
}
TIMES = 2


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Observers:
    """``level``: the rung, 0 for silence. ``folder``: where files go, if any. ``graph``: whose stages these are."""

    level: int = 0
    folder: Path | None = None
    graph: str = ""
    say: Callable[[str], None] = _say

    def of_graph(self, name: str) -> Observers:
        """The observers of one graph, whose files get a new folder of their own; none, where that cannot be made."""
        return replace(self, graph=name, folder=None if self.folder is None else _new_folder(self.folder, name))

    def see(
        self, stage: str, text: str | Callable[[], str], seconds: float | None = None, nbytes: int | None = None
    ) -> None:
        """Take note of what ``stage`` made: its text (or a function that makes it), how long it took (wall clock), and
        the peak bytes that are known after it."""
        if stage not in STAGES:
            raise BugError(f"nobody watches a stage {stage!r}; known: {', '.join(STAGES)}")
        rung, ending = STAGES[stage]
        if self.level >= TIMES and seconds is not None:
            peak = "" if nbytes is None else f", peak {format_bytes(nbytes)} ({nbytes} bytes)"
            self.say(f"lowtide: {self.graph}: {stage} took {seconds * 1e3:.1f} ms{peak}")
        if self.level < rung and self.folder is None:
            return
        made = text if isinstance(text, str) else text()
        if self.level >= rung:
            body = made.rstrip("\n")
            lead = f"lowtide: {self.graph}: "
            self.say(f"{lead}{body}" if rung == 1 else f"{lead}{stage}\n{body}")
        if self.folder is not None:
            _write(self.folder, f"{stage}.{ending}", made)


def from_environment(environment: Mapping[str, str] | None = None) -> Observers:
    """What ``LOWTIDE_DEBUG`` and ``LOWTIDE_DUMP`` ask for (in ``environment``, by default the process's own).

    Raises:
        OptionError: ``LOWTIDE_DEBUG`` is no rung of the ladder.
    """
    environment = os.environ if environment is None else environment
    level = environment.get(DEBUG) or "0"
    if level not in {str(n) for n in range(TOP + 1)}:
        raise OptionError(f"{DEBUG} is a whole number from 0 to {TOP}, not {level!r}")
    dump = environment.get(DUMP)
    if not dump:
        return Observers(int(level))
    folder = Path(dump)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        _warn(folder, e.strerror or str(e))
        return Observers(int(level))
    return Observers(int(level), folder)


@lru_cache(maxsize=256)
def _warn(folder: Path, because: str) -> None:
    """Once for each folder and fault, not for each file."""
    log.warning("%s asks for files at %s, which cannot be written: %s", DUMP, folder, because)


def _new_folder(top: Path, name: str) -> Path | None:
    """``top/name``, or ``top/name.2`` and so on where earlier compilations were; None where it cannot be made."""
    name, number = re.sub(r"\W", "_", name), 1
    while True:
        folder = top / (name if number == 1 else f"{name}.{number}")
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        except OSError as e:
            _warn(top, e.strerror or str(e))
            return None
        else:
            return folder


def _write(folder: Path, name: str, text: str) -> None:
    """Write ``003_name``, numbered by what is there already."""
    try:
        number = sum(1 for _ in folder.iterdir())
        path = folder / f"{number:03}_{name}"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else f"{text}\n")
    except OSError as e:
        _warn(folder, e.strerror or str(e))
