"""Bytes to text and back. Sizes are always whole bytes; binary multiples (KiB = 1024)."""

from __future__ import annotations

import re
from fractions import Fraction

from lowtide.core.errors import OptionError

_FACTORS = {
    "": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "k": 2**10, "m": 2**20, "g": 2**30,
}  # fmt: skip


def parse_bytes(text: object) -> int:
    """Bytes of ``"6GiB"``, ``"512 MB"``, ``"4096"`` or ``4096``.

    Raises:
        OptionError: not a size, or negative.
    """
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise OptionError(f"a size in bytes is expected, such as 4096 or '2GiB', not {text!r}")
    if isinstance(text, int):
        nbytes = text
    else:
        m = re.fullmatch(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([A-Za-z]*)\s*", text, re.ASCII)
        factor = _FACTORS.get(m.group(2).lower()) if m else None
        if m is None or factor is None:
            raise OptionError(f"{text!r} is not a size: write bytes as 4096, '512MiB' or '2GiB'")
        nbytes = round(Fraction(m.group(1)) * factor)
    if nbytes < 0:
        raise OptionError(f"a size cannot be negative: {text!r}")
    return nbytes


def format_bytes(nbytes: int) -> str:
    """``1536`` -> ``'1.50 KiB'``; two decimal places below 10, one above, exact below 1 KiB."""
    amount, sign = float(abs(nbytes)), "-" if nbytes < 0 else ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1023.95:  # what is above would be shown as 1024.0
            return f"{sign}{int(amount)} B" if unit == "B" else f"{sign}{amount:.{1 if amount >= 10 else 2}f} {unit}"
        amount /= 1024
    return f"{sign}{amount:.2f} TiB"


def align_up(nbytes: int, alignment: int) -> int:
    """Least multiple of ``alignment`` (bytes, positive) that is at least ``nbytes``."""
    return -(-nbytes // alignment) * alignment
