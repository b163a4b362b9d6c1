"""Random loop bodies and chains of views: generated C++ against the oracle, many compiled together."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from built import build, call

sys.path.insert(0, str(Path(__file__).parents[1] / "ir"))

from random_loops import FLOATS, INTS, random_loop

from lowtide.core import native
from lowtide.ir.build import LoopBuilder
from lowtide.ir.index import add, flatten, mul, unflatten
from lowtide.ir.interpret import interpret
from lowtide.ir.loops import Loop
from lowtide.ir.symbolic import Dim

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")
SEEDS = st.integers(0, 2**32)
AT_ONCE = 24


def one(examples: int) -> settings:
    return settings(deadline=None, max_examples=examples, phases=(Phase.generate,))


def check_all(made: list[tuple[Loop, list[np.ndarray]]]) -> None:
    """The kernels leave what the oracle leaves: whole numbers bit for bit, others within rounding."""
    build((loop for loop, _ in made), 2)
    for loop, buffers in made:
        a, b = [x.copy() for x in buffers], [x.copy() for x in buffers]
        interpret(loop, a)
        call(loop, *b)
        for x, y in zip(a, b, strict=True):
            if x.dtype.kind == "f":
                scale = np.max(np.abs(x[np.isfinite(x)]), initial=1.0)
                np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5 * scale, err_msg=str(loop))
            else:
                np.testing.assert_array_equal(y, x, err_msg=str(loop))


def bodies(seed: int) -> list[tuple[Loop, list[np.ndarray]]]:
    seeds = random.Random(seed)
    made = [random_loop(seeds.getrandbits(32), INTS) for _ in range(AT_ONCE // 2)]
    dtypes = (*INTS[:1], *FLOATS)
    return made + [random_loop(seeds.getrandbits(32), dtypes, several=True) for _ in range(AT_ONCE // 2)]


@pytest.mark.spec("IR-29", "IR-31", "IR-32", "IR-36", "IR-35")
@one(2)
@given(SEEDS)
def test_bodies(seed: int):
    check_all(bodies(seed))


@pytest.mark.slow
@one(60)
@given(SEEDS)
def test_many_bodies(seed: int):
    check_all(bodies(seed))


class View:
    """A chain of views of a contiguous tensor: what NumPy makes of it, and our index into the storage."""

    def __init__(self, r: random.Random) -> None:
        self.r = r
        self.size = tuple(r.choice((1, 2, 3, 4, 6, 8)) for _ in range(r.randint(1, 4)))
        self.data = np.arange(math.prod(self.size)).reshape(self.size)
        self.stride = _contiguous(self.size)
        self.ranges: Mapping[str, int] = {}
        self.steps: list = []

    def grow(self) -> None:
        """One more view."""
        rank = self.data.ndim
        kind = self.r.choice(("permute", "slice", "reshape", "expand", "squeeze"))
        if kind == "permute":
            order = list(range(rank))
            self.r.shuffle(order)
            self.data = self.data.transpose(order)
            self.steps.append(lambda at, o=order: tuple(at[o.index(d)] for d in range(len(o))))
        elif kind == "slice" and rank:
            d = self.r.randrange(rank)
            lo = self.r.randrange(self.data.shape[d])
            step = self.r.choice((1, 1, 2, 3))
            self.data = self.data[(slice(None),) * d + (slice(lo, None, step),)]
            self.steps.append(lambda at, d=d, lo=lo, step=step: (*at[:d], add(mul(at[d], step), lo), *at[d + 1 :]))
        elif kind == "reshape":
            old, new = self.data.shape, self._other_shape()
            self.data = self.data.reshape(new)
            self.steps.append(lambda at, old=old, new=new: _reshaped(at, old, new, self.ranges))
        elif kind == "expand":
            n = self.r.choice((2, 5))
            self.data = np.broadcast_to(self.data, (n, *self.data.shape))
            self.steps.append(lambda at: at[1:])
        elif kind == "squeeze" and 1 in self.data.shape:
            d = self.data.shape.index(1)
            self.data = self.data.squeeze(d)
            self.steps.append(lambda at, d=d: (*at[:d], 0, *at[d:]))

    def _other_shape(self) -> tuple[int, ...]:
        left, out = self.data.size, []
        while left > 1 and len(out) < 3:
            n = self.r.choice([d for d in range(1, left + 1) if left % d == 0])
            out.append(n)
            left //= n
        return (*out, left)

    def loop(self) -> Loop:
        """A copy of what the chain shows."""
        b = LoopBuilder()
        b.inputs, b.outputs = ["i64"], ["i64"]
        at: tuple[Dim, ...] = b.stage(self.data.shape)
        self.ranges = b.ranges
        into = flatten(at, _contiguous(self.data.shape))
        for step in reversed(self.steps):
            at = step(at)
        b.store(1, into, b.load(0, "i64", flatten(at, self.stride)))
        return b.build()


def _contiguous(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(size[k + 1 :]) for k in range(len(size)))


def _reshaped(
    at: tuple[Dim, ...], old: tuple[int, ...], new: tuple[int, ...], ranges: Mapping[str, int]
) -> tuple[Dim, ...]:
    found = unflatten(flatten(at, _contiguous(new)), old, _contiguous(old), ranges)
    assert found is not None
    return found


def chains(seed: int) -> list[tuple[Loop, list[np.ndarray]]]:
    r = random.Random(seed)
    made = []
    for _ in range(AT_ONCE):
        view = View(r)
        for _ in range(r.randint(1, 5)):
            if view.data.size < 2000:
                view.grow()
        loop = view.loop()
        given = np.arange(math.prod(view.size))
        out = np.zeros(view.data.size, np.int64)
        interpret(loop, [given, out])
        np.testing.assert_array_equal(out, view.data.ravel(), err_msg=str(loop))
        made.append((loop, [given, np.zeros_like(out)]))
    return made


@pytest.mark.spec("IR-22", "IR-23", "IR-24", "IR-25")
@one(2)
@given(SEEDS)
def test_chains_of_views(seed: int):
    check_all(chains(seed))


@pytest.mark.slow
@one(60)
@given(SEEDS)
def test_many_chains_of_views(seed: int):
    check_all(chains(seed))
