"""The stages of two loops put together to those of one.

Comes in: two tasks over the same outer ranges, of which the second reads nothing that the first has not stored yet
(``schedule.joined`` proves it). Goes out: one task. Promised: the same numbers in the same dtypes.

The stages of the second go as early as what they need allows, into a stage over the same ranges where there is one, and take
a value that was just stored instead of loading it. What only later stages read is computed again there, where that is cheap,
or where a code generator may keep it along a row (``codegen.shape.recomputed``): so it has no memory.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from lowtide.ir.build import LoopBuilder, compact
from lowtide.ir.graph import int_of
from lowtide.ir.index import affine, unflatten
from lowtide.ir.loops import Instr, Loop, Stage, renumbered, with_buffer
from lowtide.ir.symbolic import Dim
from lowtide.ir.task import FREE, HEAVY, Task
from lowtide.schedule.rules import Rules


def stitched(a: Task, b: Task, needed: Set[str], rules: Rules) -> Task:
    """Both as one task. ``needed``: values of theirs that others read. ``rules``: what may be computed again instead of stored,
    where the body has no more instructions then than a kernel may."""
    return _Joiner(a, b, rules).run(needed)


@dataclass
class _Place:
    """A stage of the joined loop while it is put together."""

    inner: tuple[Dim, ...]
    items: list[tuple[int, Instr]]

    @property
    def ordered(self) -> bool:
        """Whether its points must not be mixed with those of others."""
        return any(x.ordered or (x.op == "reduce" and str(x.attr).startswith("arg")) for _, x in self.items)


class _Joiner:
    """Puts the stages of the second among those of the first; short-lived."""

    def __init__(self, a: Task, b: Task, rules: Rules) -> None:
        self.rules = rules
        self.outer = a.loop.outer
        self.makes = [*a.makes, *b.makes]
        self.given = list(dict.fromkeys(n for n in (*a.given, *b.given) if n not in self.makes))
        values = [*self.given, *self.makes]
        self.slot = {n: k for k, n in enumerate(values)}
        kinds = dict(zip(a.values, a.loop.dtypes, strict=True)) | dict(zip(b.values, b.loop.dtypes, strict=True))
        self.kinds = [kinds[n] for n in values]
        self.places: list[_Place] = []
        self.home: dict[int, int] = {}
        for place in self._renamed(a, 0):
            self._put(place, len(self.places))
        for place in self._renamed(b, len(a.loop.body)):
            self._put(place, self._host(place))
        self.written = {x.attr for p in self.places for _, x in p.items if x.writes}
        self.anew: dict[int, tuple[tuple[int, Instr], ...]] = {}  # what computes a value that later stages read again

    def _renamed(self, t: Task, shift: int) -> list[_Place]:
        """The stages with instructions numbered from ``shift``, and buffers as they are in the joined loop."""
        at = {n: n + shift for n in range(len(t.loop.body))}
        slots = [self.slot[n] for n in t.values]
        out: list[_Place] = []
        n = shift
        for s in t.loop.stages:
            items: list[tuple[int, Instr]] = []
            for x in s.body:
                items.append((n, with_buffer(renumbered(x, at) if shift else x, slots)))
                n += 1
            out.append(_Place(s.inner, items))
        return out

    def _put(self, place: _Place, k: int) -> None:
        if k == len(self.places):
            self.places.append(place)
        else:
            self.places[k].items += place.items
        for n, _ in place.items:
            self.home[n] = k

    def _host(self, place: _Place) -> int:
        """The first stage that can take these instructions in, or the number of a new last one."""
        first = 0
        inside = {n for n, _ in place.items}
        for _, x in place.items:
            for n in x.needs:
                if n not in inside:
                    k = self.home[n]
                    free = not self.places[k].inner and not place.inner
                    first = max(first, k if free else k + 1)
            if x.touches:
                first = max(first, self._behind(place, x))
        if not place.ordered:
            for k in range(first, len(self.places)):
                if self.places[k].inner == place.inner and not self.places[k].ordered:
                    return k
        return len(self.places)

    def _behind(self, place: _Place, x: Instr) -> int:
        """The first stage in which an access may stand, for what others do with its buffer."""
        for k in range(len(self.places) - 1, -1, -1):
            p = self.places[k]
            others = [y for _, y in p.items if y.touches and y.attr == x.attr and (y.writes or x.writes)]
            if not others:
                continue
            plain = all(y.op == "store" and len(y.args) == 1 and y.index == x.index for y in others)
            if x.op == "load" and plain and p.inner == place.inner and len(others) == 1:
                return k
            if p.inner == place.inner and _overwrites(x, others, tuple(map(int_of, p.inner))):
                return k
            return k + 1
        return 0

    def run(self, needed: Set[str]) -> Task:
        """The joined loop, without stores that neither it nor anyone else needs. What only later stages of it read is
        computed again there, where that is cheap or a code generator may keep it along a row."""
        self.anew = {k: how for n in self.makes if n not in needed and (how := self._again(k := self.slot[n]))}
        dead: set[int] = set()
        loop = self._built(dead)
        if self.anew and len(loop.body) > self.rules.most_instructions:
            self.anew = {}
            loop = self._built(dead)
        while True:
            loaded = {x.attr for x in loop.body if x.op in ("load", "accumulate")}
            more = {self.slot[n] for n in self.makes if n not in needed} - loaded - dead
            if not more:
                break
            dead |= more
            loop = self._built(dead)
        kept = [k for k in range(len(self.kinds)) if k not in dead]
        makes = tuple(n for n in self.makes if self.slot[n] not in dead)
        to = {k: j for j, k in enumerate(kept)}
        stages = tuple(Stage(s.inner, tuple([with_buffer(x, to) for x in s.body])) for s in loop.stages)
        loop, left = compact(Loop(loop.outer, stages, loop.inputs, tuple(self.kinds[self.slot[n]] for n in makes)))
        return Task(loop, tuple(self.given[k] for k in left), makes)

    def _again(self, slot: int) -> tuple[tuple[int, Instr], ...]:
        """The instructions that compute what is stored in a buffer, its value last; none where a stage that reads it could
        not, or should not, compute it at its own points."""
        touching = [(k, n, x) for k, p in enumerate(self.places) for n, x in p.items if x.touches and x.attr == slot]
        stores = [t for t in touching if t[2].writes]
        if len(stores) != 1 or stores[0][2].op != "store" or len(stores[0][2].args) != 1:
            return ()
        (home, at, store) = stores[0]
        place = self.places[home]
        for k, n, x in touching:
            if n != at and (x.args or x.index != store.index or self.places[k].inner != place.inner):
                return ()
        wanted = {store.args[0]}
        how: list[tuple[int, Instr]] = []
        for n, x in reversed(place.items):
            if n in wanted:
                if x.acts or x.op in ("reduce", "scan") or (x.op == "load" and x.attr in self.written):
                    return ()
                wanted.update(x.needs)
                how.append((n, x))
        heavy = sum(10 if x.op in HEAVY else x.op not in FREE for _, x in how)
        if not self.outer:  # nothing stays in cache from one stage to the next
            once = heavy <= self.rules.again and sum(x.op == "load" for _, x in how) == 1
            return tuple(reversed(how)) if once else ()
        held = len(place.inner) == 1 and int_of(place.inner[0]) <= self.rules.kept_row
        return tuple(reversed(how)) if heavy <= self.rules.again or held else ()

    def _built(self, dead: Set[int]) -> Loop:
        b = LoopBuilder(self.outer)
        b.inputs, b.outputs = self.kinds[: len(self.given)], self.kinds[len(self.given) :]
        at: dict[int, int] = {}
        kept: dict[tuple[int | str | None, Dim | None], int] = {}
        for place in self.places:
            b.stage(place.inner)
            known = dict(kept)
            for n, x in place.items:
                if x.writes and x.attr in dead:
                    known[x.attr, renumbered(x, at).index] = at[x.args[0]]
                else:
                    self._emit(b, n, renumbered(x, at), at, known)
            changed = {x.attr for _, x in place.items if x.writes}
            kept = known if not place.inner else {k: v for k, v in kept.items() if k[0] not in changed}
        return b.build()

    def _emit(
        self,
        b: LoopBuilder,
        n: int,
        x: Instr,
        at: dict[int, int],
        known: dict[tuple[int | str | None, Dim | None], int],
    ) -> None:
        """One instruction; ``known``: what lies in elements that this stage, or one without ranges, has stored or loaded, of
        buffers that change."""
        if not x.touches or x.attr not in self.written:
            at[n] = b.emit(x)
            return
        key = (x.attr, x.index)
        if x.op == "load" and not x.args and key in known:
            at[n] = known[key]
            return
        if x.op == "load" and x.attr in self.anew:
            here, how = dict(at), self.anew[int(str(x.attr))]
            for m, y in how:
                here[m] = b.emit(renumbered(y, here))
            at[n] = known[key] = here[how[-1][0]]
            return
        b.body.append(x)
        at[n] = len(b.body) - 1
        if x.writes:
            for other in [k for k in known if k[0] == x.attr]:
                del known[other]
            if x.op == "store" and len(x.args) == 1:
                known[key] = x.args[0]
        elif not x.args:
            known[key] = at[n]


def _overwrites(x: Instr, others: Sequence[Instr], inner: tuple[int, ...]) -> bool:
    """Whether a store changes, at each point of a stage, the one element that the stage's loads of the buffer read there, and
    that no other point touches."""
    if (
        x.op != "store"
        or len(x.args) != 1
        or x.index is None
        or any(y.op != "load" or y.index != x.index for y in others)
    ):
        return False
    found = affine(x.index)
    if found is None or any(n[0] == "v" for n in found[0]):
        return False
    return unflatten(0, inner, tuple(found[0].get(f"r{k}", 0) for k in range(len(inner))), {}) is not None
