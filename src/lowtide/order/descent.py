"""Exact decision: is there an order whose peak is at most a limit? Depth-first over sets of nodes that have run.

Comes in: ``Masks`` and a limit in bytes. Goes out: an order within the limit, a proof that none exists (with the next
limit that could work), or "out of steps". One step is the cost of one node after one set, looked at once.

Why so few sets are visited: when from a set S some set D can be reached within the limit, with no more alive after D
than after S and no set between them cheaper than D, then every order that continues from S can be changed to go
through D first without a higher peak. So D replaces S and all other ways on from S are dropped, and if D fails, so
does S. On the stack of sets the bytes alive hence grow strictly from bottom to top. (The idea of hills and valleys:
Liu 1987 for trees; here for every DAG, through submodularity of the bytes alive; see docs/design/order.md.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lowtide.memory.flat import saved_bytes
from lowtide.order.masks import Masks, alive_after, bits, lowest

_NEVER = 1 << 200


@dataclass(slots=True)
class _Level:
    """A set on the stack, the nodes run since the level below, and ways on that are not tried yet.

    costs: (bytes above the present while it runs, bytes added for good) of each ready node.
    """

    done: int
    alive: int
    costs: dict[int, tuple[int, int]]
    path: list[int]
    ways: list[tuple[int, int, list[int]]] = field(default_factory=list[tuple[int, int, list[int]]])

    def copy(self) -> _Level:
        """The same set, to run further nodes from."""
        return _Level(self.done, self.alive, self.costs.copy(), [])


class Descent:
    """One search at one limit between two sets, forward from the lower or backward from the upper one.

    Backward, nodes are taken away from the upper set one by one, and "done" means taken away; the bytes alive are the
    same function of what has run, so everything said above holds with the roles of the two ends exchanged.
    ``failed`` may be shared between searches of one direction as limits go down. ``guide``: for each node its place in an
    order near which to look first (nothing: cheaper sets first).
    """

    def __init__(
        self,
        masks: Masks,
        limit: int,
        low: int,
        high: int,
        *,
        backward: bool = False,
        failed: set[int] | None = None,
        guide: Sequence[int] = (),
    ) -> None:
        self.masks, self.limit, self.backward, self.guide = masks, limit, backward, guide
        self.failed: set[int] = set() if failed is None else failed
        self.over = _NEVER  # least bytes seen above the limit: no order has a peak strictly between the two
        self.steps = 0
        self.path: list[int] | None = None
        self.stack: list[_Level] = []
        self.finished = False
        self.pred = masks.after if backward else masks.pred
        self.succ = masks.pred_list if backward else masks.succ
        start, end = (masks.full ^ high, masks.full ^ low) if backward else (low, high)
        self.goal = end
        alive = alive_after(masks, high if backward else low)
        if alive > limit:
            self.over, self.finished = alive, True
            return
        level = _Level(start, alive, {}, [])
        for v in bits(end & ~start):
            if not self.pred[v] & ~start:
                level.costs[v] = self._cost(v, start)
        self._settle(level, list(level.costs))
        self._enter(level)

    @property
    def root(self) -> int:
        """The set (of nodes that have run) that every order may be assumed to pass; starts as the end searched from."""
        done = self.stack[0].done if self.stack else (self.masks.full ^ self.goal if self.backward else 0)
        return self.masks.full ^ done if self.backward else done

    def run(self, steps: int) -> bool:
        """Search for at most about ``steps`` more steps; True once the answer is known (no ``path``: there is none)."""
        end = self.steps + steps
        while not self.finished and self.steps < end:
            if not self.stack:
                self.finished = True
                break
            top = self.stack[-1]
            if top.ways:
                done, _, path = top.ways.pop()
                if done not in self.failed:
                    self._enter(self._follow(top, path))
            else:
                self.failed.add(top.done)
                self.stack.pop()
                self.steps += 1
        return self.finished

    def _enter(self, level: _Level) -> None:
        """Put a settled set on the stack, in the place of every set below that it makes needless, and expand it."""
        while True:
            at = len(self.stack)
            while at and self.stack[at - 1].alive >= level.alive:
                at -= 1
            if at < len(self.stack):
                level = self._replace(at, level)
            self.stack.append(level)
            if level.done == self.goal:
                self.path = [v for x in self.stack for v in x.path]
                self.finished = True
                return
            if level.done in self.failed:
                return
            better = self._expand(level)
            if better is None:
                return
            level = better

    def _replace(self, at: int, level: _Level) -> _Level:
        """The level that stands for ``stack[at]`` and all above it, now that ``level`` is known to be no dearer."""
        base = self.stack[at]
        path = [v for x in self.stack[at + 1 :] for v in x.path] + level.path
        del self.stack[at:]
        if len(path) > 2:
            target = self._lowest(base.done, level.done, path)
            if target != level.done:
                cheaper = self._follow(base, [v for v in path if target >> v & 1])
                if cheaper.alive < level.alive:
                    cheaper.path = base.path + cheaper.path
                    self._settle(cheaper, sorted(cheaper.costs))
                    return cheaper
        level.path = base.path + path
        return level

    def _lowest(self, below: int, above: int, path: list[int]) -> int:
        if not self.backward:
            chosen, work = lowest(self.masks, below, path)
        else:
            full = self.masks.full
            chosen, work = lowest(self.masks, full ^ above, path[::-1])
            chosen ^= full
        self.steps += work
        return chosen

    def _follow(self, base: _Level, path: list[int]) -> _Level:
        level = base.copy()
        for v in path:
            self._run(level, v)
        return level

    def _run(self, level: _Level, v: int) -> list[int]:
        """Run a ready node; which ready nodes are new or cost something else now."""
        level.alive += level.costs.pop(v)[1]
        changed = self._changed(v, level.done, level.costs)
        level.done |= 1 << v
        for x in changed:
            level.costs[x] = self._cost(x, level.done)
        level.path.append(v)
        return changed

    def _changed(self, v: int, before: int, costs: dict[int, tuple[int, int]]) -> list[int]:
        """Nodes that become ready, or change their cost, when ``v`` runs after ``before`` (``costs``: the ready ones)."""
        done = before | 1 << v
        self.steps += len(self.masks.dies[v]) // 2
        changed: list[int] = []
        for s in self.succ[v]:
            if not self.pred[s] & ~done and self.goal >> s & 1:
                changed.append(s)
        touched = 0
        for others, _ in self.masks.dies[v]:
            if self.backward:
                if not others & before:
                    touched |= others
            else:
                left = others & ~done
                if left and not left & (left - 1):
                    touched |= left
        for others, _ in self.masks.begins[v]:
            touched |= others
        while touched:
            low = touched & -touched
            touched ^= low
            x = low.bit_length() - 1
            if x in costs and x != v:
                changed.append(x)
        return changed

    def _cost(self, v: int, done: int) -> tuple[int, int]:
        masks = self.masks
        self.steps += 1 + len(masks.dies[v]) // 8
        if self.backward:
            done = masks.full ^ done ^ 1 << v
        begun = masks.alloc[v]
        for others, nbytes in masks.begins[v]:
            if not others & done:
                begun += nbytes
        hill = begun + masks.extra[v]
        for others, nbytes in masks.dies[v]:
            if others & done == others:
                begun -= nbytes
        if masks.pairs[v]:
            possible = [(r, w) for held, made, r, w in masks.pairs[v] if held & done == held and not made & done]
            if possible:
                hill -= saved_bytes(possible, masks.flat.size)
        return (hill - begun, -begun) if self.backward else (hill, begun)

    def _settle(self, level: _Level, look: list[int]) -> None:
        """Run whatever fits and adds nothing, until nothing does; only ``look`` can have become such a node."""
        costs = level.costs
        shut: list[int] = []  # would add nothing but does not fit yet
        while look:
            v = look.pop()
            entry = costs.get(v)
            if entry is None or entry[1] > 0:
                continue
            if level.alive + entry[0] > self.limit:
                shut.append(v)
                continue
            look += self._run(level, v)
            if entry[1] < 0:
                look += shut
                shut.clear()

    def _expand(self, level: _Level) -> _Level | None:
        """Find the ways on from ``level``; one that leaves no more alive is returned at once, to take its place."""
        ways: list[tuple[int, int, list[int]]] = []
        seen: set[int] = set()
        costs, alive = level.costs, level.alive
        room = self.limit - alive
        over = _NEVER
        self.steps += 1 + len(costs) // 4
        for v, (hill, net) in sorted(costs.items()):
            if hill > room:
                if hill < over:
                    over = hill
                continue
            done, path, after = level.done | 1 << v, [v], alive + net
            changed = self._changed(v, level.done, costs)
            if changed and any(self._cost(x, done)[1] <= 0 for x in changed):
                way = level.copy()
                self._settle(way, self._run(way, v))
                if way.alive <= alive:
                    self.over = min(self.over, over + alive)
                    return way
                done, path, after = way.done, way.path, way.alive
                self.steps += len(costs) // 8
            if done not in seen and done not in self.failed:
                seen.add(done)
                ways.append((done, after, path))
        self.over = min(self.over, over + alive)
        if self.guide:
            ways.sort(key=lambda w: self.guide[w[2][0]], reverse=not self.backward)
        else:
            ways.sort(key=lambda w: (-w[1], w[0]))
        level.ways = ways
        return None


class Decision:
    """Is there an order with a peak of at most ``limit``? Both directions in turn, each narrowing the other.

    What one direction finds that every order may pass becomes the end that the other one aims at.
    """

    def __init__(
        self,
        masks: Masks,
        limit: int,
        failed: tuple[set[int], set[int]] | None = None,
        guide: Sequence[int] = (),
    ) -> None:
        self.masks, self.limit, self.guide = masks, limit, guide
        self.failed: tuple[set[int], set[int]] = (set(), set()) if failed is None else failed
        self.low: int = 0
        self.high: int = masks.full
        self.prefix: list[int] = []
        self.suffix: list[int] = []
        self.over = _NEVER
        self.steps = 0
        self.order: list[int] | None = None
        self.finished = False
        self.sides: list[Descent | None] = [None, None]

    def run(self, steps: int) -> bool:
        """Search for at most about ``steps`` more steps; True once the answer is known (no ``order``: none exists)."""
        end, turn = self.steps + steps, 8 * self.masks.n
        while not self.finished and self.steps < end:
            for side in (0, 1):
                if not self.finished:
                    self._advance(side, min(turn, max(1, end - self.steps)))
            turn *= 2
        return self.finished

    def _advance(self, side: int, steps: int) -> None:
        search = self.sides[side]
        if search is None:
            back, known = side == 1, self.failed[side]
            search = Descent(self.masks, self.limit, self.low, self.high, backward=back, failed=known, guide=self.guide)
            self.sides[side] = search
            before = 0
        else:
            before = search.steps
        over = search.run(steps)
        self.steps += search.steps - before + 1
        self.over = min(self.over, search.over)
        if over:
            self.finished = True
            if search.path is not None:
                middle = search.path[::-1] if side else search.path
                self.order = self.prefix + middle + self.suffix
            return
        path = search.stack[0].path if search.stack else []
        if path:
            search.stack[0].path = []
            if side:
                self.high, self.suffix = search.root, path[::-1] + self.suffix
            else:
                self.low, self.prefix = search.root, self.prefix + path
            self.sides[1 - side] = None
