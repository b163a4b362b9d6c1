"""The classic orders: each a function from a Flat graph to an order of all its nodes, deterministic, near-linear.

Comes in: ``memory.flat.Flat``. Goes out: a list of node numbers that respects every edge. Nothing is promised about
the peak; ``order.engine`` compares them and starts its search from the best. Ready nodes stand in heaps; what a node
would free is kept up to date when a storage is down to its last holder, so that nothing is ever scanned twice.

Sources: least-peak-first, breadth-first and depth-first follow the descriptions of PyTorch's memory module; post-order
and list scheduling those of XLA's memory scheduler; eager-free is program order with early frees.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from lowtide.memory.flat import Flat

Entrant = Callable[[Flat], list[int]]


def program(flat: Flat) -> list[int]:
    """The given order."""
    return list(range(flat.n))


def bfs(flat: Flat) -> list[int]:
    """First ready, first run: by the positions at which a node's predecessors ran, ties by program order."""
    position = [0] * flat.n
    waiting = [len(p) for p in flat.preds]
    heap: list[tuple[list[int], int]] = [([], i) for i in range(flat.n) if not waiting[i]]
    out: list[int] = []
    while heap:
        _, i = heappop(heap)
        position[i] = len(out)
        out.append(i)
        for s in flat.succs[i]:
            waiting[s] -= 1
            if not waiting[s]:
                heappush(heap, (sorted(position[p] for p in flat.preds[s]), s))
    return out


def dfs(flat: Flat) -> list[int]:
    """Depth first from every node, lighter ones (bytes made and read) and earlier ones first."""
    weight = [sum(flat.size[b] for b in held) for held in flat.holds]
    return _finish_order(flat, sorted(range(flat.n), key=lambda i: (weight[i], i)), weight)


def postorder(flat: Flat) -> list[int]:
    """Post-order from the sinks in program order, operands in program order."""
    return _finish_order(flat, [i for i in range(flat.n) if not flat.succs[i]], None)


def _finish_order(flat: Flat, roots: list[int], weight: list[int] | None) -> list[int]:
    done = bytearray(flat.n)
    out: list[int] = []
    for root in roots:
        stack = [root]
        while stack:
            i = stack.pop()
            if done[i] == 2:
                continue
            if done[i] == 1:
                done[i] = 2
                out.append(i)
                continue
            done[i] = 1
            stack.append(i)
            todo = [p for p in flat.preds[i] if done[p] == 0]
            if weight is not None:
                todo.sort(key=lambda p: (weight[p], p))
            stack.extend(reversed(todo))
    return out


class _Frees:
    """What each node would free if it ran next, kept up to date while nodes run."""

    def __init__(self, flat: Flat) -> None:
        self.flat = flat
        self.left = flat.holders.copy()
        self.begun = [not nodes for nodes in flat.makers]
        self.freed = [0] * flat.n  # bytes of storages of which the node is the only holder left
        self.waiting = [len(p) for p in flat.preds]
        self.live = flat.base
        self.peak = flat.base
        self.alloc = [a + sum(flat.size[b] for b in flat.shared[i]) for i, a in enumerate(flat.alloc)]
        self.last = [0] * flat.m  # sum of the numbers of the holders left: with one left, that one
        for i, held in enumerate(flat.holds):
            for b in held:
                self.last[b] += i
        for b, count in enumerate(self.left):
            if count == 1 and not flat.outlives[b]:
                self.freed[self.last[b]] += flat.size[b]

    def net(self, i: int) -> int:
        """Bytes that node ``i`` would add for good if it ran next."""
        return self.alloc[i] - self.freed[i]

    def run(self, i: int) -> tuple[list[int], list[int]]:
        """Run node ``i``: (nodes that became ready, nodes whose net bytes changed)."""
        flat, left, last = self.flat, self.left, self.last
        self.live += self.alloc[i]
        self.peak = max(self.peak, self.live + flat.workspace[i])
        changed: list[int] = []
        for b in flat.shared[i]:
            if not self.begun[b]:
                self.begun[b] = True
                for other in flat.makers[b]:
                    if other != i:
                        self.alloc[other] -= flat.size[b]
                        changed.append(other)
        for b in flat.holds[i]:
            left[b] -= 1
            last[b] -= i
            if left[b] == 0:
                self.live -= flat.size[b]
            elif left[b] == 1 and not flat.outlives[b]:
                self.freed[last[b]] += flat.size[b]
                changed.append(last[b])
        ready: list[int] = []
        for s in flat.succs[i]:
            self.waiting[s] -= 1
            if not self.waiting[s]:
                ready.append(s)
        return ready, changed


class _Ranked:
    """Ready nodes by (rank of their bytes begun, key): least key among the ranks up to a given one, in log time."""

    def __init__(self, ranks: int) -> None:
        self.width = 1 << max(0, ranks - 1).bit_length()
        self.empty = 1 << 200
        self.least = [self.empty] * (2 * self.width)
        self.heaps: list[list[int]] = [[] for _ in range(ranks)]

    def push(self, rank: int, key: int) -> None:
        """Add a key."""
        heappush(self.heaps[rank], key)
        if self.heaps[rank][0] == key:
            self._lift(rank)

    def pop(self, rank: int) -> None:
        """Drop the least key of one rank."""
        heappop(self.heaps[rank])
        self._lift(rank)

    def _lift(self, rank: int) -> None:
        least, at = self.least, rank + self.width
        least[at] = self.heaps[rank][0] if self.heaps[rank] else self.empty
        while at > 1:
            x, y = least[at], least[at ^ 1]
            at >>= 1
            best = x if x < y else y
            if least[at] == best:
                return
            least[at] = best

    def below(self, ranks: int) -> int:
        """Least key among the first ``ranks`` ranks (``empty`` if there is none)."""
        least, best = self.least, self.empty
        low, high = self.width, self.width + ranks
        while low < high:
            if low & 1:
                best = min(best, least[low])
                low += 1
            if high & 1:
                high -= 1
                best = min(best, least[high])
            low >>= 1
            high >>= 1
        return best

    def first(self) -> int:
        """Least key of the first rank that has one."""
        at = 1
        while at < self.width:
            at = 2 * at if self.least[2 * at] < self.empty else 2 * at + 1
        return self.least[at]


def lpmf(flat: Flat) -> list[int]:
    """Least peak first: among ready nodes that fit under the peak so far the one that adds least, else the smallest.

    The peak so far starts at the larger of the bytes alive at the start and those that outlive the end.
    """
    state = _Frees(flat)
    state.peak = max(flat.base, sum(x for x, outlives in zip(flat.size, flat.outlives, strict=True) if outlives))
    steps = sorted(set(state.alloc))
    rank_of = {a: r for r, a in enumerate(steps)}
    rank = [rank_of[a] for a in state.alloc]
    n, queue = flat.n, _Ranked(len(steps))
    key = [0] * n
    waits = bytearray(n)  # 1: ready and not yet run

    def enter(i: int) -> None:
        key[i] = state.net(i) * n + i
        queue.push(rank[i], key[i])

    for i in range(n):
        if not state.waiting[i]:
            waits[i] = 1
            enter(i)
    out: list[int] = []
    while len(out) < n:
        best = queue.below(bisect_right(steps, state.peak - state.live))
        best = queue.first() if best == queue.empty else best
        i = best % n
        queue.pop(rank[i])
        if not waits[i] or key[i] != best:
            continue  # an older entry of a node that has run or has got cheaper
        waits[i] = 0
        out.append(i)
        ready, changed = state.run(i)
        for s in ready:
            waits[s] = 1
            enter(s)
        for s in changed:
            if waits[s] and key[s] != state.net(s) * n + s:
                enter(s)
    return out


def eager_free(flat: Flat) -> list[int]:
    """Program order, left only for ready nodes that free more than they begin, and that fit under the peak so far or
    need no more than the node that is due.
    """
    state, n = _Frees(flat), flat.n
    done = bytearray(n)
    heap: list[tuple[int, int]] = []

    def offer(i: int) -> None:
        if not done[i] and not state.waiting[i] and state.net(i) < 0:
            heappush(heap, (state.net(i), i))

    for i in range(n):
        offer(i)
    out: list[int] = []
    following = 0
    while len(out) < n:
        while done[following]:
            following += 1
        chosen = following
        while heap:
            net, i = heap[0]
            if done[i] or net != state.net(i):
                heappop(heap)
            else:
                due = state.alloc[following] + flat.workspace[following]
                if state.alloc[i] + flat.workspace[i] <= max(state.peak - state.live, due):
                    chosen = i
                break
        done[chosen] = 1
        out.append(chosen)
        ready, changed = state.run(chosen)
        for s in (*ready, *changed):
            offer(s)
    return out


def listed(flat: Flat) -> list[int]:
    """List scheduling: the ready node that frees most beyond what it begins, then the one with more users."""
    state, n = _Frees(flat), flat.n
    done = bytearray(n)
    heap: list[tuple[int, int, int]] = [
        (state.net(i), -len(flat.succs[i]), i) for i in range(n) if not state.waiting[i]
    ]
    heapify(heap)
    out: list[int] = []
    while heap:
        net, _, i = heappop(heap)
        if done[i] or net != state.net(i):
            continue
        done[i] = 1
        out.append(i)
        ready, changed = state.run(i)
        for s in ready:
            heappush(heap, (state.net(s), -len(flat.succs[s]), s))
        for s in changed:
            if not done[s] and not state.waiting[s]:
                heappush(heap, (state.net(s), -len(flat.succs[s]), s))
    return out


ENTRANTS: dict[str, Entrant] = {
    "program": program,
    "lpmf": lpmf,
    "bfs": bfs,
    "dfs": dfs,
    "eager-free": eager_free,
    "post-order": postorder,
    "list": listed,
}
