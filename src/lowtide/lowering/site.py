"""Site and Nest: what a lowering rule works with. Short-lived: one Site per operation, one Nest per loop.

Comes in: an operation of a Graph. Goes out: loops, each with the values that it reads and makes. Promised: a rule names
elements by the index that a tensor's user sees; views, strides and offsets are this module's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lowtide.core.errors import BugError
from lowtide.core.reason import Reason
from lowtide.ir.build import LoopBuilder, compact
from lowtide.ir.graph import Arg, Graph, Layout, Op, Ref, Value, int_of
from lowtide.ir.index import add, bounds, flatten, mul
from lowtide.ir.loops import Loop
from lowtide.ir.strides import filled
from lowtide.ir.symbolic import Dim, Expr, symbol
from lowtide.ir.unroll import unrolled
from lowtide.lowering.scalars import Number, Scalar
from lowtide.lowering.scalars import where as choose

Index = Sequence[Dim]


class Refused(Exception):
    """Raised by a rule that cannot do this case: the operation then stays what it is, with the reason in the report."""


@dataclass(frozen=True, slots=True)
class Made:
    """A loop, the values of its buffers in order (first those it is given), and those of them that it changes."""

    loop: Loop
    given: tuple[str, ...]
    makes: tuple[str, ...]
    changes: tuple[str, ...] = ()


class Site:
    """One operation, and the loops that its rule makes of it for a ``device``. ``alone``: values that only this operation reads,
    and what computes them; a rule may compute one of those itself, and say so in ``absorbed``."""

    def __init__(
        self,
        graph: Graph,
        op: Op,
        roots: Mapping[str, str],
        alone: Mapping[str, Op] | None = None,
        device: str = "cpu",
    ) -> None:
        self.graph, self.op, self.roots, self.device = graph, op, roots, device
        self.alone: Mapping[str, Op] = alone or {}
        self.absorbed: set[str] = set()
        self.made: list[Made] = []
        self.whole: Made | None = None  # the one loop that ``made`` are the two of, where a reduction is in parts
        self.temporaries: list[Value] = []
        self.values: dict[str, Value] = {}

    def value(self, ref: Arg) -> Value:
        """The value that an argument names."""
        if not isinstance(ref, Ref):
            raise Refused(f"takes {ref!r} where a tensor is expected")
        return self.values.get(ref.name) or self.graph.value[ref.name]

    def size(self, ref: Arg) -> tuple[int, ...]:
        """Its size."""
        return tuple(map(int_of, self.value(ref).layout.size))

    def dtype(self, ref: Arg) -> str:
        """Its dtype."""
        return self.value(ref).layout.dtype

    def output(self, k: int = 0) -> Ref | None:
        """The k-th result, None where nobody uses it."""
        name = self.op.outputs[k]
        return Ref(name) if name is not None else None

    def temporary(self, dtype: str, size: Sequence[int]) -> Ref:
        """A contiguous tensor of our own, which lives from the loop that makes it to the last that reads it."""
        name = f"{self.op.name}_part{len(self.temporaries)}"
        v = Value(name, Layout(dtype, self.device, tuple(size), filled(size)), name, self.op.origin)
        self.temporaries.append(v)
        self.values[name] = v
        return Ref(name)

    def loop(self, outer: Sequence[int] = ()) -> Nest:
        """Begin a loop; ``done()`` ends it."""
        return Nest(self, outer)


class Nest:
    """One loop while it is built: loads and stores by the index that the tensor's user sees."""

    def __init__(self, site: Site, outer: Sequence[int]) -> None:
        self.site = site
        self.b = LoopBuilder(outer)
        self.slots: dict[tuple[str, bool], int] = {}
        self.accesses: list[tuple[str, bool]] = []

    @property
    def rows(self) -> tuple[Dim, ...]:
        """The outer variables."""
        return self.b.rows

    def stage(self, *inner: int) -> tuple[Dim, ...]:
        """Begin a stage; its inner variables."""
        return self.b.stage(inner)

    def _slot(self, name: str, made: bool) -> int:
        """Buffers are numbered as they are met, and put in order at the end."""
        key = (name, made)
        if key not in self.slots:
            self.slots[key] = len(self.slots)
        return self.slots[key]

    def _element(self, v: Value, index: Index) -> tuple[str, Dim]:
        """The buffer on which a value stands, and the element of it at an index."""
        x = v.layout
        if len(index) != len(x.size):
            raise BugError(f"{self.site.op.name}: {len(index)} variables index a tensor of {len(x.size)} dimensions")
        root = self.site.roots.get(v.name, v.name)
        base = self.site.values.get(root) or self.site.graph.value[root]
        own = [0 if n == 1 else i for i, n in zip(index, x.size, strict=True)]
        return root, flatten(own, x.stride, add(x.offset, mul(-1, base.layout.offset)))

    def load(self, ref: Arg, index: Index, where: Scalar | None = None) -> Scalar:
        """An element, as it is stored; 0 where ``where`` is false."""
        v = self.site.value(ref)
        root, element = self._element(v, index)
        made = (root, True) in self.slots
        slot = self._slot(root, made)
        return Scalar(self.b, self.b.load(slot, v.layout.dtype, element, where.n if where is not None else None))

    def spread(self, ref: Arg, index: Index) -> Scalar:
        """An element of a tensor that is broadcast to ``index``'s rank: size-1 and missing dimensions are repeated."""
        size = self.site.size(ref)
        return self.load(ref, list(index)[len(index) - len(size) :])

    def store(
        self, ref: Ref | None, index: Index, value: Scalar, *, add: bool = False, where: Scalar | None = None
    ) -> None:
        """Write an element of a result (nothing, where nobody uses the result)."""
        if ref is None:
            return
        v = self.site.value(ref)
        root, element = self._element(v, index)
        before = {n for m in self.site.made for n in m.makes}  # an earlier loop made it: this one changes it
        made = root not in before and (root in self.site.op.outputs or root in {t.name for t in self.site.temporaries})
        guard = where.n if where is not None else None
        self.b.store(self._slot(root, made), element, value.to(v.layout.dtype).n, add=add, where=guard)

    def const(self, dtype: str, value: Number) -> Scalar:
        """A constant."""
        return Scalar(self.b, self.b.const(dtype, value))

    def index(self, e: Dim) -> Scalar:
        """An index as a number (i64)."""
        return Scalar(self.b, self.b.index(e))

    def count(self, n: int, dtype: str) -> Scalar:
        """A number that follows from sizes, so that loops over other sizes have the same text."""
        return Scalar(self.b, self.b.counted(n)).to(dtype)

    def at(self, value: Scalar) -> Expr:
        """A computed i64 as part of an index."""
        return symbol(f"v{value.to('i64').n}")

    def checked(self, i: Scalar, size: int) -> Expr:
        """An index that was computed, as part of an index: the kernel fails where it is not in ``[0, size)``, and reads or
        writes element 0 instead."""
        if size == 0:
            raise Refused("looks up a dimension without elements")
        i = i.to("i64")
        inside = (i >= 0) & (i < self.count(size, "i64"))
        self.b.check(inside.n)
        return self.at(choose(inside, i, 0))

    def within(self, index: Index, size: Sequence[int], known: Scalar | None = None) -> Scalar | None:
        """Whether an index lies inside ``size``, and ``known`` holds; None where the ranges say so."""
        inside = known
        for i, m in zip(index, size, strict=True):
            lo, hi = bounds(i, self.b.ranges)
            tests = [self.index(i) >= 0] if lo is None or lo < 0 else []
            tests += [self.index(i) < self.count(m, "i64")] if hi is None or hi >= m else []
            for t in tests:
                inside = t if inside is None else inside & t
        return inside

    def reduce(self, kind: str, value: Scalar) -> Scalar:
        """The value reduced over the stage's inner ranges. argmax and argmin give an i64."""
        return Scalar(self.b, self.b.reduce(kind, value.n, "i64" if kind.startswith("arg") else None))

    def several(self, family: str, value: Scalar) -> list[Scalar]:
        """All results of one pass over the stage's inner ranges: ``welford``: mean, squared differences from it, weight;
        ``softmax``: greatest, and the sum of e^(x - greatest)."""
        return [Scalar(self.b, n) for n in self.b.several(family, value.n)]

    def scan(self, kind: str, value: Scalar) -> Scalar:
        """The running reduction along the stage's one inner range."""
        return Scalar(self.b, self.b.scan(kind, value.n))

    def done(self) -> None:
        """End the loop, and hand it to the site."""
        made = self.ended()
        if made is not None:
            self.site.made.append(made)

    def ended(self) -> Made | None:
        """End the loop, once; None where it writes nothing."""
        given = [name for name, made in self.slots if not made]
        makes = [name for name, made in self.slots if made]
        site = self.site
        order = {(n, made): k for k, (n, made) in enumerate([(n, False) for n in given] + [(n, True) for n in makes])}
        to = {old: order[key] for key, old in self.slots.items()}
        self.b.body = [
            replace(x, attr=to[x.attr]) if x.op in ("load", "store", "accumulate") and isinstance(x.attr, int) else x
            for x in self.b.body
        ]

        def kind(name: str) -> str:
            return (site.values.get(name) or site.graph.value[name]).layout.dtype

        self.b.inputs, self.b.outputs = [kind(n) for n in given], [kind(n) for n in makes]
        loop, kept = compact(unrolled(self.b.build()))
        given = [given[k] for k in kept]
        changed = tuple(n for k, n in enumerate(given) if k in loop.written)
        return Made(loop, tuple(given), tuple(makes), changed) if makes or changed else None


def refused(op: Op, why: str) -> Reason:
    """Why an operation stays a library call."""
    return Reason(f"{op.target} ({op.origin})", why)
