"""Everything a user can set, in one frozen value handed down from the entry point. No other switch exists.

``Options.of(mapping)`` is the only way in from outside; unknown names and wrong types are refused with the nearest
right name. Every field that changes what is generated is part of the value's ``key()``, hence of every cache key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from lowtide.core.errors import OptionError
from lowtide.core.units import parse_bytes

SLABS = ("auto", "none", "one")
KERNELS = ("loops", "aten")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of ``torch.compile(model, backend="lowtide", options={...})``.

    budget: bytes (or ``"6GiB"``); on each device; a graph whose promised peak on one of them is above it is refused at compile
        time. None: no limit.
    reorder: look for an order of operations with a lower peak; off keeps program order.
    inplace: let a result take over a dying operand's bytes.
    slabs: ``"auto"`` carves what it can from few allocations wherever that does not raise the promised peak,
        ``"none"`` allocates and frees every tensor by itself, ``"one"`` forces a single arena.
    kernels: ``"loops"`` computes what is not a product, a convolution or attention with kernels generated in C++,
        ``"aten"`` calls PyTorch's for everything.
    fuse: make one of generated kernels that share values, where that is cheaper and does not raise the promised peak, and store
        once what they would store twice.
    retain: bytes (or text) of slabs kept between calls, per process; ``lowtide.release_retained()`` gives them back.
    recent_shapes: how many shape signatures keep their plan when sizes vary.
    verify: check every plan and program with the independent checkers before it runs (tests switch it on).
    """

    budget: int | None = None
    reorder: bool = True
    inplace: bool = True
    slabs: str = "auto"
    kernels: str = "loops"
    fuse: bool = True
    retain: int = 1 << 30
    recent_shapes: int = 16
    verify: bool = False

    @staticmethod
    def of(given: Mapping[str, object] | None = None) -> Options:
        """Options from a user's mapping.

        Raises:
            OptionError: unknown name (with the nearest right one), wrong type, or nonsense value.
        """
        known = [f.name for f in fields(Options)]
        values: dict[str, object] = {}
        for name, value in (given or {}).items():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1, 0.4)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
                raise OptionError(f"lowtide has no option {name!r}; {hint}")
            values[name] = _checked(name, value)
        return Options(**values)  # type: ignore[arg-type]

    def key(self) -> str:
        """Stable text of all fields, for cache keys."""
        return ";".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))


def _checked(name: str, value: object) -> object:
    if name in ("reorder", "inplace", "fuse", "verify"):
        if not isinstance(value, bool):
            raise OptionError(f"option {name!r} is true or false, not {value!r}")
        return value
    if name == "slabs":
        if value not in SLABS:
            raise OptionError(f"option 'slabs' is one of {', '.join(SLABS)}, not {value!r}")
        return value
    if name == "kernels":
        if value not in KERNELS:
            raise OptionError(f"option 'kernels' is one of {', '.join(KERNELS)}, not {value!r}")
        return value
    if name == "recent_shapes":
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"option 'recent_shapes' is a whole number from 1, not {value!r}")
        return value
    if name == "budget" and value is None:
        return None
    if not isinstance(value, int | str):
        raise OptionError(f"option {name!r} is a size such as 4096 or '2GiB', not {value!r}")
    try:
        nbytes = parse_bytes(value)
    except OptionError as e:
        raise OptionError(f"option {name!r}: {e}") from None
    if name == "budget" and nbytes == 0:
        raise OptionError("option 'budget' of 0 bytes leaves room for nothing; leave it out for no limit")
    return nbytes
