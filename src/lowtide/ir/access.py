"""What an operation touches, as values that can be compared: elements by index, or whole buffers.

Comes in: a static or symbolic Loop with names for its buffers, or an operation that is no loop. Goes out: ``Accesses``:
frozen sets of reads, writes and index expressions. Promised: two accesses of the same elements in the same order are
equal, however their loops were split, named, or surrounded by loops that the index does not use; nothing is guessed: what
is looked up counts the whole buffer, and a count that depends on an unknown size is None.

An access walks loops ``d0 d1 ..`` from the outermost to the innermost. It has two normal forms: ``merged`` joins loops
that the index walks as one; ``by_stride`` sorts them by stride before. Accesses that agree in the second form only
differ by the order of their loops, which ``permutation`` finds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from lowtide.core.errors import VerifyError
from lowtide.ir.graph import Op
from lowtide.ir.index import add, affine, mul, substitute
from lowtide.ir.loops import Loop
from lowtide.ir.symbolic import Dim, evaluate, symbol, symbols_of


@dataclass(frozen=True, slots=True)
class Element:
    """The elements ``index`` of a buffer, over ``loops`` (sizes of d0, d1, ..). ``mode``: how they are written, None for a
    read: ``store`` or ``accumulate``. ``element`` makes one in the form that compares."""

    buffer: str
    index: Dim
    loops: tuple[Dim, ...] = ()
    mode: str | None = None

    @property
    def strides(self) -> tuple[int, ...] | None:
        """Elements from one point of each loop to the next; None where the index is no sum of multiples of loops."""
        found = affine(self.index)
        names = [f"d{k}" for k in range(len(self.loops))]
        if found is None or any(n not in names for n in found[0]):
            return None
        return tuple(found[0].get(n, 0) for n in names)

    @property
    def scalar(self) -> bool:
        """Always the same element."""
        return not self.looked_up and not self.loops

    @property
    def looked_up(self) -> bool:
        """The index holds a value that the loop has loaded or computed."""
        return any(s[0] == "v" for s in symbols_of(self.index))

    @property
    def contiguous(self) -> bool:
        """One element after the other, or only one."""
        return self.scalar or (len(self.loops) == 1 and self.strides == (1,))

    @property
    def unit_stride(self) -> bool:
        """Neighbouring points of the innermost loop are neighbours in memory."""
        strides = self.strides
        return bool(strides) and strides[-1] == 1

    @property
    def offset(self) -> int | None:
        """The element at which all loops are at 0; None where that depends on anything."""
        first = substitute(self.index, {f"d{k}": 0 for k in range(len(self.loops))})
        return first if isinstance(first, int) else None

    def renamed(self, names: Mapping[str, str]) -> Element:
        """The same of another buffer."""
        return replace(self, buffer=names.get(self.buffer, self.buffer))

    def merged(self) -> Element:
        """With neighbouring loops made one where the index walks them as one."""
        out = self
        k = len(out.loops) - 2
        while k >= 0:
            strides, inner = out.strides, out.loops[k + 1]
            if strides is not None and isinstance(inner, int) and strides[k] == inner * strides[k + 1]:
                names: dict[str, Dim] = {f"d{k}": 0, f"d{k + 1}": symbol(f"d{k}")}
                names |= {f"d{j}": symbol(f"d{j - 1}") for j in range(k + 2, len(out.loops))}
                loops = (*out.loops[:k], mul(out.loops[k], inner), *out.loops[k + 2 :])
                out = replace(out, index=substitute(out.index, names), loops=loops)
            k -= 1
        return out

    def by_stride(self) -> Element:
        """With the largest strides outermost, then merged; where there are no strides, merged as it stands."""
        strides = self.strides
        if strides is None:
            return self.merged()
        order = sorted(range(len(strides)), key=lambda k: (-abs(strides[k]), k))
        names: dict[str, Dim] = {f"d{old}": symbol(f"d{new}") for new, old in enumerate(order)}
        loops = tuple(self.loops[k] for k in order)
        return replace(self, index=substitute(self.index, names), loops=loops).merged()

    def count(self, whole: int | None, hints: Mapping[str, int] | None = None) -> int | None:
        """Elements that are touched: the points of its loops, all of the buffer (``whole``) where it is looked up.

        ``hints``: guesses for sizes that are not known; None where one has no hint.
        """
        if self.looked_up:
            return whole
        known = hints or {}
        if any(s not in known for n in self.loops for s in symbols_of(n)):
            return None
        return math.prod(evaluate(n, known) for n in self.loops)


@dataclass(frozen=True, slots=True)
class Whole:
    """All of a buffer. ``mode`` as of an Element."""

    buffer: str
    mode: str | None = None

    @property
    def index(self) -> Dim:
        """There is none. Raises VerifyError: ``index``."""
        raise VerifyError("index", f"all of {self.buffer} is needed, not elements at an index")

    def renamed(self, names: Mapping[str, str]) -> Whole:
        """The same of another buffer."""
        return replace(self, buffer=names.get(self.buffer, self.buffer))

    def count(self, whole: int | None, hints: Mapping[str, int] | None = None) -> int | None:
        """Elements of the buffer."""
        return whole


Access = Element | Whole


def element(buffer: str, index: Dim, loops: Sequence[tuple[str, Dim]], mode: str | None = None) -> Element:
    """Elements at ``index`` over ``loops`` (variable and size, outermost first).

    Loops of one point, and those that the index does not use, are left out; the others are called d0, d1, ..
    """
    index = substitute(index, {name: 0 for name, n in loops if n == 1})
    used = symbols_of(index)
    kept = [(name, n) for name, n in loops if name in used]
    names: dict[str, Dim] = {name: symbol(f"d{k}") for k, (name, _) in enumerate(kept)}
    return Element(buffer, substitute(index, names), tuple(n for _, n in kept), mode)


@dataclass(frozen=True, slots=True)
class Accesses:
    """What is read and written. ``computed``: index expressions that are used as numbers, which touch no memory, and the
    sizes of the loops that they run over."""

    reads: frozenset[Access] = frozenset()
    writes: frozenset[Access] = frozenset()
    computed: frozenset[tuple[Dim, tuple[Dim, ...]]] = frozenset()

    def renamed(self, names: Mapping[str, str]) -> Accesses:
        """With buffers called otherwise."""
        reads = frozenset(x.renamed(names) for x in self.reads)
        return Accesses(reads, frozenset(x.renamed(names) for x in self.writes), self.computed)

    def with_reads(self, more: Iterable[Access]) -> Accesses:
        """With ``more`` reads."""
        return replace(self, reads=self.reads | frozenset(more))

    def without_reads(self, less: Iterable[Access]) -> Accesses:
        """Without these reads."""
        return replace(self, reads=self.reads - frozenset(less))

    @property
    def names(self) -> frozenset[str]:
        """Buffers that are touched."""
        return frozenset(x.buffer for x in (*self.reads, *self.writes))

    @property
    def symbols(self) -> frozenset[str]:
        """Unknown sizes in indices and loops: neither loops themselves nor values that are looked up."""
        held = [(x.index, *x.loops) for x in (*self.reads, *self.writes) if isinstance(x, Element)]
        held += [(index, *loops) for index, loops in self.computed]
        return frozenset(s for dims in held for d in dims for s in symbols_of(d) if s[0] not in "dv")


def merged(several: Iterable[Accesses]) -> Accesses:
    """Of all of them as one kernel: what one of them writes, none of them reads from outside."""
    given = list(several)
    writes = frozenset(w for a in given for w in a.writes)
    own = {replace(w, mode=None) for w in writes}
    reads = frozenset(r for a in given for r in a.reads if r not in own)
    return Accesses(reads, writes, frozenset(c for a in given for c in a.computed))


def accesses_of_loop(loop: Loop, names: Sequence[str], *, merge: bool = True, only: str | None = None) -> Accesses:
    """What a loop touches of its buffers (``names``, inputs first); asked again, it is not counted anew.

    merge: with loops merged; otherwise as they stand. only: ``outer`` or ``inner``: as the other kind of variables
    stays at 0. A store that adds reads what it adds to.
    """
    return _accesses_of_loop(loop, tuple(names), merge, only)


@lru_cache(maxsize=4096)
def _accesses_of_loop(loop: Loop, names: tuple[str, ...], merge: bool, only: str | None) -> Accesses:
    reads: set[Access] = set()
    writes: set[Access] = set()
    computed: set[tuple[Dim, tuple[Dim, ...]]] = set()
    for stage in loop.stages:
        outer = [(f"i{k}", n) for k, n in enumerate(loop.outer)]
        inner = [(f"r{k}", n) for k, n in enumerate(stage.inner)]
        hidden: dict[str, Dim] = dict.fromkeys(
            [n for n, _ in (inner if only == "outer" else outer if only == "inner" else [])], 0
        )
        for x in stage.body:
            if x.index is None:
                continue
            mode = x.op if x.writes else None
            slot = x.attr if isinstance(x.attr, int) else 0
            whole = x.op == "index"
            found = element("" if whole else names[slot], substitute(x.index, hidden), [*outer, *inner], mode)
            found = found.merged() if merge else found
            if whole:
                computed.add((found.index, found.loops))
            elif x.writes:
                writes.add(found)
            if x.op in ("load", "accumulate"):
                reads.add(replace(found, mode=None))
    return Accesses(frozenset(reads), frozenset(writes), frozenset(computed))


def accesses_of_call(op: Op) -> Accesses:
    """What an operation touches that is no loop: all of every value it is given, in lists and keywords too."""
    written = [*(o for o in op.outputs if o is not None), *op.mutates]
    return Accesses(frozenset(map(Whole, op.reads)), frozenset(Whole(n, "store") for n in written))


def permutation(a: Element, b: Element) -> tuple[int, ...] | None:
    """The order in which ``b``'s loops are ``a``'s: ``b.loops[k]`` is ``a.loops[p[k]]``.

    None where strides do not tell: ranks or strides differ, a stride occurs twice or is 0, a loop has fewer than two
    points.
    """
    x, y = a.strides, b.strides
    if x is None or y is None or len(x) != len(y) or len(set(x)) != len(x) or set(x) != set(y) or 0 in x:
        return None
    if any(not isinstance(n, int) or n < 2 for n in (*a.loops, *b.loops)):
        return None
    order = tuple(x.index(s) for s in y)
    shift = add(a.index, mul(-1, substitute(b.index, {f"d{k}": symbol(f"d{p}") for k, p in enumerate(order)})))
    return order if shift == 0 and all(b.loops[k] == a.loops[p] for k, p in enumerate(order)) else None
