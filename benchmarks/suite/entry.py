"""What a model of the suite is: a name, how it is built in two sizes, and what it needs.

Comes in: nothing. Goes out: ``Entry`` values, whose ``build(size)`` gives a ``Case`` (module, keyword inputs, loss).
Promised: the same entry and size give the same weights and inputs each time (``build`` seeds torch itself).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Size = Literal["tiny", "bench"]
SEED = 20


@dataclass(frozen=True, slots=True)
class Case:
    """One model, ready to run: ``loss(module(**inputs))`` is a scalar tensor."""

    module: nn.Module
    inputs: Mapping[str, Any]
    loss: Callable[[Any], Tensor]


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the suite.

    make: builds it, given whether the tiny size is wanted.
    needs: packages beyond torch.
    tags: ``half`` computes partly in 16 bits; ``breaks`` makes Dynamo break the graph; ``slow`` takes more than a few
        seconds to compile when tiny.
    """

    name: str
    make: Callable[[bool], Case]
    needs: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()

    def build(self, size: Size = "tiny") -> Case:
        """The model with freshly seeded weights and inputs.

        Raises:
            ImportError: a package of ``needs`` cannot be imported.
        """
        state = torch.get_rng_state()
        torch.manual_seed(SEED)
        try:
            return self.make(size == "tiny")
        finally:
            torch.set_rng_state(state)


def mean_square(out: Any) -> Tensor:
    """A loss for anything: the mean over all floating results, each pulled towards a pattern of its own.

    The pattern keeps gradients of results that a plain mean of squares would leave at zero (normalised values).
    """
    found = [t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point()]
    total = None
    for t in found:
        pattern = torch.arange(t.numel(), device=t.device).remainder(7).to(t.dtype).reshape(t.shape) * 0.1
        term = (t - pattern).pow(2).mean().to(torch.promote_types(t.dtype, torch.float32))
        total = term if total is None else total + term
    if total is None:
        raise TypeError(f"no floating tensor in {type(out).__name__}")
    return total


def without_dropout(module: nn.Module) -> nn.Module:
    """The same module, changed in place so that training draws no random numbers through dropout or layer skipping."""
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) or type(part).__name__ == "StochasticDepth":
            part.p = 0.0  # type: ignore[assignment]
        for name in ("dropout", "attention_dropout", "attn_dropout", "activation_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    return module
