"""Options and Reason as JSON of version 1.

Comes in: a value, or JSON. Goes out: the other. Promised: what is written reads back equal; what is no option or no
reason is refused with the JSON path of the fault. ``Options.of`` is the judge of every option's value here too.
"""

from __future__ import annotations

from dataclasses import fields

from lowtide.core.codec import VERSION, Cursor
from lowtide.core.errors import OptionError
from lowtide.core.options import Options
from lowtide.core.reason import Reason


def options_to_json(options: Options) -> dict[str, object]:
    """Every field of the options, and the version."""
    return {"version": VERSION, **{f.name: getattr(options, f.name) for f in fields(options)}}


def read_options(at: Cursor) -> Options:
    """The Options of a JSON object; what is left out has its default.

    Raises:
        FileError: an unknown name, a wrong type or a nonsense value, with its place.
    """
    known = tuple(f.name for f in fields(Options))
    given = at.fields(("version",), known)
    given.pop("version").version()
    values: dict[str, object] = {}
    for name, value in given.items():
        try:
            Options.of({name: value.value})
        except OptionError as e:
            value.fail(str(e))
        values[name] = value.value
    return Options.of(values)


def reason_to_json(reason: Reason) -> dict[str, object]:
    """The fields of a reason. It stands within other values, so it has no version of its own."""
    return {"what": reason.what, "because": reason.because, "knob": reason.knob}


def read_reason(at: Cursor) -> Reason:
    """The Reason of a JSON object. Raises FileError with the place of a fault."""
    f = at.fields(("what", "because"), ("knob",))
    knob = f["knob"].text() if "knob" in f and f["knob"].value is not None else None
    return Reason(f["what"].text(), f["because"].text(), knob)
