"""Fusion that knows the peak: loops that share buffers become one where that is legal, cheaper and costs no peak.

Comes in: Lowered, and the schedule that it has so far (an order, facts about library calls, in-place pairs). Goes out:
Lowered with fewer kernels, in an order that keeps every dependency, and what was decided, each refusal with a Reason.
Promised: the same numbers (``schedule.joined``); the peak of the order at hand never rises, judged by the timeline that
order and plan use (``memory.estimate``); deterministic; nothing recurses, and no pair is looked at that shares nothing unless
both came in one list.

Candidates are pairs (maker, reader) of a buffer, and neighbours among its readers or in one list, each once. The best comes
first: the rank that the target gives it (``schedule.rules``), then bytes that need not be moved, and, counted again, bytes that
disappear where the peak is. A pair may become one if nothing between the two needs the first and is needed by the second; what
stands between goes in front or behind, whichever peaks lower.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property

from lowtide.core.reason import Reason
from lowtide.core.units import format_bytes
from lowtide.ir.graph import Graph, Op, Section, refs_in, renamed_after, with_views
from lowtide.ir.lowered import LOOP, Lowered, kernel_of, loop_in_place, pruned
from lowtide.ir.task import Task, task_of
from lowtide.memory.estimate import Estimate
from lowtide.memory.flat import Flat, build, saved_bytes
from lowtide.schedule.cost import Machine, loop_cost
from lowtide.schedule.depend import accesses, dependencies, needed_operations
from lowtide.schedule.inplace import loop_pairs, permitted
from lowtide.schedule.joined import joined, points
from lowtide.schedule.rules import CACHED, Rules
from lowtide.schedule.schedule import CALL, Schedule, handed_on, kept_by_caller, slabbed

_GAIN = 0.5e-6  # seconds that a fusion saves at least
_AT_PEAK = 8  # how often a byte that goes counts where it is part of the peak


@dataclass(frozen=True)
class Fused:
    """``lowered`` after fusion; ``pairs``: what was fused with what, by name at the time, in order; ``notes``: a line for each;
    ``refused``: why pairs stay two; ``peak``: bytes at the peak of the order at hand, in-place pairs and workspaces included."""

    lowered: Lowered
    pairs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    refused: tuple[Reason, ...]
    peak: int

    def text(self) -> str:
        """What was fused, in order, and what was not."""
        return "".join(f"{line}\n" for line in (*self.notes, *map(str, self.refused)))


@dataclass
class _Node:
    """An operation as fusion sees it: storages that it reads (those it changes too), changes and makes."""

    op: Op
    task: Task | None
    reads: tuple[str, ...]
    changes: tuple[str, ...]
    makes: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    workspace: int

    @cached_property
    def touches(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.reads, *self.makes)))

    @cached_property
    def touched(self) -> frozenset[str]:
        return frozenset(self.touches)


@dataclass(frozen=True, slots=True)
class _Way:
    """An order of what stands from one node to another, '' for the two fused; ``moved``: what changes places with others."""

    names: Sequence[str]
    moved: Set[str]


def fuse_loops(
    lowered: Lowered,
    scheduled: Schedule,
    *,
    inplace: bool = True,
    machine: Machine = Machine(),  # noqa: B008
    rules: Rules = CACHED,
) -> Fused:
    """Fuse section by section; the timeline runs through all of them.

    ``scheduled``: the steps of ``lowered`` in the order at hand. ``inplace``: a fused loop may overwrite what dies in it.
    ``rules``: what the target says of loops that may become one.
    """
    work = _Work(_without_dead(lowered), scheduled, inplace, machine, rules)
    for k in range(len(lowered.graph.sections)):
        work.run(k)
    return work.fused()


def fuse_again(
    lowered: Lowered,
    scheduled: Schedule,
    pairs: Sequence[tuple[str, str]],
    *,
    inplace: bool = True,
    machine: Machine = Machine(),  # noqa: B008
    rules: Rules = CACHED,
) -> Fused | None:
    """Fuse the pairs that ``fuse_loops`` fused at other sizes, each under the same conditions, and look for no others; None
    where one of them would not be fused at these sizes."""
    work = _Work(_without_dead(lowered), scheduled, inplace, machine, rules)
    for a, b in pairs:
        if a not in work.node or b not in work.node or work.at[a] > work.at[b] or work.fuse(a, b):
            return None  # where a loop came to stand depends on sizes, so the second may stand before the first
    return work.fused()


def _without_dead(lowered: Lowered) -> Lowered:
    """Without loops whose results nobody needs; a loop that checks its indices stays."""
    graph = lowered.graph
    kept = needed_operations(graph, LOOP) | {n for n, x in lowered.loops.items() if x.checks}
    gone: dict[str, tuple[str, ...]] = {op.name: () for op in graph.ops if not op.view and op.name not in kept}
    if not gone:
        return lowered
    sections = tuple(
        replace(s, ops=renamed_after([op for op in s.ops if op.name not in gone], s.ops, gone)) for s in graph.sections
    )
    loops = {n: x for n, x in lowered.loops.items() if n in kept}
    return replace(lowered, graph=pruned(replace(graph, sections=sections)), loops=loops)


class _Work:
    """The program as it changes; short-lived. Positions are places in ``order``, where what is gone leaves a hole."""

    def __init__(self, lowered: Lowered, scheduled: Schedule, inplace: bool, machine: Machine, rules: Rules) -> None:
        self.lowered, self.graph, self.machine, self.inplace = lowered, lowered.graph, machine, inplace
        self.rules = rules
        self.slabbed, self.held = slabbed(scheduled), scheduled.held_by_objects
        self.members = {n: inside for n, inside in lowered.members.items() if n in lowered.loops}
        self.pairs: list[tuple[str, str]] = []
        self.latest = ""  # what came of the last of them
        self.inside: set[str] = set()  # loops and calls of the section at hand
        self.number: dict[str, int] = {}
        self.storage = {v.name: v.storage for v in self.graph.values}
        self.notes: list[str] = []
        self.refused: dict[tuple[str, str], Reason] = {}
        self.node: dict[str, _Node] = {}
        self.order: list[str | None] = []
        self.span: list[tuple[int, int]] = []
        self.before: dict[str, set[str]] = {}
        self.after: dict[str, set[str]] = {}
        place: dict[str, int] = {}
        alive = {op.name: op for op in self.graph.ops}
        for s in scheduled.steps:
            op = alive.get(s.op.name)
            if op is None:
                continue
            place[op.name] = len(place)
            read, changed, made = accesses(op, self.storage)
            task = task_of(op, s.loop) if s.loop is not None else None
            workspace = max(s.facts.workspace, s.facts.out_workspace)
            self.node[op.name] = _Node(op, task, read, changed, made, s.inplace, workspace)
        for i, section in enumerate(self.graph.sections):
            if i:
                self.order.append(self.handing_on(i))
            found = dependencies(self.graph, section)
            start = len(self.order)
            self.order += sorted(found.names, key=place.__getitem__)
            self.span.append((start, len(self.order)))
            self.before.update((n, set(b)) for n, b in found.before.items())
            self.after.update((n, set(a)) for n, a in found.after.items())
        self.at = {n: k for k, n in enumerate(self.order) if n is not None}
        self.span_of = {n: (k, k) for n, k in self.at.items()}
        self.users: dict[str, set[str]] = {}
        for name, node in self.node.items():
            for s in node.touches:
                self.users.setdefault(s, set()).add(name)
        self.lists: dict[str, set[int]] = {n: set() for n in self.node}
        self.listed: list[set[str]] = [{n for n in names if n in self.node} for names in lowered.together]
        for k, names in enumerate(self.listed):
            for n in names:
                self.lists[n].add(k)
        self.groups: dict[str, set[str]] = {}
        for n, node in self.node.items():
            if node.op.group:
                self.groups.setdefault(node.op.group, set()).add(n)
        self.maker = {s: n for n, node in self.node.items() for s in node.makes}
        self.returned = {self.storage[n] for s in self.graph.sections for a in s.returns for n in refs_in(a)}
        owned = self.graph.caller_owned  # what the caller has costs us nothing
        self.outlives = kept_by_caller(self.graph) - owned
        self.nbytes = {s: 0 if s in owned else self.graph.nbytes[s] for s in self.users}
        self.measure()

    def handing_on(self, section: int) -> str:
        """Name of a node for the call of a section: it holds what the one before has saved for it."""
        op = Op(f"{CALL}{self.graph.sections[section].name}", CALL, ())
        self.node[op.name] = _Node(op, None, handed_on(self.graph, section - 1), (), (), (), 0)
        return op.name

    # -- the timeline ------------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """The timeline of the whole program."""
        names = [n for n in self.order if n is not None]
        line = Estimate(self.flat(names), range(len(names)))
        self.live = [0] * len(self.order)
        self.left = [0] * len(self.order)
        total, k = 0, 0
        for t, n in enumerate(self.order):
            if n is not None:
                self.live[t], total = line.live[k], line.after[k]
                k += 1
            self.left[t] = total
        self.base = line.flat.base
        self.peak = max((self.base, *self.live))
        self.top = max(range(len(self.live)), key=self.live.__getitem__, default=0)

    def flat(self, names: Sequence[str]) -> Flat:
        """All nodes in a row."""
        nodes = [self.node[n] for n in names]
        number: dict[str, int] = {}
        for node in nodes:
            for s in node.touches:
                if self.nbytes[s] and s not in number:
                    number[s] = len(number)
        size = [self.nbytes[s] for s in number]
        outlives = [s in self.outlives for s in number]
        makers: list[list[int]] = [[] for _ in number]
        holds: list[list[int]] = [[number[s] for s in node.touches if s in number] for node in nodes]
        for i, node in enumerate(nodes):
            for s in node.makes:
                if s in number:
                    makers[number[s]].append(i)
        ends = {s for s, b in number.items() if not outlives[b]}
        pairs = [[(number[r], number[w]) for r, w in n.pairs if r in ends and w in number] for n in nodes]
        work = [n.workspace for n in nodes]
        return build([[] for _ in nodes], size, holds, makers, outlives, work, pairs)

    def judged(self, a: str, b: str, node: _Node, way: _Way) -> tuple[list[int], list[int]]:
        """Bytes alive in each of the steps from a to b, and after each, if the fused node stood there as ``way`` says.

        Only what touches a storage that ends with those that move, and they themselves, are timed anew: before and after any
        other step there are as many bytes more or less as before and after the one in front of it."""
        hi = self.at[b]
        place = {n: k for k, n in enumerate(way.names)}
        touched = {s for n in (a, b, *way.moved) for s in self.node[n].touched if self.nbytes[s]} - self.outlives
        anew = {"", *way.moved}.union(*(self.users[s] for s in touched))
        last: dict[str, int] = {}
        total = self.left[self.at[a] - 1] if self.at[a] else self.base
        live: list[int] = []
        after: list[int] = []
        for k, name in enumerate(way.names):
            if name not in anew:
                t = self.at[name]
                more = total - (self.left[t - 1] if t else self.base)
                live.append(self.live[t] + more)
                total = self.left[t] + more
            else:
                n = self.node[name] if name else node
                total += sum(self.nbytes[s] for s in n.makes)
                held = [s for s in n.touches if self.nbytes[s]]
                for s in held:
                    if s not in last:
                        last[s] = self.last_place(s, place, node, (a, b), hi)
                ends = [s for s in held if last[s] == k]
                live.append(total + n.workspace - self.saved(n, ends))
                total -= sum(self.nbytes[s] for s in ends)
            after.append(total)
        return live, after

    def last_place(self, s: str, place: Mapping[str, int], node: _Node, gone: tuple[str, str], hi: int) -> int:
        """The last step of a new row of steps that touches a storage; the number of all where it is needed behind them."""
        if s in self.outlives:
            return len(place)
        last = place[""] if s in node.touches else -1
        for u in self.users[s]:
            if u not in gone:
                if self.at[u] > hi:
                    return len(place)
                last = max(last, place.get(u, -1))
        return last

    def saved(self, node: _Node, ends: Sequence[str]) -> int:
        """Bytes that results of a node save by lying on what ends in it."""
        pairs = [(r, w) for r, w in node.pairs if r in ends and self.nbytes[w]]
        if not pairs:
            return 0
        number = {s: k for k, s in enumerate(dict.fromkeys(s for pair in pairs for s in pair))}
        return saved_bytes([(number[r], number[w]) for r, w in pairs], [self.nbytes[s] for s in number])

    # -- candidates --------------------------------------------------------------------------------------------------

    def run(self, section: int) -> None:
        """Fuse within one section, best pair first, until nothing is left to try.

        Fusions move the peak, so a pair whose score has fallen since it was offered goes back in line.
        """
        lo, hi = self.span[section]
        self.queue: list[tuple[tuple[int, int], int, int, tuple[int, int], str, str]] = []
        self.tried: set[tuple[int, int]] = set()  # by number: a fused node may have the name of one that is gone
        self.number = {n: k for k, n in enumerate(self.node)}
        self.inside = {n for n in self.order[lo:hi] if n is not None}
        for n in self.order[lo:hi]:
            if n is not None and self.node[n].task is not None:
                self.offer(n)
        while self.queue:
            offered, distance, place, pair, a, b = heapq.heappop(self.queue)
            if a not in self.node or b not in self.node or pair != (self.number[a], self.number[b]):
                continue  # gone, or another that has its name
            first, second = (b, a) if self.at[a] > self.at[b] else (a, b)
            rank = self.rank(first, second)
            if rank > offered:
                heapq.heappush(self.queue, (rank, distance, place, pair, a, b))
            else:
                self.attempt(first, second)

    def offer(self, name: str) -> None:
        """Put the pairs of a loop with its makers, its readers and the neighbours among those who read with it or came in
        one list with it."""
        node = self.node[name]
        others: dict[str, None] = {}
        for s in node.touches:
            if s in node.makes:
                others |= dict.fromkeys(self.in_order(self.users[s]))
            else:
                maker = self.maker.get(s)
                others |= {maker: None} if maker is not None else {}
                others |= dict.fromkeys(self.neighbours(name, self.users[s]))
        for k in sorted(self.lists[name]):
            others |= dict.fromkeys(self.neighbours(name, self.listed[k]))
        for u in others:
            if u in self.inside and u != name and self.node[u].task is not None:
                a, b = (name, u) if self.at[name] < self.at[u] else (u, name)
                pair = (self.number[a], self.number[b])
                if pair not in self.tried:
                    self.tried.add(pair)
                    heapq.heappush(self.queue, (self.rank(a, b), *self.nearness(a, b), pair, a, b))

    def in_order(self, names: Set[str]) -> list[str]:
        """Those of this section as they run."""
        return sorted((u for u in names if u in self.inside), key=self.at.__getitem__)

    def neighbours(self, name: str, names: Set[str]) -> list[str]:
        """Those of ``names`` right before and right behind one of them."""
        around = self.in_order(names)
        k = around.index(name)
        return [*around[max(0, k - 1) : k], *around[k + 1 : k + 2]]

    def rank(self, a: str, b: str) -> tuple[int, int]:
        """What orders a pair, least first: the rank that the target gives it, then the more bytes it saves the less."""
        x, y = self.node[a].task, self.node[b].task
        assert x is not None and y is not None
        return self.rules.rank(x.loop, y.loop), -self.score(a, b)

    def nearness(self, a: str, b: str) -> tuple[int, int]:
        """Places between the two in the order that fusion began with, from the last of the one to the first of the other where
        they are kernels of several, and the first place of both."""
        x, y = sorted((self.span_of[a], self.span_of[b]))
        return max(0, y[0] - x[1]), x[0]

    def score(self, a: str, b: str) -> int:
        """Bytes that the two need not move if they are one; those of a buffer that goes altogether count again, and more
        often where it is there when the peak is reached."""
        x, y = self.node[a], self.node[b]
        out = 0
        for s in x.touched & y.touched:
            out += self.graph.nbytes[s]
            if self.goes(s, a, b):
                out += self.nbytes[s] * (_AT_PEAK if self.at_peak(s) else 1)
        return out

    def goes(self, s: str, a: str, b: str) -> bool:
        """Whether nobody needs a storage once the two are one."""
        return s in self.node[a].makes and self.users[s] == {a, b} and s not in self.returned

    def at_peak(self, s: str) -> bool:
        """Whether a storage that is made here is there in the first step in which the peak is reached."""
        return self.at[self.maker[s]] <= self.top <= max(self.at[u] for u in self.users[s])

    # -- one pair ----------------------------------------------------------------------------------------------------

    def attempt(self, a: str, b: str) -> None:
        """Fuse a pair, or say why not."""
        why = self.fuse(a, b)
        if why:
            self.refused[a, b] = Reason(f"%{a} and %{b} stay two kernels", why)
        else:
            self.offer(self.latest)

    def fuse(self, a: str, b: str) -> str:
        """Fuse the pair; a text says why not."""
        x, y = self.node[a].task, self.node[b].task
        assert x is not None and y is not None
        if self.node[a].op.group != self.node[b].op.group:
            return "they are not of one group, which nothing from outside joins"
        if {*self.node[b].op.after} & {a, *self.members.get(a, ())}:
            return f"%{b} is said to come after %{a}"
        below = self.below(a, b)
        if stuck := below & self.before[b]:
            return f"%{min(stuck)} must run between them"
        if why := self.other_names(a, b) or self.little_shared(a, b):
            return why
        gone = {a, b}
        needed = {
            v for v in (*x.makes, *y.makes) if self.storage[v] in self.returned or self.users[self.storage[v]] - gone
        }
        task = joined(x, y, needed, self.rules)
        if isinstance(task, str):
            return task
        gain = sum(loop_cost(t.loop, self.machine).seconds(self.machine) for t in (x, y))
        gain -= loop_cost(task.loop, self.machine).seconds(self.machine)
        if gain < _GAIN and not (gain >= 0 and any(self.goes(s, a, b) and self.at_peak(s) for s in self.node[a].makes)):
            return "one pass would cost as much as two"
        node = self.fused_node(a, b, task)
        return self.put(a, b, node, self.arrangements(a, b, below))

    def other_names(self, a: str, b: str) -> str:
        """Refuses storages that the two know by different names, of which one writes."""
        x, y = self.node[a], self.node[b]
        assert x.task is not None and y.task is not None
        written = {*x.changes, *x.makes, *y.changes, *y.makes}
        known: dict[str, str] = {}
        for v in (*x.task.values, *y.task.values):
            s = self.storage[v]
            if s in written and known.setdefault(s, v) != v:
                return f"%{s} goes by several names in them"
        return ""

    def little_shared(self, a: str, b: str) -> str:
        """Refuses large siblings that have next to nothing in common: a call is all that one pass would save."""
        x, y = self.node[a], self.node[b]
        assert x.task is not None and y.task is not None
        both = x.touched & y.touched
        if (
            both & {*x.makes, *x.changes, *y.changes}
            or min(points(x.task.loop), points(y.task.loop)) < self.rules.large
        ):
            return ""
        nbytes = sum(self.graph.nbytes[s] for s in both)
        return f"they share {format_bytes(nbytes)}" if nbytes < self.rules.least_shared else ""

    def below(self, a: str, b: str) -> set[str]:
        """What stands between the two and needs the first."""
        return self._reached(a, self.at[a], self.at[b], self.after)

    def arrangements(self, a: str, b: str, below: Set[str]) -> tuple[_Way, ...]:
        """The orders, without the pair's own names, in which what stands from a to b may stand around the two ('' is
        their place). ``below``: what needs the first, none of which the second needs."""
        lo, hi = self.at[a], self.at[b]
        between = [n for n in self.order[lo + 1 : hi] if n is not None]
        above = self._reached(b, lo, hi, self.before)
        late = [*(n for n in between if n not in below), "", *(n for n in between if n in below)]
        early = [*(n for n in between if n in above), "", *(n for n in between if n not in above)]
        ways = _Way(late, below), _Way(early, above)
        return ways[:1] if late == early else ways

    def _reached(self, start: str, lo: int, hi: int, edges: Mapping[str, Set[str]]) -> set[str]:
        """What stands strictly between two places and is reached from ``start``, groups that it is not in as a whole."""
        out: set[str] = set()
        todo = [start]
        own = self.node[start].op.group
        while todo:
            found = edges[todo.pop()]
            if self.groups:
                groups = {self.node[n].op.group for n in found} - {"", own}
                found = {*found, *(n for g in groups for n in self.groups[g])}
            for n in found:
                if n not in out and lo < self.at.get(n, -1) < hi:
                    out.add(n)
                    todo.append(n)
        return out

    def fused_node(self, a: str, b: str, task: Task) -> _Node:
        after = dict.fromkeys((*self.node[a].op.after, *self.node[b].op.after))
        like = replace(self.node[b].op, after=tuple(after))
        op = loop_in_place(task, like)
        read, changed, made = accesses(op, self.storage)
        pairs = permitted(loop_pairs(self.graph, op, task.loop, self.slabbed), self.held) if self.inplace else ()
        return _Node(op, task, read, changed, made, pairs, 0)

    def put(self, a: str, b: str, node: _Node, placed: Sequence[_Way]) -> str:
        """Put the fused node where the window peaks least, unless that lifts the peak."""
        lo, hi = self.at[a], self.at[b]
        now = max(self.live[lo : hi + 1])
        best: tuple[int, int, int] | None = None
        found: tuple[list[int], list[int], Sequence[str]] | None = None
        for k, way in enumerate(placed):
            live, after = self.judged(a, b, node, way)
            key = (max(live), sum(after), k)
            if best is None or key < best:
                best, found = key, (live, after, way.names)
        assert best is not None and found is not None
        if best[0] > max(now, self.peak):
            return f"the peak would rise from {format_bytes(self.peak)} to {format_bytes(best[0])}"
        self.accept(a, b, node, *found)
        return ""

    def accept(
        self, a: str, b: str, node: _Node, live: Sequence[int], left: Sequence[int], names: Sequence[str]
    ) -> None:
        """Make the change."""
        lo, hi = self.at[a], self.at[b]
        new = node.op.name
        self.notes.append(
            f"{a} + {b} -> {new}: {', '.join(node.op.outputs[k] or '_' for k in range(len(node.op.outputs)))}"
        )
        self.pairs.append((a, b))
        self.latest = new
        self.members[new] = tuple(dict.fromkeys((*self.members.pop(a, (a,)), *self.members.pop(b, (b,)))))
        before = (self.before.pop(a) | self.before.pop(b)) - {a, b}
        after = (self.after.pop(a) | self.after.pop(b)) - {a, b}
        for s in (*self.node[a].touches, *self.node[b].touches):
            self.users[s] -= {a, b}
        spans = self.span_of.pop(a), self.span_of.pop(b)
        self.span_of[new] = min(s[0] for s in spans), max(s[1] for s in spans)
        lists = self.lists.pop(a) | self.lists.pop(b)
        for k in lists:
            self.listed[k] = self.listed[k] - {a, b} | {new}
        if node.op.group:
            self.groups[node.op.group] = self.groups[node.op.group] - {a, b} | {new}
        for old in (a, b):
            del self.node[old], self.at[old]
            self.inside.discard(old)
        for n in before:
            self.after[n] = self.after[n] - {a, b} | {new}
        for n in after:
            self.before[n] = self.before[n] - {a, b} | {new}
        self.node[new], self.before[new], self.after[new] = node, before, after
        self.inside.add(new)
        self.lists[new] = lists
        for s in node.touches:
            self.users.setdefault(s, set()).add(new)
        for s in node.makes:
            self.maker[s] = new
        filled = [n or new for n in names]
        old_peak = max(self.live[lo : hi + 1])
        spare = hi + 1 - lo - len(filled)
        self.order[lo : hi + 1] = [None] * spare + filled
        start = self.left[lo - 1] if lo else self.base
        self.live[lo : hi + 1] = [0] * spare + list(live)
        self.left[lo : hi + 1] = [start] * spare + list(left)
        for k, n in enumerate(filled, lo + spare):
            self.at[n] = k
        if old_peak == self.peak:
            self.peak = max((self.base, *self.live))
            self.top = max(range(len(self.live)), key=self.live.__getitem__)
        self.number[new] = len(self.order) + len(self.notes)

    # -- the result --------------------------------------------------------------------------------------------------

    def fused(self) -> Fused:
        """What was decided."""
        return Fused(self.result(), tuple(self.pairs), tuple(self.notes), tuple(self.refused.values()), self.peak)

    def result(self) -> Lowered:
        """The program as it has become, views where they are first used."""
        sections: list[Section] = []
        became = {m: (n,) for m, n in kernel_of(self.members).items()}
        for section, (lo, hi) in zip(self.graph.sections, self.span, strict=True):
            kept = [self.node[n].op for n in self.order[lo:hi] if n is not None]
            ops = with_views(section, renamed_after(kept, section.ops, became))
            sections.append(replace(section, ops=tuple(ops)))
        graph: Graph = pruned(replace(self.graph, sections=tuple(sections)))
        loops = {n: x.task.loop for n, x in self.node.items() if x.task is not None}
        return Lowered(graph, loops, self.lowered.reasons, self.members)
