"""Random programs of torch operations: what the whole compiler is tested with, from capture to running kernels.

Biased to what breaks a scheduler: values that are read by several, transposes, broadcasts of rows and columns, reductions over
either axis and over both, elements at other places (shifts, slices, what is looked up), library calls in between, tensors that
are changed in place, whole or through a view, and views that live longer than what they were taken from.

Numbers are f64 and stay small, so that what rounds otherwise differs by 1e-12 and what is wrong by far more; no comparison
of computed values decides anything that a last bit could turn. Whole numbers, without gradients, must agree exactly.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

# Kinds of values, of R rows and C columns: a grid [R, C], a grid that is turned [C, R], a row [C], a column [R, 1], a number [],
# and rows and columns of the turned grid.
GRID, TURNED, ROW, COLUMN, ONE, STANDING, LYING = "grid", "turned", "row", "column", "one", "standing", "lying"
INPUTS = (GRID, GRID, ROW, COLUMN)  # every program's; behind them a matrix, places, and a row that is changed
SIZES = ((6, 5), (24, 40), (33, 17), (7, 128))


@dataclass(frozen=True, slots=True)
class Operation:
    """``call`` takes the program's own inputs and operands of the kinds ``takes``, and gives a value of kind ``makes``.
    ``whole``: for whole numbers too. ``trains``: where gradients are wanted too."""

    takes: tuple[str, ...]
    makes: str
    call: Callable[..., Tensor]
    whole: bool = True
    trains: bool = True


class Given(NamedTuple):
    """What operations find beside their operands: a matrix [C, C], places of rows [R], and a row that is changed [C]."""

    weight: Tensor
    places: Tensor
    running: Tensor


def _changed(x: Tensor, change: Callable[[Tensor], object], name: Callable[[Tensor], Tensor] = lambda y: y) -> Tensor:
    """A copy that is changed; ``name``: what of it is seen afterwards, taken before the change."""
    y = x.clone()
    seen = name(y)
    change(y)
    return seen


def _kept_up(g: Given, x: Tensor) -> Tensor:
    """The row of the caller's becomes another one, as statistics of a normalisation do."""
    g.running.sub_(_small(x.detach().sum(0)))
    return g.running.clone()


def _small(x: Tensor) -> Tensor:
    """An eighth, of what is no whole number: sums of sums stay small."""
    return x * 0.125 if x.is_floating_point() else x


def _alternately(x: Tensor, y: Tensor) -> Tensor:
    """Every second column of both side by side."""
    return torch.cat([x, y], 1)[:, ::2]


POINTWISE: Mapping[str, tuple[int, Callable[..., Tensor], bool]] = {  # operands, what it does, for whole numbers too
    "less": (1, lambda x: 3 - x, True),
    "clamped": (1, lambda x: x.clamp(-3, 7), True),
    "tanh": (1, torch.tanh, False),
    "sigmoid": (1, torch.sigmoid, False),
    "wave": (1, torch.sin, False),
    "rectified": (1, lambda x: torch.relu(x - 0.1234), False),
    "gelu": (1, functional.gelu, False),
    "add": (2, torch.add, True),
    "sub": (2, torch.sub, True),
    "mul": (2, lambda x, y: x * y.clamp(-2, 2), True),
    "picked": (2, lambda x, y: torch.where(x > 0.1234, y, x - y), True),
    "gated": (2, lambda x, y: x * torch.sigmoid(y), False),
    "mixed": (3, lambda x, y, z: x - y + z.clamp(-1, 1), True),
}

_OTHERS: Mapping[str, Operation] = {
    # other names
    "turned": Operation((GRID,), TURNED, lambda g, x: x.t()),
    "upright": Operation((TURNED,), GRID, lambda g, x: x.t()),
    "stood": Operation((ROW,), STANDING, lambda g, x: x[:, None]),
    "lain": Operation((COLUMN,), LYING, lambda g, x: x[:, 0]),
    "first row": Operation((GRID,), ROW, lambda g, x: x[0]),
    "last column": Operation((GRID,), COLUMN, lambda g, x: x[:, -1:]),
    "corner": Operation((GRID,), ONE, lambda g, x: x[-1, 0]),
    # reductions
    "rows summed": Operation((GRID,), COLUMN, lambda g, x: _small(x.sum(1, keepdim=True))),
    "columns summed": Operation((GRID,), ROW, lambda g, x: _small(x.sum(0))),
    "turned summed": Operation((TURNED,), ROW, lambda g, x: _small(x.sum(1))),
    "some summed": Operation((GRID,), ROW, lambda g, x: _small(x[1:-1].sum(0))),
    "all summed": Operation((GRID,), ONE, lambda g, x: _small(x.sum())),
    "rows' largest": Operation((GRID,), COLUMN, lambda g, x: x.amax(1, keepdim=True), trains=False),
    "columns' largest": Operation((GRID,), ROW, lambda g, x: x.amax(0), trains=False),
    "variance": Operation((GRID,), COLUMN, lambda g, x: x.var(1, keepdim=True), whole=False),
    "rows' means": Operation((GRID,), COLUMN, lambda g, x: x.mean(1, keepdim=True), whole=False),
    "columns' means": Operation((GRID,), ROW, lambda g, x: x.mean(0), whole=False),
    "logsumexp": Operation((GRID,), COLUMN, lambda g, x: x.logsumexp(1, keepdim=True), whole=False),
    # reductions, and the elements again
    "softmax": Operation((GRID,), GRID, lambda g, x: torch.softmax(x, 1), whole=False),
    "softmax of columns": Operation((GRID,), GRID, lambda g, x: torch.softmax(x, 0), whole=False),
    "normed": Operation((GRID, ROW), GRID, lambda g, x, y: functional.layer_norm(x, y.shape, y), whole=False),
    "less its rows": Operation((GRID,), GRID, lambda g, x: x - _small(x.sum(1, keepdim=True))),
    "less its columns": Operation((GRID,), GRID, lambda g, x: x - _small(x.sum(0))),
    "summed along": Operation((GRID,), GRID, lambda g, x: _small(x.cumsum(1))),
    "summed down": Operation((GRID,), GRID, lambda g, x: _small(x.cumsum(0))),
    # other places
    "turned over": Operation((GRID,), TURNED, lambda g, x: x.t().contiguous()),
    "poured": Operation((GRID,), TURNED, lambda g, x: x.reshape(x.shape[1], x.shape[0])),
    "flipped": Operation((GRID,), GRID, lambda g, x: x.flip(0)),
    "rolled": Operation((GRID,), GRID, lambda g, x: x.roll(1, 1)),
    "moved down": Operation((GRID,), GRID, lambda g, x: functional.pad(x[:-1], (0, 0, 1, 0))),
    "one upon the other": Operation((GRID, GRID), GRID, lambda g, x, y: torch.cat([x, y], 0)[3 : 3 + x.shape[0]]),
    "alternately": Operation((GRID, GRID), GRID, lambda g, x, y: _alternately(x, y)),
    "spread": Operation((ROW, COLUMN), GRID, lambda g, x, y: x.expand(len(y), -1) - y),
    "looked up": Operation((GRID,), GRID, lambda g, x: x[g.places]),
    "added up": Operation((GRID, GRID), GRID, lambda g, x, y: x.index_add(0, g.places, y)),
    # library calls
    "product": Operation((GRID,), GRID, lambda g, x: x @ g.weight, whole=False),
    "product of turned": Operation((TURNED, GRID), GRID, lambda g, x, y: y @ torch.tanh(x @ y), whole=False),
    # changes
    "added into": Operation((GRID, GRID), GRID, lambda g, x, y: _changed(x, lambda z: z.add_(y))),
    "part changed": Operation((GRID,), GRID, lambda g, x: _changed(x, lambda z: z[1:3].sub_(1))),
    "row set": Operation((GRID, ROW), GRID, lambda g, x, y: _changed(x, lambda z: z[1].copy_(y))),
    "column added": Operation((GRID, COLUMN), GRID, lambda g, x, y: _changed(x, lambda z: z[:, 1:2].add_(y))),
    "changed as turned": Operation((GRID, STANDING), GRID, lambda g, x, y: _changed(x, lambda z: z.t().sub_(y))),
    "row outlives": Operation((GRID,), ROW, lambda g, x: _changed(x, lambda z: z.clamp_(-1, 2), lambda z: z[-1])),
    "turned outlives": Operation((GRID, ROW), TURNED, lambda g, x, y: _changed(x, lambda z: z.add_(y), lambda z: z.t())),
    "kept up": Operation((GRID,), ROW, _kept_up),
    "changed by": Operation((GRID, GRID), GRID, lambda g, x, y: x.add_(y.clone()), trains=False),
    "changed by a row": Operation((GRID, ROW), GRID, lambda g, x, y: x.sub_(y.clone()), trains=False),
    "row changed": Operation((GRID, ROW), ROW, lambda g, x, y: x[0].sub_(y.clone()), trains=False),
}  # fmt: skip
OPERATIONS: Mapping[str, Operation] = {
    **_OTHERS,
    **{
        f"{name} {kind}": Operation((kind,) * n, kind, lambda g, *x, f=f: f(*x), whole)
        for name, (n, f, whole) in POINTWISE.items()
        for kind in (GRID, TURNED, ROW, COLUMN, ONE)
    },
}
CHANGES = (
    "added into", "part changed", "row set", "column added", "changed as turned", "row outlives", "turned outlives", "kept up",
    "changed by", "changed by a row", "row changed",
)  # fmt: skip
# What can be an operand of a kind, and by which other name (None: as it is).
EXACT: Mapping[str, Mapping[str, str | None]] = {
    GRID: {GRID: None, TURNED: "upright"},
    TURNED: {TURNED: None, GRID: "turned"},
    STANDING: {STANDING: None, ROW: "stood"},
    ROW: {ROW: None},
    COLUMN: {COLUMN: None},
    ONE: {ONE: None},
}
# The same where operands may be broadcast.
SPREAD: Mapping[str, Mapping[str, str | None]] = {
    GRID: {**EXACT[GRID], ROW: None, COLUMN: None, ONE: None},
    TURNED: {**EXACT[TURNED], STANDING: None, LYING: None, ONE: None, ROW: "stood", COLUMN: "lain"},
    ROW: {ROW: None, ONE: None},
    COLUMN: {COLUMN: None, ONE: None},
    ONE: {ONE: None},
}


@dataclass(frozen=True, slots=True)
class Program:
    """``steps``: an operation and the values that it takes, by number: the inputs come first, then a value per step.
    ``returns``: the values that the caller gets. ``trains``: and their gradients."""

    rows: int
    columns: int
    trains: bool
    whole: bool
    steps: tuple[tuple[str, tuple[int, ...]], ...]
    returns: tuple[int, ...]

    def function(self) -> Callable[..., tuple[Tensor, ...]]:
        """What it computes, of tensors as ``inputs`` gives them."""
        steps = [(OPERATIONS[name].call, operands) for name, operands in self.steps]
        returns = self.returns

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            values, given = list(inputs[: len(INPUTS)]), Given(*inputs[len(INPUTS) :])
            for call, operands in steps:
                values.append(call(given, *[values[k] for k in operands]))
            return tuple([values[k] for k in returns])

        return run

    def inputs(self) -> tuple[Tensor, ...]:
        """Tensors that depend on the program alone."""
        dice = torch.Generator().manual_seed(zlib.crc32(repr(self).encode()))
        rows, columns = self.rows, self.columns
        shapes = ((rows, columns), (rows, columns), (columns,), (rows, 1), (columns, columns))

        def drawn(*shape: int) -> Tensor:
            if self.whole:
                return torch.randint(-9, 9, shape, generator=dice)
            return torch.rand(shape, generator=dice, dtype=torch.float64) * 2 - 1

        made = [drawn(*shape) for shape in shapes]
        if self.trains:
            made = [t.requires_grad_() for t in made]
        places = torch.randint(0, rows, (rows,), generator=dice)
        return (*made, places, drawn(columns))


@st.composite
def torch_programs(draw: Callable[..., Any], least: int = 3, most: int = 14) -> Program:
    """Programs of ``least`` to ``most`` operations, not counting those that give an operand another name."""
    rows, columns = draw(st.sampled_from(SIZES))
    whole = draw(st.integers(0, 4)) == 0
    trains = not whole and draw(st.booleans())
    usable = [n for n, x in OPERATIONS.items() if (x.whole or not whole) and (x.trains or not trains)]
    large = [n for n in usable if not _pointwise(n) or OPERATIONS[n].makes in (GRID, TURNED)]
    changes = [n for n in usable if n in CHANGES]
    names = st.sampled_from([*usable, *large, *changes, *changes])
    kinds = list(INPUTS)
    steps: list[tuple[str, tuple[int, ...]]] = []

    def put(name: str, operands: Sequence[int]) -> int:
        steps.append((name, tuple(operands)))
        kinds.append(OPERATIONS[name].makes)
        return len(kinds) - 1

    def operand(by: Mapping[str, str | None]) -> int | None:
        fit = [k for k, kind in enumerate(kinds) if kind in by]
        if not fit:
            return None
        k = draw(st.sampled_from([*fit, *fit[-5:], *fit[-3:]]))  # the latest more often
        name = by[kinds[k]]
        return k if name is None else put(name, (k,))

    for _ in range(draw(st.integers(least, most))):
        name = draw(names)
        first, *others = OPERATIONS[name].takes
        found = [operand(EXACT[first]), *(operand((SPREAD if _pointwise(name) else EXACT)[k]) for k in others)]
        given = [k for k in found if k is not None]
        if len(given) == len(found):
            put(name, given)
    made = range(len(INPUTS), len(kinds))
    of = [*made, *made[-4:]] or [0]  # where no operand was found for any operation, an input
    returns = draw(st.lists(st.sampled_from(of), min_size=1, max_size=4, unique=True))
    return Program(rows, columns, trains, whole, tuple(steps), tuple(returns))


def _pointwise(name: str) -> bool:
    return name.partition(" ")[0] in POINTWISE
