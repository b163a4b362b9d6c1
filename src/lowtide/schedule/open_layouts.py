"""Open layouts: what is stored twice, perhaps in two orders, is stored once; what is stored lies as those ask who read it.

Comes in: Lowered after fusion, when it is known what is stored; which library calls take memory while they run, and so perhaps
copy what they are given; how far apart the target wants lines. Goes out: Lowered with all layouts decided, a line for each that
is not as captured, a Reason for each that nobody else agrees to. Promised: what the sections take and return keeps its name, and
its strides; every layout is decided once; every access goes to the same element as before; no kernel is added. Where no call is
named and lines stay as they are, no byte lives that did not, so the peak of an order does not rise; else operands may no longer
die into results, and lines have gaps.

A storage is *open* where one loop makes it, nothing changes it, no section returns it, and its readers can do with other
strides: its maker and its readers would have it as captured, but nobody outside says so. *Twins* are two storages with the same
elements: a loop stores one number into both, or loads it from one and stores it into the other, over all elements of both. An
open one gives way to its twin, if everybody who reads it agrees to the other's order: loops, which reach elements by index
arithmetic, as long as neighbours stay neighbours or a pointwise loop alone reads them; library calls, if what they are given
then is as they ask (``requests``). What gives way stays, where a library reads it, as a view.

What is open still then may lie as such a library call asks, or with its lines apart, under the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from lowtide.core.reason import Reason
from lowtide.core.units import format_bytes
from lowtide.ir.build import LoopBuilder, compact
from lowtide.ir.graph import Layout, Op, Ref, Value, int_of, refs_in, renamed_after
from lowtide.ir.index import affine
from lowtide.ir.layouts import Move, Open, Padding, aligned, as_it_is, exactly, granted, like, move_of, opened
from lowtide.ir.loops import Instr, Loop, renumbered
from lowtide.ir.lowered import LOOP, Lowered, loop_in_place, pruned
from lowtide.ir.normal import normalise
from lowtide.ir.symbolic import Dim, symbols_of
from lowtide.ir.task import Task, divided, task_of
from lowtide.schedule.requests import agrees, asked, in_product, places_of
from lowtide.schedule.schedule import kept_by_caller

_STRIDED, _ALIAS = "aten.as_strided.default", "aten.alias.default"
_TWIN_FIXED = "another was stored as it lies"


@dataclass(frozen=True, slots=True)
class Decided:
    """``lowered`` with all layouts decided; ``notes``: a line for each storage that gave way or lies otherwise; ``refused``: why
    another that a loop makes does not; ``served``: how many lie as a library call asks."""

    lowered: Lowered
    notes: tuple[str, ...]
    refused: tuple[Reason, ...] = ()
    served: int = 0

    def text(self) -> str:
        """What lies otherwise than captured, in order, and what does not."""
        return "".join(f"{line}\n" for line in (*self.notes, *map(str, self.refused)))


@dataclass(frozen=True, slots=True)
class _Way:
    """``who`` may give way to its ``twin``, whose elements are its own as ``move`` says: operation ``maker`` ("" for a library
    call, or nobody) makes the twin then, and in operation ``by`` instruction ``needless``, a store, is not needed. Where what
    gives way is but its own strides, it is its own twin, no store is needless, and ``lies`` says what the new ones are."""

    who: str
    twin: str
    move: Move
    maker: str
    by: str = ""
    needless: int = -1
    lies: Layout | None = None


def decide_layouts(lowered: Lowered, copying: Set[str] = frozenset(), padding: Padding | None = None) -> Decided:
    """Decide the layouts of all open storages of a static program. ``copying``: names of library calls that take memory while
    they run, and so perhaps copy what is not as they ask; they are served if that can be. ``padding``: of what matrix products
    read."""
    work = _Work(lowered)
    for op in lowered.graph.ops:
        if op.target == LOOP:
            work.spare(op.name)
    for name in list(work.layout):
        work.serve(name, copying)
        if padding is not None:
            work.pad(name, padding)
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
        inside = (n for n in self.maker if graph.value[n].layout.offset != 0)
        self.fixed |= dict.fromkeys(inside, "it does not begin where its storage begins")
        self.layout: dict[str, Open | Layout] = {
            n: graph.value[n].layout if n in self.fixed else opened(graph.value[n].layout) for n in self.maker
        }
        self.refused: dict[tuple[str, str], str] = {}  # who does not give way to whom, and why
        self.unmet: list[Reason] = []  # what others ask of a layout, and who is against it
        self.served = 0
        self.standing: dict[str, list[str]] = {}
        for v in graph.values:
            self.standing.setdefault(v.storage, []).append(v.name)
        self.called: dict[str, list[Op]] = {}
        for op in graph.ops:
            for n in op.reads if op.target != LOOP else ():
                self.called.setdefault(n, []).append(op)
        self.views: dict[str, list[Op]] = {}  # what gave way and is still read, by the operation that made it
        self.members = {n: inside for n, inside in lowered.members.items() if n in self.tasks}
        self.dropped: dict[str, str] = {}  # loops with nothing left to store, and who makes what they did ("": no loop)
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
            if not whole or (lies.dtype, lies.memory) != (first.dtype, first.memory):
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
            return self.fixed.get(way.who, _TWIN_FIXED)
        touched = [n for n in self.users[way.who] if n != way.by]
        if not way.move.in_lines and not way.move.still and (why := self.not_turnable(touched, way)):
            return why
        relaid = self.relaid(way, layout)
        if isinstance(relaid, str):
            return relaid
        changed: dict[str, Task] = {}
        for n in dict.fromkeys((*touched, *([way.by] if way.by else ()))):
            task = self.replaced(n, way)
            if isinstance(task, str):
                return task
            changed[n] = task
        return changed, relaid

    def not_turnable(self, names: Sequence[str], way: _Way) -> str:
        """Why loops may not run across memory in what they touch: only pointwise ones may, which are turned tile by tile, and
        of readers no more than loops' copies that are spared. Nothing where they may."""
        if nest := next((n for n in names if not self.tasks[n].loop.pointwise), None):
            return f"%{nest} would run across memory"
        readers = [n for n in names if n != way.maker]
        if len(readers) <= (1 if way.by else 0):
            return ""
        return f"{', '.join(f'%{n}' for n in readers)} would run across memory for one copy"

    def relaid(self, way: _Way, layout: Open) -> Mapping[str, Layout] | str:
        """Layouts on the twin of what library calls read of an open storage; a text says which cannot do with them."""
        out: dict[str, Layout] = {}
        for name in self.standing[way.who]:
            calls, y = self.called.get(name, ()), self.values[name].layout
            if name == way.who and not calls:
                continue  # nothing is left of it
            moved = y if way.move.still else way.move.layout(y)
            if moved is None:
                return f"no strides say where %{name} would lie"
            if name == way.who:
                moved = way.lies or exactly(layout, moved.stride)
            against = (op for op in calls if not (way.move.still or agrees(op, name, moved, self.values)))
            if (op := next(against, None)) is not None:
                return f"{op.target} (%{op.name}) reads %{name} as it lies"
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
            self.views.setdefault(self.maker[way.who], []).append(_view(self.values[way.who], twin))
        del self.layout[way.who]
        self.layout[way.twin] = twin.layout
        nbytes = self.graph.nbytes[way.who]
        where = "" if way.move.still else ", in its order"
        self.notes.append(f"%{way.who} is stored once, as %{way.twin}{where}: {format_bytes(nbytes)} less")

    def serve(self, name: str, copying: Set[str]) -> None:
        """Lay an open storage as a library call asks that may copy it otherwise, if all who touch it agree."""
        x = self.layout[name]
        if name not in self.maker:
            return  # no layout is decided here of what no loop makes
        for op in self.called.get(name, ()):
            for k in places_of(op, name) if op.name in copying else ():
                wanted, how = granted(x, asked(op, k, self.values)), f"as {op.target} (%{op.name}) asks"
                if wanted is None:
                    self.unmet.append(Reason(f"%{name} laid {how}", self.fixed.get(name, _TWIN_FIXED)))
                elif isinstance(x, Open) and self.lay(name, wanted, how):
                    self.served += 1
                    return

    def pad(self, name: str, padding: Padding) -> None:
        """Lay an open storage with its lines apart, if a matrix product reads them and they are aligned only then."""
        x = self.layout[name]
        if not isinstance(x, Open):
            return
        wanted = like(x, as_it_is(x), padding)
        move = _move(x, wanted)
        if move is None:
            return
        read = [n for n in self.standing[name] if any(in_product(op, n) for op in self.called.get(n, ()))]
        for y in (self.values[n].layout for n in read):
            moved = None if aligned(y, padding.nbytes) else move.layout(y)
            if moved is not None and aligned(moved, padding.nbytes):
                self.lay(name, wanted, f"with lines at multiples of {padding.nbytes} bytes")
                return

    def lay(self, name: str, wanted: Layout, how: str) -> bool:
        """Give an open storage other strides, if all who touch it agree; whether it has them."""
        x = self.layout[name]
        assert isinstance(x, Open)
        move = _move(x, wanted)
        if move is None or move.still:
            return False
        way = _Way(name, name, move, self.maker[name], lies=wanted)
        found = self.agreed(way)
        if isinstance(found, str):
            self.unmet.append(Reason(f"%{name} laid {how}", found))
            return False
        tasks, relaid = found
        self.tasks.update(tasks)
        for n, y in {**relaid, name: wanted}.items():
            self.values[n] = replace(self.values[n], layout=y)
        self.layout[name] = wanted
        self.notes.append(f"%{name} is laid {how}")
        return True

    def drop(self, name: str, maker: str) -> None:
        """A loop that has nothing left to store; its members are said to be in ``maker``."""
        for users in self.users.values():
            users.pop(name, None)
        inside = self.members.pop(name, (name,))
        if maker:
            self.members[maker] = (*self.members.get(maker, (maker,)), *inside)
        self.dropped[name] = maker
        del self.tasks[name]

    def decided(self) -> Decided:
        """The program as it has become."""
        twice = (Reason(f"%{who} stored once, as %{twin}", why) for (who, twin), why in self.refused.items())
        refused = (*twice, *self.unmet)
        if not self.notes:
            return Decided(self.lowered, (), refused)
        new = {n: loop_in_place(t, replace(self.op[n], name=self.name(n))) for n, t in self.tasks.items()}
        became = {n: (op.name,) for n, op in new.items()}
        became |= {
            n: became.get(maker, ()) for n, maker in self.dropped.items()
        }  # no maker goes: it stands above, and is done
        sections = tuple(
            replace(s, ops=renamed_after(list(self.operations(s.ops, new)), s.ops, became)) for s in self.graph.sections
        )
        frozen = {n: as_it_is(y) for n, y in self.layout.items()}
        values = tuple(replace(v, layout=frozen.get(n, v.layout)) for n, v in self.values.items())
        graph = pruned(replace(self.graph, values=values, sections=sections))
        loops = {new[n].name: t.loop for n, t in self.tasks.items()}
        members = {op.name: self.members.get(n, (n,)) for n, op in new.items() if n in self.members or op.name != n}
        made = replace(self.lowered, graph=graph, loops=loops, members=members)
        return Decided(made, tuple(self.notes), refused, self.served)

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


def _move(x: Open, wanted: Layout) -> Move | None:
    """From where the elements of an open storage lie to where they would."""
    return move_of(*(tuple(map(int_of, dims)) for dims in (x.size, x.natural, wanted.stride)), gaps=True)


def _view(value: Value, base: Value) -> Op:
    """An operation that makes a value of where its base begins, wherever that is at run time: no offset is written down."""
    y, name = value.layout, value.name
    assert y.offset == base.layout.offset
    if (y.size, y.stride) == (base.layout.size, base.layout.stride):
        return Op(name, _ALIAS, (Ref(base.name),), (), (name,), view=True, origin=value.origin)
    args = (Ref(base.name), y.size, y.stride)
    return Op(name, _STRIDED, args, (), (name,), view=True, origin=value.origin)


def _looked_up(index: Dim) -> bool:
    return any(name[0] == "v" for name in symbols_of(index))


def _written(loop: Loop, slot: int) -> tuple[int, int, Instr] | None:
    """The (stage, number, instruction) of the one plain store into a buffer; None where it is written otherwise."""
    (first, *more) = [found for found in loop.numbered(slot) if found[2].writes]
    plain = not more and first[2].op == "store" and len(first[2].args) == 1
    return first if plain else None
