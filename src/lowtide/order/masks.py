"""A small Flat graph as bit sets: sets of nodes are Python ints, and the cost of a step is a function of such a set.

Comes in: ``memory.flat.Flat`` of at most a few hundred nodes. Goes out: ``Masks``, and the two functions that the exact
search rests on: what running a node after a set of nodes costs, and the cheapest set between two sets.

Facts used (M(S) = bytes alive once exactly the nodes of S have run): M is submodular on sets closed under
predecessors, a node frees no less and saves no less in place the more has run before it, and begins no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowtide.memory.flat import Flat, saved_bytes


@dataclass(frozen=True, slots=True)
class Masks:
    """Bit sets over the nodes of ``flat``.

    pred, after: direct edges as sets; pred_list, succ: as lists; before, behind: all ancestors, all descendants.
    held: per storage all its holders.
    terms: per storage (its makers, all its holders or none if it outlives the end, bytes).
    dies: per node (all other holders, bytes) of each storage that may end at it.
    begins: per node (all other makers, bytes) of each storage that it or another may begin.
    alloc: per node bytes that it alone begins; extra: its workspace.
    pairs: per node (other holders of the dying one, other makers of the begun one, dying, begun).
    """

    flat: Flat
    full: int
    pred: list[int]
    after: list[int]
    pred_list: list[list[int]]
    succ: list[list[int]]
    before: list[int]
    behind: list[int]
    held: list[int]
    terms: list[tuple[int, int, int]]
    dies: list[list[tuple[int, int]]]
    begins: list[list[tuple[int, int]]]
    alloc: list[int]
    extra: list[int]
    pairs: list[list[tuple[int, int, int, int]]]

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.pred)


def masks_of(flat: Flat) -> Masks:
    """The bit sets of ``flat``; memory grows with the square of its nodes."""
    n = flat.n
    holders, makers = [0] * flat.m, [0] * flat.m
    for i in range(n):
        for b in flat.holds[i]:
            holders[b] |= 1 << i
    for b, nodes in enumerate(flat.makers):
        for i in nodes:
            makers[b] |= 1 << i
    pred = [set_of(x) for x in flat.preds]
    after = [set_of(x) for x in flat.succs]
    before, behind = [0] * n, [0] * n
    for i in topological(flat):
        for p in flat.preds[i]:
            before[i] |= before[p] | 1 << p
    for i in reversed(topological(flat)):
        for s in flat.succs[i]:
            behind[i] |= behind[s] | 1 << s
    dies = [[(holders[b] & ~(1 << i), flat.size[b]) for b in flat.holds[i] if not flat.outlives[b]] for i in range(n)]
    terms = [(makers[b], 0 if flat.outlives[b] else holders[b], flat.size[b]) for b in range(flat.m)]
    begins = [[(makers[b] & ~(1 << i), flat.size[b]) for b in flat.shared[i]] for i in range(n)]
    pairs = [
        [(holders[r] & ~(1 << i), makers[w] & ~(1 << i), r, w) for r, w in flat.pairs[i] if not flat.outlives[r]]
        for i in range(n)
    ]
    return Masks(
        flat,
        (1 << n) - 1,
        pred,
        after,
        flat.preds,
        flat.succs,
        before,
        behind,
        holders,
        terms,
        dies,
        begins,
        flat.alloc,
        flat.workspace,
        pairs,
    )


def topological(flat: Flat) -> list[int]:
    """Some topological order (program order where that is one)."""
    waiting = [len(p) for p in flat.preds]
    out = [i for i in range(flat.n) if not waiting[i]]
    for i in out:
        for s in flat.succs[i]:
            waiting[s] -= 1
            if not waiting[s]:
                out.append(s)
    return out


def bits(mask: int) -> list[int]:
    """The members of a set, ascending."""
    out: list[int] = []
    while mask:
        low = mask & -mask
        out.append(low.bit_length() - 1)
        mask ^= low
    return out


def set_of(members: Sequence[int]) -> int:
    """The set with these members."""
    out = 0
    for v in members:
        out |= 1 << v
    return out


def cost(masks: Masks, v: int, done: int) -> tuple[int, int]:
    """(bytes above the present while ``v`` runs after the set ``done``, bytes above the present once it has run)."""
    begun = masks.alloc[v]
    for others, nbytes in masks.begins[v]:
        if not others & done:
            begun += nbytes
    hill = begun + masks.extra[v]
    for others, nbytes in masks.dies[v]:
        if not others & ~done:
            begun -= nbytes
    if masks.pairs[v]:
        possible = [(r, w) for held, made, r, w in masks.pairs[v] if not held & ~done and not made & done]
        if possible:
            hill -= saved_bytes(possible, masks.flat.size)
    return hill, begun


def worth(masks: Masks, order: Sequence[int]) -> int:
    """Peak of ``order`` in bytes, from the set costs alone."""
    done, alive, peak = 0, masks.flat.base, masks.flat.base
    for v in order:
        hill, net = cost(masks, v, done)
        peak = max(peak, alive + hill)
        alive += net
        done |= 1 << v
    return peak


def alive_after(masks: Masks, done: int) -> int:
    """Bytes alive once exactly the nodes of ``done`` have run."""
    total = masks.flat.base
    for made, held, nbytes in masks.terms:
        if made & done:
            total += nbytes
        if held and not held & ~done:
            total -= nbytes
    return total


def alive_between(masks: Masks, done: int, alive: int, target: int) -> int:
    """Bytes alive after the set ``target``, from the bytes ``alive`` after a set ``done`` that differs little."""
    for v in bits(target & ~done):
        alive += cost(masks, v, done)[1]
        done |= 1 << v
    for v in bits(done & ~target):
        done ^= 1 << v
        alive -= cost(masks, v, done)[1]
    return alive


def lowest(masks: Masks, done: int, path: Sequence[int], bonus: Sequence[tuple[int, int]] = ()) -> tuple[int, int]:
    """The smallest set E with done ⊆ E ⊆ done + path, closed under predecessors, after which least is alive.

    ``path`` is in running order. ``bonus``: (nodes, bytes) that count as saved where E holds those nodes. A minimum
    closure: what a node begins is paid by running it, what ends pays back once all its holders have run; solved as a
    flow from pay-backs to costs (Picard 1976). Also returned: the work done, in steps.
    """
    within = 0
    for v in path:
        within |= 1 << v
    net = _closure(masks, done, path, within, bonus)
    work = len(path)
    for b in range(len(net.supply)):
        while net.supply[b]:
            looked = _push(b, net)
            work += abs(looked)
            if looked < 0:
                break
    chosen = done
    todo = [b for b, left in enumerate(net.supply) if left]
    seen = set(todo)
    while todo:
        for x in net.reach(todo.pop()):
            chosen |= net.stands[x]
            for c in net.into[x]:
                if c not in seen:
                    seen.add(c)
                    todo.append(c)
    return chosen, (work + net.work) // 4


class _Net:
    """Pay-backs (bytes left, nodes needed) and cost items (bytes left, the node they stand for, who feeds them)."""

    def __init__(self, masks: Masks, within: int) -> None:
        self.masks, self.within = masks, within
        self.supply: list[int] = []
        self.needs: list[int] = []
        self.room: list[int] = []
        self.stands: list[int] = []
        self.into: list[dict[int, None]] = []  # in the order in which they came
        self.flow: list[dict[int, int]] = []
        self.item: dict[int, int] = {}
        self.extra: dict[int, list[int]] = {}
        self.items: dict[int, list[int]] = {}
        self.work = 0

    def cost(self, nbytes: int, stands: int) -> int:
        """A new cost item."""
        self.room.append(nbytes)
        self.stands.append(stands)
        self.into.append({})
        return len(self.room) - 1

    def reach(self, b: int) -> list[int]:
        """The cost items that pay-back ``b`` needs; worked out when it is first asked for."""
        found = self.items.get(b)
        if found is None:
            need = self.needs[b]
            for x in bits(need):
                need |= self.masks.before[x]
            members = bits(need & self.within)
            items = {self.item[x] for x in members}
            for x in members:
                items.update(self.extra.get(x, ()))
            found = self.items[b] = sorted(items)
            self.work += 2 * len(found)
        return found


def _closure(masks: Masks, done: int, path: Sequence[int], within: int, bonus: Sequence[tuple[int, int]]) -> _Net:
    """The net, with every pay-back already fed to the node that begins its bytes, where that is one of ``path``."""
    flat = masks.flat
    net = _Net(masks, within)
    held: dict[int, int] = {}
    shared: dict[int, int] = {}
    for v in path:
        net.item[v] = net.cost(masks.alloc[v], 1 << v)
        for b in flat.holds[v]:
            held[b] = held.get(b, 0) | 1 << v
        for b in flat.shared[v]:
            if not any(done >> p & 1 for p in flat.makers[b]):
                if b not in shared:
                    shared[b] = net.cost(flat.size[b], 0)
                net.extra.setdefault(v, []).append(shared[b])
    gone = done | within
    for b, here in held.items():
        if flat.outlives[b] or masks.held[b] & ~gone:
            continue
        maker = flat.makers[b][0] if len(flat.makers[b]) == 1 else -1
        at = net.item.get(maker, -1)
        fed = min(flat.size[b], net.room[at]) if at >= 0 else 0
        net.supply.append(flat.size[b] - fed)
        net.needs.append(here)
        net.flow.append({at: fed} if fed else {})
        if fed:
            net.room[at] -= fed
            net.into[at][len(net.supply) - 1] = None
    for need, nbytes in bonus:
        net.supply.append(nbytes)
        net.needs.append(need & within)
        net.flow.append({})
    return net


def _push(b: int, net: _Net) -> int:
    """One augmenting path from pay-back ``b`` to a cost item with room: items looked at, negative if there is none."""
    came_item: dict[int, int] = {}
    came_back: dict[int, int] = {b: -1}
    queue = [b]
    room, into = net.room, net.into
    for c in queue:
        for x in net.reach(c):
            if x in came_item:
                continue
            came_item[x] = c
            if room[x]:
                _carry(b, x, net, came_item, came_back)
                return len(came_item)
            for d in into[x]:
                if d not in came_back:
                    came_back[d] = x
                    queue.append(d)
    return -1 - len(came_item)


def _carry(b: int, end: int, net: _Net, came_item: dict[int, int], came_back: dict[int, int]) -> None:
    """Send as much as fits from pay-back ``b`` along the path found to the cost item ``end``."""
    flow = net.flow
    amount, at = min(net.room[end], net.supply[b]), end
    while (c := came_item[at]) != b:
        amount = min(amount, flow[c][came_back[c]])
        at = came_back[c]
    net.room[end] -= amount
    net.supply[b] -= amount
    at = end
    while True:
        c = came_item[at]
        flow[c][at] = flow[c].get(at, 0) + amount
        net.into[at][c] = None
        if c == b:
            return
        at = came_back[c]
        flow[c][at] -= amount
        if not flow[c][at]:
            del flow[c][at]
            del net.into[at][c]
