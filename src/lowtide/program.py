"""Program: what code generation returns and the runtime runs, as data.

Promised: frozen; ``source`` is plain Python with one function per section, which names nothing but its parameters and
the ``bound`` names; every name in it is an identifier that we made.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lowtide.core.codec import VERSION

_OURS = re.compile(r"_|args|run|exact|made|relaid|failed|as_said|leaves|Begun|float|h\d+|_unused\d+")


def usable(name: str) -> bool:
    """Whether generated code may call a value so: an identifier that the code does not use for something else."""
    return name.isidentifier() and not keyword.iskeyword(name) and _OURS.fullmatch(name) is None


@dataclass(frozen=True, slots=True)
class Header:
    """A tensor header over a slab. ``offset`` in bytes from the slab's start; stride in elements."""

    name: str
    dtype: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class SlabUse:
    """A slab as one section sees it: the headers it needs, in the order in which the code unpacks them.

    found_by: where the bytes were leased by an earlier section: position among this section's inputs of a tensor that
        lies in the slab, and the byte offset of its first element.
    leaves: headers go out to the caller as saved tensors, so they stand on a storage of this call's own.
    """

    slab: int
    nbytes: int
    device: str
    headers: tuple[Header, ...]
    kept: bool
    found_by: tuple[int, int] | None = None
    leaves: bool = False


@dataclass(frozen=True, slots=True)
class Consumed:
    """One storage whose bytes a section overwrites or reuses, and all of its inputs that stand on it.

    positions: among the section's inputs. offsets: in a slab, per position the byte at which that input begins, else
        empty. nbytes: of the slab, or 0.
    """

    positions: tuple[int, ...]
    offsets: tuple[int, ...] = ()
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One section's function in ``source``: its name, and the slabs that ``run`` hands it, in order.

    consumed: where anyone else holds one of these storages, this section must not run; its stand-alone program must.
    strides: per input the strides in elements that the code expects, None for what is no tensor.
    """

    function: str
    slabs: tuple[SlabUse, ...]
    consumed: tuple[Consumed, ...] = ()
    strides: tuple[tuple[int, ...] | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A C++ source, the functions that it defines, and the flags that it is compiled with."""

    text: str
    names: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """Generated code. ``bound``: identifier -> what it stands for, as ``op:aten.add.out``, ``dtype:f32``, ``device:cpu``,
    ``constant:name``, ``layout:strided``, ``format:contiguous_format``, ``kernel:name/buffers`` (a function of
    ``kernels``) or ``numbers:384,1`` (the address of such numbers). ``kernels``: the sources of those functions."""

    source: str
    entries: tuple[Entry, ...]
    bound: Mapping[str, str]
    kernels: tuple[Source, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The version-1 JSON form."""
        return {
            "version": VERSION,
            "source": self.source,
            "bound": dict(self.bound),
            "kernels": [{"text": k.text, "names": list(k.names), "flags": list(k.flags)} for k in self.kernels],
            "entries": [
                {
                    "function": e.function,
                    "consumed": [
                        {"positions": list(c.positions), "offsets": list(c.offsets), "nbytes": c.nbytes}
                        for c in e.consumed
                    ],
                    "strides": [None if s is None else list(s) for s in e.strides],
                    "slabs": [
                        {
                            "slab": u.slab, "nbytes": u.nbytes, "device": u.device, "kept": u.kept,
                            "found_by": list(u.found_by) if u.found_by else None, "leaves": u.leaves,
                            "headers": [
                                {
                                    "name": h.name, "dtype": h.dtype, "size": list(h.size),
                                    "stride": list(h.stride), "offset": h.offset,
                                }
                                for h in u.headers
                            ],
                        }
                        for u in e.slabs
                    ],
                }
                for e in self.entries
            ],
        }  # fmt: skip
