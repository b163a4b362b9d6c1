"""Text to train on that is there without a network: the repository's documentation, else the package's own sources."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def corpus() -> tuple[bytes, str]:
    """The text, and in a few words where it comes from."""
    root = _PACKAGE.parents[1]
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    if (root / "docs/specification.md").is_file():
        return _joined(pages), "the repository's documentation"
    return _joined(sorted(_PACKAGE.rglob("*.py"))), "the sources of the installed package"


def _joined(files: list[Path]) -> bytes:
    return b"\n\n".join(f.read_bytes() for f in files if f.is_file())
