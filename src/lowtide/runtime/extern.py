"""Operators from outside torch, whose schema we believe only once we have seen it hold.

Comes in: an operator whose schema says what it changes and that its results are new. Goes out: a callable that keeps to
that: a result that stands on memory which the call was given, or which another result has, is copied; an argument that
the first call changes although the schema does not say so is put back, and the operator is given copies from then on; a
result that lies otherwise than the operator said without data is copied, and one of another size, dtype or device refused.
Promised: planned memory is neither changed nor kept by an operator that does not declare it; what does not hold is logged
once per operator of a program, as a Reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch

from lowtide.core.reason import Reason
from lowtide.ir.graph import TRUSTED
from lowtide.ir.strides import same_places

log = logging.getLogger(__name__)


def trusted(target: str) -> bool:
    """Whether an operator is torch's own."""
    return target.split(".", 1)[0] in TRUSTED


class AsSaid:
    """What the operators of one program give, held against what was captured of them."""

    def __init__(self) -> None:
        self.copied: set[str] = set()  # operators of which it was logged

    def __call__(
        self,
        t: torch.Tensor,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        target: str,
    ) -> torch.Tensor:
        """A result, lying as it was captured: kernels read it by address. It is copied where its strides say otherwise, or
        where it begins between two elements.

        Raises:
            RuntimeError: it has another size or dtype, or is on another device.
        """
        for what, found, said in (
            ("size", tuple(t.shape), size),
            ("dtype", t.dtype, dtype),
            ("device", t.device, device),
        ):
            if found != said:
                raise RuntimeError(f"{target} gives a result of {what} {found}; what it says without data is {said}")
        if same_places(size, t.stride(), stride) and t.data_ptr() % t.element_size() == 0:
            return t
        if target not in self.copied:
            self.copied.add(target)
            why = f"gives strides {t.stride()} or an address other than was said: the result is copied"
            log.warning("%s", Reason(target, why))
        return torch.empty_strided(size, stride, dtype=dtype, device=device).copy_(t)


class Extern:
    """One operator in one program."""

    def __init__(self, target: str, call: Any) -> None:
        self.target, self.call = target, call
        self.declared = [a.alias_info is not None and a.alias_info.is_write for a in call._schema.arguments]
        self.names = [a.name for a in call._schema.arguments]
        self.new = [r.alias_info is None for r in call._schema.returns]
        self.changes: set[int] | None = None  # undeclared, by position in the schema; None before the first call
        self.returns_given = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The results, each on memory of its own where the schema says that it is new."""
        if self.changes is None:
            results = self._first(args, kwargs)
        elif self.changes:
            results = self.call(
                *(_copied(a) if n in self.changes else a for n, a in enumerate(args)),
                **{k: _copied(a) if self.names.index(k) in self.changes else a for k, a in kwargs.items()},
            )
        else:
            results = self.call(*args, **kwargs)
        held = {t.untyped_storage().data_ptr() for t in _tensors((args, tuple(kwargs.values())))}
        if len(self.new) < 2:  # a list or a mapping is one return
            return self._own(results, 0, held)
        return tuple(self._own(r, i, held) for i, r in enumerate(results))

    def _first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = {n: a for n, a in enumerate(args) if not self.declared[n]}
        given |= {n: a for k, a in kwargs.items() if not self.declared[n := self.names.index(k)]}
        before = {n: [t.clone() for t in _tensors(a)] for n, a in given.items()}
        results = self.call(*args, **kwargs)
        self.changes = set()
        for n, a in given.items():
            for t, was in zip(_tensors(a), before[n], strict=True):
                if not _same_bytes(t, was):
                    self.changes.add(n)
                    t.copy_(was)
        if self.changes:
            which = ", ".join(self.names[n] for n in sorted(self.changes))
            log.warning(
                "%s", Reason(self.target, f"changes {which}, which its schema does not say: it is given copies")
            )
        return results

    def _own(self, result: Any, i: int, held: set[int]) -> Any:
        if isinstance(result, tuple | list):
            return type(result)(self._own(r, i, held) for r in result)
        if isinstance(result, dict):
            return {key: self._own(r, i, held) for key, r in result.items()}
        if not isinstance(result, torch.Tensor) or not self.new[i] or not result.numel():
            return result
        at = result.untyped_storage().data_ptr()
        if at not in held:
            held.add(at)
            return result
        if not self.returns_given:
            self.returns_given = True
            log.warning("%s", Reason(self.target, "returns memory of others as new, which is copied"))
        own = torch.empty_strided(result.shape, result.stride(), dtype=result.dtype, device=result.device)
        return own.copy_(result)


def _tensors(a: Any) -> Iterator[torch.Tensor]:
    if isinstance(a, torch.Tensor):
        yield a
    elif isinstance(a, tuple | list):
        for x in a:
            yield from _tensors(x)


def _copied(a: Any) -> Any:
    if isinstance(a, torch.Tensor):
        return a.clone()
    return type(a)(_copied(x) for x in a) if isinstance(a, tuple | list) else a


def _same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit, so that not-a-number is itself."""
    if not a.numel():
        return True
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
