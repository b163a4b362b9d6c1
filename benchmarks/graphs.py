"""Random memory graphs of many shapes, for the order engine's tests and benchmark.

``SHAPES`` maps a name to ``make(rng, n) -> MemoryGraph`` with about ``n`` nodes. Same seed, same graph. The shapes are
biased towards what breaks planners: equal sizes, zero bytes, nodes that look alike, long-lived values beside short.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from lowtide.memory.graph import Buffer, MemoryGraph, Node


class Builder:
    """Collects buffers and nodes; short-lived."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.buffers, self.nodes = rng, [], []
        self.readers: dict[str, list[str]] = {}

    def input(self, nbytes: int, *, freeable: bool = False) -> str:
        name = f"in{len(self.buffers)}"
        self.buffers.append(Buffer(name, nbytes, input=True, freeable=freeable))
        return name

    def op(self, reads: list[str], nbytes: int, *, inplace: bool = False, workspace: int = 0, **more: object) -> str:
        out = f"b{len(self.buffers)}"
        self.buffers.append(Buffer(out, nbytes, **more))  # type: ignore[arg-type]
        self.node(reads, [out], workspace, [(r, out) for r in reads] if inplace else [])
        return out

    def node(
        self, reads: list[str], writes: list[str], workspace: int = 0, pairs: list | None = None, after: tuple = ()
    ) -> str:
        reads = list(dict.fromkeys(reads))
        name = f"n{len(self.nodes)}"
        self.nodes.append(Node(name, tuple(reads), tuple(writes), after, workspace, tuple(dict.fromkeys(pairs or []))))
        for r in reads:
            self.readers.setdefault(r, []).append(name)
        return name

    def mutate(self, name: str, reads: list[str] = ()) -> str:
        """A node that writes the bytes of ``name`` in place; everybody who read the old value comes first."""
        out = f"b{len(self.buffers)}"
        self.buffers.append(Buffer(out, 0, alias_of=name))
        after = tuple(dict.fromkeys(self.readers.get(name, ())))
        self.node([name, *reads], [out], after=after)
        return out

    def view(self, name: str) -> str:
        out = f"b{len(self.buffers)}"
        self.buffers.append(Buffer(out, 0, alias_of=name))
        return out

    def graph(self, outputs: set[str] = frozenset(), last: bool = True) -> MemoryGraph:
        """``last``: what nobody reads is an output."""
        written = {w for n in self.nodes for w in n.writes}
        read = {r for n in self.nodes for r in n.reads}
        ends = {w for w in written if w not in read} | outputs if last else outputs
        buffers = tuple(
            Buffer(b.name, b.nbytes, b.device, b.input, b.freeable, b.name in ends or b.output, b.alias_of)
            for b in self.buffers
        )
        return MemoryGraph(buffers, tuple(self.nodes))


def sizes(rng: random.Random) -> Callable[[], int]:
    """A way to draw sizes: uniform, few equal ones, or heavy-tailed; now and then zero."""
    kind = rng.randrange(4)
    if kind == 0:
        return lambda: rng.randint(1, 100)
    if kind == 1:
        return lambda: rng.choice((4, 4, 8, 16))
    if kind == 2:
        return lambda: int(2 ** rng.uniform(0, 10))
    return lambda: rng.choice((0, 1, 10, 10, 100, rng.randint(1, 1000)))


def plain(rng: random.Random, n: int) -> MemoryGraph:
    """Each node reads up to three earlier results, near or far."""
    b, size = Builder(rng), sizes(rng)
    near = rng.choice((3, 6, 12, n))
    made = [b.input(size())]
    for _ in range(n):
        pool = made[-near:]
        made.append(b.op(rng.sample(pool, min(len(pool), rng.randint(1, 3))), size()))
    return b.graph(last=rng.random() < 0.7)


def gnp(rng: random.Random, n: int) -> MemoryGraph:
    """Every pair joined with one probability."""
    b, size = Builder(rng), sizes(rng)
    p = rng.choice((0.05, 0.1, 0.15, 0.25, 0.4))
    made: list[str] = []
    for _ in range(n):
        made.append(b.op([x for x in made if rng.random() < p], size()))
    return b.graph(last=rng.random() < 0.7)


def layered(rng: random.Random, n: int) -> MemoryGraph:
    """Layers of a few nodes, each reading some of the layer before and now and then an older one."""
    b, size = Builder(rng), sizes(rng)
    wide = rng.randint(2, 6)
    before, older = [b.input(size())], []
    count = 0
    while count < n:
        layer = []
        for _ in range(min(wide, n - count)):
            reads = rng.sample(before, min(len(before), rng.randint(1, 2)))
            if older and rng.random() < 0.2:
                reads.append(rng.choice(older))
            layer.append(b.op(reads, size()))
            count += 1
        older += before
        before = layer
    return b.graph(last=True)


def series_parallel(rng: random.Random, n: int) -> MemoryGraph:
    """Blocks that split into chains and join again, one after the other or nested."""
    b, size = Builder(rng), sizes(rng)

    def block(start: str, room: int) -> str:
        if room <= 2:
            for _ in range(max(1, room)):
                start = b.op([start], size())
            return start
        if rng.random() < 0.4:
            cut = rng.randint(1, room - 1)
            return block(block(start, cut), room - cut)
        arms = rng.randint(2, min(4, room - 1)) if room > 3 else 2
        ends = [block(start, max(1, (room - 1) // arms)) for _ in range(arms)]
        return b.op(ends, size())

    block(b.input(size()), n)
    return b.graph()


def training(rng: random.Random, n: int, *, checkpoint: int = 0) -> MemoryGraph:
    """Forward blocks whose activations are saved, then the backward that reads them and makes weight gradients.

    ``checkpoint``: keep only the input of every block of that many layers and run its forward again in the backward.
    """
    b = Builder(rng)
    layers = max(2, n // (5 if checkpoint else 4))
    act = [rng.choice((64, 128, 256)) for _ in range(layers + 1)]
    heavy = [rng.choice((16, 64, 256)) for _ in range(layers)]
    weight = [b.input(nbytes) for nbytes in heavy]
    x = b.input(act[0])
    kept: dict[int, list[str]] = {}
    saved: list[tuple[str, str]] = []
    for i in range(layers):
        h = b.op([x, weight[i]], act[i + 1], workspace=rng.choice((0, 0, 32)))
        y = b.op([h], act[i + 1], inplace=True)
        saved.append((x, h))
        if checkpoint and i % checkpoint == 0:
            kept[i] = [x]
        x = y
    g = b.op([x], act[layers])
    ends: set[str] = set()
    for i in reversed(range(layers)):
        if checkpoint and i % checkpoint == min(checkpoint - 1, (layers - 1) % checkpoint if i == layers - 1 else 99):
            start = i - i % checkpoint
            again = kept[start][0]
            for j in range(start, i + 1):
                h = b.op([again, weight[j]], act[j + 1])
                saved[j] = (again, h)
                again = b.op([h], act[j + 1], inplace=True) if j < i else again
        source, h = saved[i]
        gh = b.op([g, h], act[i + 1], inplace=True)
        ends.add(b.op([gh, source], heavy[i]))
        g = b.op([gh, weight[i]], act[i])
    ends.add(g)
    return b.graph(ends)


def checkpointed(rng: random.Random, n: int) -> MemoryGraph:
    """:func:`training` with every block of a few layers computed twice."""
    return training(rng, n, checkpoint=rng.randint(2, 4))


def backward(rng: random.Random, n: int) -> MemoryGraph:
    """A backward alone: saved activations come in as freeable inputs."""
    b = Builder(rng)
    layers = max(2, n // 3)
    weights = [b.input(rng.choice((16, 64, 256))) for _ in range(layers)]
    acts = [b.input(rng.choice((64, 128, 256)), freeable=True) for _ in range(layers)]
    g = b.input(128, freeable=rng.random() < 0.5)
    ends: set[str] = set()
    for i in reversed(range(layers)):
        gh = b.op([g, acts[i]], b.rng.choice((64, 128)), inplace=True)
        ends.add(b.op([gh, acts[max(0, i - 1)]], rng.choice((16, 64, 256))))
        g = b.op([gh, weights[i]], rng.choice((64, 128)), inplace=rng.random() < 0.5)
    return b.graph(ends | {g})


def wide(rng: random.Random, n: int) -> MemoryGraph:
    """Independent nodes, some of them joined at the end."""
    b, size = Builder(rng), sizes(rng)
    x = b.input(size(), freeable=True)
    made = [b.op([x] if rng.random() < 0.5 else [], size(), workspace=rng.choice((0, 5))) for _ in range(n - 1)]
    b.op(rng.sample(made, len(made) // 2), size())
    return b.graph()


def inplace(rng: random.Random, n: int) -> MemoryGraph:
    """Many in-place permissions that compete, and nodes that only read."""
    b, size = Builder(rng), sizes(rng)
    made = [b.input(size(), freeable=rng.random() < 0.5) for _ in range(3)]
    for _ in range(n):
        pool = made[-8:]
        reads = rng.sample(pool, min(len(pool), rng.randint(1, 3)))
        kind = rng.random()
        if kind < 0.15:
            b.node(reads, [])
        elif kind < 0.35:
            outs = [f"b{len(b.buffers) + k}" for k in range(2)]
            b.buffers += [Buffer(o, size()) for o in outs]
            pairs = [(r, o) for r in reads for o in outs if rng.random() < 0.7]
            b.node(reads, outs, pairs=pairs)
            made += outs
        else:
            made.append(b.op(reads, size(), inplace=rng.random() < 0.7))
    return b.graph(last=rng.random() < 0.5)


def mutating(rng: random.Random, n: int) -> MemoryGraph:
    """Views, mutations in chains, parts of one buffer written by different nodes."""
    b, size = Builder(rng), sizes(rng)
    made = [b.input(size(), freeable=rng.random() < 0.5) for _ in range(2)]
    stale: set[str] = set()
    while len(b.nodes) < n:
        pool = [x for x in made[-8:] if x not in stale]
        kind = rng.random()
        if kind < 0.2 and pool:
            x = rng.choice(pool)
            stale.add(x)
            made.append(b.mutate(x))
        elif kind < 0.3 and pool:
            x = rng.choice(pool)
            stale.add(x)  # a later mutation of x would have to wait for the readers of its views
            made.append(b.view(x))
        elif kind < 0.4 and len(b.nodes) + 3 <= n:
            whole = f"b{len(b.buffers)}"
            b.buffers.append(Buffer(whole, size()))
            parts = []
            for _ in range(2):
                parts.append(f"b{len(b.buffers)}")
                b.buffers.append(Buffer(parts[-1], 0, alias_of=whole))
                b.node(rng.sample(pool, min(len(pool), 1)), [parts[-1]])
            made.append(b.op(parts if rng.random() < 0.5 else [whole], size()))
        else:
            reads = rng.sample(pool, min(len(pool), rng.randint(1, 2))) if pool else []
            made.append(b.op(reads, size(), workspace=rng.choice((0, 0, 7))))
    return b.graph(last=rng.random() < 0.5)


def scratch(rng: random.Random, n: int) -> MemoryGraph:
    """Workspaces, ordering constraints and freeable inputs together."""
    b, size = Builder(rng), sizes(rng)
    made = [b.input(size(), freeable=rng.random() < 0.7) for _ in range(max(2, n // 4))]
    for k in range(n):
        reads = rng.sample(made, min(len(made), rng.randint(1, 3)))
        out = f"b{len(b.buffers)}"
        b.buffers.append(Buffer(out, size(), output=rng.random() < 0.1))
        after = (f"n{rng.randrange(k)}",) if k and rng.random() < 0.2 else ()
        b.node(reads, [out], workspace=size() if rng.random() < 0.4 else 0, after=after)
        made.append(out)
    return b.graph(last=rng.random() < 0.5)


def devices(rng: random.Random, n: int) -> MemoryGraph:
    """Two devices, copies between them."""
    b, size = Builder(rng), sizes(rng)
    made = [b.input(size(), freeable=True)]
    for _ in range(n):
        reads = rng.sample(made[-8:], min(len(made), 8, rng.randint(1, 2)))
        made.append(b.op(reads, size(), device=rng.choice(("cpu", "cuda")), inplace=rng.random() < 0.3))
    return b.graph()


SHAPES: dict[str, Callable[[random.Random, int], MemoryGraph]] = {
    "plain": plain,
    "gnp": gnp,
    "layered": layered,
    "series_parallel": series_parallel,
    "training": training,
    "checkpointed": checkpointed,
    "backward": backward,
    "wide": wide,
    "inplace": inplace,
    "mutating": mutating,
    "scratch": scratch,
    "devices": devices,
}


def make(shape: str, seed: int, n: int) -> MemoryGraph:
    """The graph of one shape, seed and size."""
    return SHAPES[shape](random.Random(f"{shape}/{seed}/{n}"), n)


def independent(n: int) -> MemoryGraph:
    """``n`` nodes that share nothing: the case where rescanning all ready nodes is quadratic."""
    rng = random.Random(n)
    buffers = tuple(Buffer(f"b{i}", rng.randint(1, 1 << 20), output=i % 2 == 0) for i in range(n))
    return MemoryGraph(buffers, tuple(Node(f"n{i}", (), (f"b{i}",)) for i in range(n)))
