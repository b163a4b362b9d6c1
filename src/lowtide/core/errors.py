"""Every exception that Lowtide raises on purpose.

    LowtideError
    ├── UserError            the caller can fix it: what they passed is wrong
    │   ├── OptionError      an option has an unknown name, a wrong type or a nonsense value
    │   ├── FileError        a file cannot be read as what it should be; names the place in it
    │   └── OverBudget       the promised peak is above the budget; names the least peak known
    ├── Unsupported          correct input that we do not compile; callers fall back and keep the reason
    ├── VerifyError          a verifier or checker found a broken invariant in a Graph, Schedule, plan or Program
    ├── BuildError           an external tool (a compiler) is missing or failed
    └── BugError             our own invariant is broken; please report

Messages name the culprit, the user's line where there is one, and the next step.
"""

from __future__ import annotations

from lowtide.core.reason import Reason


class LowtideError(Exception):
    """Root of the tree above."""


class UserError(LowtideError):
    """The caller can fix it."""


class OptionError(UserError):
    """An option has an unknown name, a wrong type or a nonsense value."""


class FileError(UserError):
    """A file is not what it should be. ``place`` is a line number or a JSON path such as ``nodes[3].reads[0]``."""

    def __init__(self, file: str, place: str, because: str) -> None:
        self.file, self.place, self.because = file, place, because
        super().__init__(f"{file}: {place}: {because}" if place else f"{file}: {because}")


class OverBudget(UserError):
    """The promised peak is above the caller's budget (both in bytes)."""

    def __init__(self, message: str, *, budget_nbytes: int, promised_nbytes: int) -> None:
        self.budget_nbytes, self.promised_nbytes = budget_nbytes, promised_nbytes
        super().__init__(message)


class Unsupported(LowtideError):
    """Correct input that we do not compile; carries the reason that the report shows."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(str(reason))


class VerifyError(LowtideError):
    """A broken invariant, named by ``clause`` (a short stable word such as ``overlap``)."""

    def __init__(self, clause: str, message: str) -> None:
        self.clause = clause
        super().__init__(f"{clause}: {message}")


class BuildError(LowtideError):
    """An external tool is missing or failed; the message holds its last lines of output."""


class BugError(LowtideError):
    """Our own invariant is broken."""
