"""All models of the suite by name: those that need only torch, then those from model libraries."""

from __future__ import annotations

from benchmarks.suite.entry import Entry
from benchmarks.suite.library import LIBRARY, torchvision_package
from benchmarks.suite.plain import PLAIN

MODELS: dict[str, Entry] = {entry.name: entry for entry in (*PLAIN, *LIBRARY)}


def missing(entry: Entry) -> str | None:
    """Why an entry cannot be built here, or None if it can."""
    for package in entry.needs:
        try:
            torchvision_package() if package == "torchvision" else __import__(package)
        except ImportError as error:
            return f"{entry.name} needs {package}: {error}"
    return None
