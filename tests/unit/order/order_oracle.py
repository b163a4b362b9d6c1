"""The exhaustive optimum and a naive replay, written from the rules alone; they share no code with the package."""

from __future__ import annotations

from itertools import permutations

from lowtide.memory.graph import MemoryGraph


class Rules:
    """What the rules say about a graph, name by name."""

    def __init__(self, graph: MemoryGraph) -> None:
        self.graph = graph
        self.buffer = {b.name: b for b in graph.buffers}
        self.touch: dict[str, set[int]] = {}
        self.writers: dict[str, set[int]] = {}
        for i, node in enumerate(graph.nodes):
            for name in node.reads + node.writes:
                self.touch.setdefault(self.root(name), set()).add(i)
            for name in node.writes:
                self.writers.setdefault(self.root(name), set()).add(i)
        self.escaping = {self.root(b.name) for b in graph.buffers if b.output}
        self.needs = self._needs()

    def root(self, name: str) -> str:
        while self.buffer[name].alias_of is not None:
            name = self.buffer[name].alias_of
        return name

    def _needs(self) -> list[set[int]]:
        written: dict[str, int] = {}
        index = {n.name: i for i, n in enumerate(self.graph.nodes)}
        needs: list[set[int]] = []
        for i, node in enumerate(self.graph.nodes):
            mine = {index[a] for a in node.after}
            for start in [*node.reads, *(self.buffer[w].alias_of for w in node.writes)]:
                name = start
                while name is not None and name not in written:
                    name = self.buffer[name].alias_of
                if name is not None:
                    mine.add(written[name])
                elif start in node.reads and not self.buffer[self.root(start)].input:
                    mine |= {k for w, k in written.items() if self.root(w) == self.root(start)}
            needs.append(mine - {i})
            for w in node.writes:
                written[w] = i
        return needs

    def alive(self, done: set[int]) -> set[str]:
        """Storages that hold bytes once exactly the nodes of ``done`` have run."""
        out = set()
        for b in self.graph.buffers:
            if b.alias_of is not None or b.name not in self.touch or (b.input and not b.freeable):
                continue
            begun = b.input or bool(self.writers.get(b.name, set()) & done)
            over = self.touch[b.name] <= done and b.name not in self.escaping
            if begun and not over:
                out.add(b.name)
        return out

    def step(self, done: set[int], i: int) -> int:
        """Bytes alive while node ``i`` runs after ``done``, with the best use of its in-place pairs."""
        node = self.graph.nodes[i]
        before, after = self.alive(done), self.alive(done | {i})
        begun = {
            s
            for s in map(self.root, node.writes)
            if s not in before and not self.buffer[s].input and not (self.writers[s] & done)
        }
        dying = {s for s in before if s not in after}
        total = sum(self.buffer[s].nbytes for s in before | begun) + node.workspace
        options = []
        for r, w in {(self.root(r), self.root(w)) for r, w in node.inplace}:
            x, y = self.buffer[r], self.buffer[w]
            if r != w and r in dying and w in begun and x.nbytes >= y.nbytes and x.device == y.device:
                options.append((r, w))
        return total - best_pairs(options, {s: self.buffer[s].nbytes for s in begun})

    def start(self) -> int:
        return sum(self.buffer[s].nbytes for s in self.alive(set()))


def best_pairs(options: list[tuple[str, str]], nbytes: dict[str, int]) -> int:
    """By trying every way."""
    written = sorted({w for _, w in options})
    reads = sorted({r for r, _ in options})
    reads += [""] * len(written)
    best = 0
    for choice in permutations(reads, len(written)):
        best = max(best, sum(nbytes[w] for r, w in zip(choice, written, strict=True) if (r, w) in options))
    return best


def replay(graph: MemoryGraph, order: list[int]) -> list[int]:
    """Bytes alive in each step."""
    rules = Rules(graph)
    out = []
    for t, i in enumerate(order):
        assert rules.needs[i] <= set(order[:t])
        out.append(rules.step(set(order[:t]), i))
    return out


def optimum(graph: MemoryGraph) -> int:
    """The least peak over all orders: for every set that can have run, the least peak on the way to it."""
    rules = Rules(graph)
    n = len(graph.nodes)
    needs = [sum(1 << p for p in x) for x in rules.needs]
    layer = {0: rules.start()}
    for _ in range(n):
        following: dict[int, int] = {}
        for mask, peak in layer.items():
            done = {i for i in range(n) if mask >> i & 1}
            for i in range(n):
                if not mask >> i & 1 and not needs[i] & ~mask:
                    reached = max(peak, rules.step(done, i))
                    key = mask | 1 << i
                    if following.get(key, reached + 1) > reached:
                        following[key] = reached
        layer = following
    return layer[(1 << n) - 1]
