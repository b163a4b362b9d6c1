"""Open layouts: what is stored twice, perhaps in two orders, is stored once.

Comes in: Lowered after fusion, when it is known what is stored. Goes out: Lowered without second copies, a line for each
that went, a Reason for each that stays. Promised: what the sections take and return keeps its name, and its strides; every
layout is decided once; every access goes to the same element as before; no kernel is added, no byte lives that did not, so
the peak of an order does not rise.

A storage is *open* where one loop makes it, nothing changes it, no section returns it, and its readers can do with other
strides: its maker and its readers would have it as captured, but nobody outside says so. *Twins* are two storages with the same
elements: a loop stores one number into both, or loads it from one and stores it into the other, over all elements of both. An
open one gives way to its twin, if everybody who reads it agrees to the other's order: loops, which reach elements by index
arithmetic, as long as neighbours stay neighbours or a pointwise loop alone reads them; matrix products, whose matrices may lie
by rows or by columns; all others only where no element moves. What gives way stays, where a library reads it, as a view.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lowtide.core.reason import Reason
from lowtide.core.units import format_bytes
from lowtide.ir.build import LoopBuilder, compact
from lowtide.ir.graph import Layout, Op, Ref, Value, int_of, refs_in
from lowtide.ir.index import Ranges, affine, flatten, unflatten
from lowtide.ir.layouts import Open, as_it_is, exactly, opened
from lowtide.ir.loops import Instr, Loop, renumbered
from lowtide.ir.lowered import LOOP, Lowered, loop_op, pruned
from lowtide.ir.normal import normalise
from lowtide.ir.strides import BY_STORAGE, same_places
from lowtide.ir.symbolic import Dim, symbol, symbols_of
from lowtide.ir.task import Task, divided, task_of
from lowtide.schedule.schedule import kept_by_caller

# Matrix products, and which of their arguments are matrices, or stacks of them, that may lie by rows or by columns.
_PRODUCTS: Mapping[str, tuple[int, ...]] = {
    "aten.mm.default": (0, 1), "aten.bmm.default": (0, 1), "aten.addmm.default": (1, 2), "aten.baddbmm.default": (1, 2),
}  # fmt: skip
_STRIDED, _ALIAS = "aten.as_strided.default", "aten.alias.default"
_LINE = 16  # elements side by side that a loop walks as well as all of a row


@dataclass(frozen=True, slots=True)
class Decided:
    """``lowered`` with all layouts decided; ``notes``: a line for each storage that gave way; ``refused``: why another that a
    loop makes does not give way to its twin."""

    lowered: Lowered
    notes: tuple[str, ...]
    refused: tuple[Reason, ...] = ()

    def text(self) -> str:
        """What is stored once, in order, and what is not."""
        return "".join(f"{line}\n" for line in (*self.notes, *map(str, self.refused)))


@dataclass(frozen=True, slots=True)
class Move:
    """From the elements of a dense storage to those of its twin: for all i below ``size``, element ``sum(i * was)`` of the one is
    element ``sum(i * now)`` of the other. ``move_of`` makes one, with as few dimensions as that takes."""

    size: tuple[int, ...]
    was: tuple[int, ...]
    now: tuple[int, ...]

    @property
    def still(self) -> bool:
        """Whether no element moves."""
        return self.was == self.now

    @property
    def in_lines(self) -> bool:
        """Whether neighbours stay neighbours, so that no loop begins to run across memory."""
        return any(n >= _LINE and a == b == 1 for n, a, b in zip(self.size, self.was, self.now, strict=True))

    @property
    def back(self) -> Move:
        """The move the other way."""
        return Move(self.size, self.now, self.was)

    def element(self, at: Dim, ranges: Ranges) -> Dim:
        """Of the twin the element that ``at`` is."""
        if self.still:
            return at
        index = unflatten(at, self.size, self.was, ranges)
        assert index is not None
        return flatten(index, self.now)

    def layout(self, x: Layout) -> Layout | None:
        """How that lies in the twin which lies as ``x`` in the storage; None where strides cannot say that."""
        names = [f"d{k}" for k in range(len(x.size))]
        ranges = dict(zip(names, map(int_of, x.size), strict=True))
        found = affine(self.element(flatten(map(symbol, names), x.stride, x.offset), ranges))
        if found is None:
            return None
        step, offset = found
        return replace(x, stride=tuple(step.get(n, 0) for n in names), offset=offset)


def move_of(size: Sequence[int], was: Sequence[int], now: Sequence[int]) -> Move | None:
    """The move between two layouts of the same elements; None where one of them has gaps or says an element twice."""
    order = sorted((k for k, n in enumerate(size) if n != 1), key=lambda k: was[k])
    merged: list[tuple[int, int, int]] = []
    for k in order:
        if merged:
            n, a, b = merged[-1]
            if (was[k], now[k]) == (n * a, n * b):
                merged[-1] = (n * size[k], a, b)
                continue
        merged.append((size[k], was[k], now[k]))
    move = Move(*(tuple(x[j] for x in merged) for j in range(3)))
    dense = all(unflatten(0, move.size, s, {}) is not None for s in (move.was, move.now))
    return move if dense else None


@dataclass(frozen=True, slots=True)
class _Way:
    """``who`` may give way to its ``twin``, whose elements are its own as ``move`` says: operation ``maker`` ("" for a library
    call, or nobody) makes the twin then, and in operation ``by`` instruction ``needless``, a store, is not needed."""

    who: str
    twin: str
    move: Move
    maker: str
    by: str
    needless: int


def decide_layouts(lowered: Lowered) -> Decided:
    """Decide the layouts of all open storages of a static program."""
    work = _Work(lowered)
    for op in lowered.graph.ops:
        if op.target == LOOP:
            work.spare(op.name)
    return work.decided()


class _Work:
    """The program as it changes; short-lived."""

    def __init__(self, lowered: Lowered) -> None:
        graph = pruned(lowered.graph)
        self.lowered, self.graph = lowered, graph
        self.op: dict[str, Op] = {op.name: op for op in graph.ops if op.target == LOOP}
        self.tasks = {n: task_of(op, lowered.loops[n]) for n, op in self.op.items()}
        self.values: dict[str, Value] = dict(graph.value)
        self.users: dict[str, dict[str, None]] = {}
        for n, t in self.tasks.items():
            for v in t.values:
                self.users.setdefault(v, {})[n] = None
        self.maker = {o: n for n, t in self.tasks.items() for o in t.makes}
        self.changed = {graph.value[m].storage for op in graph.ops for m in op.mutates}
        returned = {graph.value[n].storage for s in graph.sections for a in s.returns for n in refs_in(a)}
        self.fixed = dict.fromkeys(self.changed, "it is changed")
        self.fixed |= dict.fromkeys(returned, "a later section receives it as it was captured")
        self.fixed |= dict.fromkeys(kept_by_caller(graph), "the caller gets to keep it")
        self.layout: dict[str, Open | Layout] = {
            n: graph.value[n].layout if n in self.fixed else opened(graph.value[n].layout) for n in self.maker
        }
        self.refused: dict[tuple[str, str], str] = {}  # who does not give way to whom, and why
        self.standing: dict[str, list[str]] = {}
        for v in graph.values:
            self.standing.setdefault(v.storage, []).append(v.name)
        self.called: dict[str, list[Op]] = {}
        for op in graph.ops:
            for n in op.reads if op.target != LOOP else ():
                self.called.setdefault(n, []).append(op)
        self.views: dict[str, list[Op]] = {}  # what gave way and is still read, by the operation that makes its twin
        self.members = {n: inside for n, inside in lowered.members.items() if n in self.tasks}
        self.notes: list[str] = []

    def spare(self, name: str) -> None:
        """Store once what an operation would be the second to store, as far as somebody's layout is open."""
        while name in self.tasks and any(map(self.take, self.ways(name))):
            pass

    def ways(self, name: str) -> Iterator[_Way]:
        """Who may give way to whom where an operation gives two storages the same elements. A copy in another order has its
        wish before what it copies; of two in one order the first stays."""
        task = self.tasks[name]
        loop = task.loop
        for slot, other in enumerate(task.makes, len(task.given)):
            if (written := _written(loop, slot)) is None:
                continue
            stage, number, store = written
            first = loop.starts[stage]
            for at, x in enumerate(loop.stages[stage].body, first):
                loaded = at == store.args[0] and x.op == "load" and not x.args
                if not loaded and (x.op != "store" or x.args != store.args or at >= number):
                    continue
                source = int(str(x.attr))
                one = task.values[source]
                if source >= len(task.given) and _written(loop, source) is None:
                    continue
                move = self.move(one, x, other, store, loop.ranges(stage))
                if move is None:
                    continue
                theirs = _Way(other, one, move.back, self.maker.get(one, ""), name, number)
                if not loaded and any(at < n < number for _, n, _ in loop.numbered(source)):
                    self.refused[one, other] = f"%{name} reads it before it stores %{other}"
                    yield theirs
                    continue
                here = [
                    _Way(one, other, move, self.maker.get(one, "") if loaded else name, name, number if loaded else at),
                    theirs,
                ]
                yield from reversed(here) if move.still else here

    def move(self, one: str, x: Instr, other: str, y: Instr, ranges: Mapping[str, int]) -> Move | None:
        """From the elements that ``x`` touches to those that ``y`` does, if both touch all that there are, once."""
        strides: list[list[int]] = []
        for name, index in ((one, x.index), (other, y.index)):
            v = self.values[name]
            found = affine(index or 0)
            if v.storage != name or v.layout.offset != 0 or name in self.changed or found is None or found[1] != 0:
                return None
            lies, first = v.layout, self.values[one].layout
            whole = math.prod(map(int_of, lies.size)) == math.prod(ranges.values())
            if not whole or (lies.dtype, lies.device) != (first.dtype, first.device):
                return None
            if not found[0].keys() <= ranges.keys():
                return None
            strides.append([found[0].get(n, 0) for n in ranges])
        return move_of(tuple(ranges.values()), *strides)

    def take(self, way: _Way) -> bool:
        """Let one give way, if its layout is open and all agree; whether it did, else with why not."""
        found = self.agreed(way)
        if isinstance(found, str):
            if way.who in self.layout:  # no layout is decided here of what no loop makes
                self.refused[way.who, way.twin] = found
            return False
        self.apply(way, *found)
        self.refused = {pair: why for pair, why in self.refused.items() if way.who not in pair}
        return True

    def agreed(self, way: _Way) -> tuple[Mapping[str, Task], Mapping[str, Layout]] | str:
        """What becomes of the loops that touch it, and the layouts that library calls get, if one gives way; a text says who
        is against it."""
        layout = self.layout.get(way.who)
        if not isinstance(layout, Open):
            return self.fixed.get(way.who, "another was stored as it lies")
        touched = [n for n in self.users[way.who] if n != way.by]
        if not way.move.in_lines and not way.move.still and (why := self.not_turnable(touched, way.maker)):
            return why
        relaid = self.relaid(way, layout)
        if isinstance(relaid, str):
            return relaid
        changed: dict[str, Task] = {}
        for n in dict.fromkeys((*touched, way.by)):
            task = self.replaced(n, way)
            if isinstance(task, str):
                return task
            changed[n] = task
        return changed, relaid

    def not_turnable(self, names: Sequence[str], maker: str) -> str:
        """Why loops may not run across memory in what they touch: only pointwise ones may, which are turned tile by tile, and
        of readers no more than the one copy that is spared. Nothing where they may."""
        if nest := next((n for n in names if not self.tasks[n].loop.pointwise), None):
            return f"%{nest} would run across memory"
        readers = [n for n in names if n != maker]
        return f"{', '.join(f'%{n}' for n in readers)} would run across memory for one copy" if len(readers) > 1 else ""

    def relaid(self, way: _Way, layout: Open) -> Mapping[str, Layout] | str:
        """Layouts on the twin of what library calls read of an open storage; a text says which cannot do with them."""
        out: dict[str, Layout] = {}
        for name in self.standing[way.who]:
            calls = self.called.get(name, [])
            v = self.values[name]
            moved = v.layout if way.move.still else way.move.layout(v.layout)
            if name == way.who and moved is not None:
                moved = exactly(layout, moved.stride)
            if name == way.who and not calls:
                continue  # nothing is left of it
            if moved is None:
                return f"no strides say where %{name} would lie"
            if not way.move.still and (against := _against(name, v.layout, moved, calls, self.values)):
                return f"{against.target} (%{against.name}) reads %{name} as it lies"
            out[name] = moved
        return out

    def replaced(self, name: str, way: _Way) -> Task | str:
        """An operation that touches the twin instead; a text says why it cannot, or that it would divide more than before."""
        task = self.tasks[name]
        made = [way.twin if n == way.who else n for n in task.makes]
        makes = [n for n in dict.fromkeys(made) if n != way.twin or name == way.maker]
        given = dict.fromkeys(way.twin if n == way.who else n for n in (*task.given, *task.makes))
        names = [*(n for n in given if n not in makes), *makes]
        kinds = dict(zip(task.values, task.loop.dtypes, strict=True)) | {way.twin: self.values[way.twin].layout.dtype}
        b = LoopBuilder(task.loop.outer)
        b.inputs, b.outputs = [kinds[n] for n in names[: -len(makes) or None]], [kinds[n] for n in makes]
        at: dict[int, int] = {}
        for k, stage in enumerate(task.loop.stages):
            b.stage(stage.inner)
            for n, x in enumerate(stage.body, task.loop.starts[k]):
                if name == way.by and n == way.needless:
                    continue
                moved = renumbered(x, at)
                if x.touches:
                    value, index = task.values[int(str(x.attr))], moved.index
                    if value == way.who:
                        value = way.twin
                        if not way.move.still and (index is None or _looked_up(index)):
                            return f"%{name} finds its place in %{way.who} by loaded numbers"
                        index = way.move.element(index or 0, b.ranges)
                    moved = replace(moved, index=index, attr=names.index(value))
                at[n] = b.emit(moved)
        loop, kept = compact(b.build())
        if loop.stages and divided(normalise(loop)) > divided(normalise(task.loop)):
            return f"indices of %{name} would divide"
        return Task(loop, tuple(names[j] for j in kept), tuple(makes))

    def apply(self, way: _Way, changed: Mapping[str, Task], relaid: Mapping[str, Layout]) -> None:
        """Make the change: of what gave way only what library calls read is left, as views of its twin."""
        for n, task in changed.items():
            for v in set(self.tasks[n].values) - set(task.values):
                self.users[v].pop(n, None)
            self.tasks[n] = task
            if way.twin in task.values:
                self.users.setdefault(way.twin, {})[n] = None
            if not task.loop.stages:
                self.drop(n, way.maker)
        if way.maker:
            self.maker[way.twin] = way.maker
        twin, gone = self.values[way.twin], self.values[way.who]
        for name in self.standing.pop(way.who):
            self.values[name] = replace(self.values[name], layout=relaid.get(name, gone.layout), storage=way.twin)
            self.standing[way.twin].append(name)
        if way.who in relaid:
            self.views.setdefault(way.maker or way.by, []).append(_view(self.values[way.who], twin))
        del self.layout[way.who]
        self.layout[way.twin] = twin.layout
        nbytes = self.graph.nbytes[way.who]
        where = "" if way.move.still else ", in its order"
        self.notes.append(f"%{way.who} is stored once, as %{way.twin}{where}: {format_bytes(nbytes)} less")

    def drop(self, name: str, maker: str) -> None:
        """A loop that has nothing left to store; its members are said to be in ``maker``."""
        for users in self.users.values():
            users.pop(name, None)
        inside = self.members.pop(name, (name,))
        if maker:
            self.members[maker] = (*self.members.get(maker, (maker,)), *inside)
        del self.tasks[name]

    def decided(self) -> Decided:
        """The program as it has become."""
        refused = tuple(Reason(f"%{who} stored once, as %{twin}", why) for (who, twin), why in self.refused.items())
        if not self.notes:
            return Decided(self.lowered, (), refused)
        new = {n: loop_op(t.given, t.makes, t.changes, self.op[n].origin, self.name(n)) for n, t in self.tasks.items()}
        sections = tuple(replace(s, ops=tuple(self.operations(s.ops, new))) for s in self.graph.sections)
        frozen = {n: as_it_is(y) for n, y in self.layout.items()}
        values = tuple(replace(v, layout=frozen.get(n, v.layout)) for n, v in self.values.items())
        graph = pruned(replace(self.graph, values=values, sections=sections))
        loops = {new[n].name: t.loop for n, t in self.tasks.items()}
        members = {op.name: self.members.get(n, (n,)) for n, op in new.items() if n in self.members or op.name != n}
        return Decided(replace(self.lowered, graph=graph, loops=loops, members=members), tuple(self.notes), refused)

    def name(self, name: str) -> str:
        """What an operation is called that was called like something that it no longer makes."""
        if name in self.op[name].outputs and name not in self.tasks[name].makes:
            while name in self.values:
                name += "_rest"
        return name

    def operations(self, ops: Sequence[Op], new: Mapping[str, Op]) -> Iterator[Op]:
        """Those of a section as they have become, each with the views that stand on what it makes."""
        for op in ops:
            if op.target != LOOP:
                yield op
            elif op.name in new:
                yield new[op.name]
            yield from self.views.get(op.name, ())


def _against(name: str, was: Layout, now: Layout, calls: Sequence[Op], values: Mapping[str, Value]) -> Op | None:
    """The first of the calls that read a value which cannot do with another layout of it; None where all can."""
    for op in calls:  # whose results lie around what they read
        if op.target in BY_STORAGE or (op.view and any(values[o].layout.dtype != was.dtype for o in op.outputs if o)):
            return op
    if was.offset == now.offset and same_places(was.size, was.stride, now.stride):
        return None
    matrix = len(now.size) >= 2 and _is_matrix(*(tuple(map(int_of, d[-2:])) for d in (now.size, now.stride)))
    for op in calls:
        if op.view:
            continue
        places = [k for k, a in enumerate(op.args) if name in refs_in(a)]
        if not matrix or not places or not set(places) <= set(_PRODUCTS.get(op.target, ())):
            return op
    return None


def _is_matrix(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether a product takes a matrix as it lies: one dimension side by side, lines apart."""
    (m, n), (a, b) = size, stride
    return (b == 1 and a >= n) or (a == 1 and b >= m)


def _view(value: Value, base: Value) -> Op:
    y, name = value.layout, value.name
    if (y.size, y.stride, y.offset) == (base.layout.size, base.layout.stride, base.layout.offset):
        return Op(name, _ALIAS, (Ref(base.name),), (), (name,), view=True, origin=value.origin)
    args = (Ref(base.name), y.size, y.stride, y.offset)
    return Op(name, _STRIDED, args, (), (name,), view=True, origin=value.origin)


def _looked_up(index: Dim) -> bool:
    return any(name[0] == "v" for name in symbols_of(index))


def _written(loop: Loop, slot: int) -> tuple[int, int, Instr] | None:
    """The (stage, number, instruction) of the one plain store into a buffer; None where it is written otherwise."""
    (first, *more) = [found for found in loop.numbered(slot) if found[2].writes]
    plain = not more and first[2].op == "store" and len(first[2].args) == 1
    return first if plain else None
