"""Why something was refused, as data: one record that the log, the report, the CLI and exceptions all print."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """``what`` was refused, ``because`` of which fact, and the ``knob`` (an option) that would change it."""

    what: str
    because: str
    knob: str | None = None

    def __str__(self) -> str:
        tail = f" ({self.knob})" if self.knob else ""
        return f"{self.what}: {self.because}{tail}"
