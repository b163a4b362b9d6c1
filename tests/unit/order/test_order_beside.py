"""Copies begun early and waited for late: where exactly, how far the peaks let them, and always in an order that is allowed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.memory.flat import Flat, peak_bytes
from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.memory.lifetime import timeline
from lowtide.order import beside
from lowtide.order.beside import Copy, spread
from lowtide.order.check import check_order

COPY = Copy("begin", "wait")


def two_devices(kept: int) -> MemoryGraph:
    """``x`` of the host is copied to ``d``, which ``use`` reads at the end; between lies work of the host, whose first result is
    needed throughout and has ``kept`` bytes."""
    buffers = (
        Buffer("x", 100),
        Buffer("d", 100, "dev"),
        *(Buffer(f"w{k}", kept if k == 0 else 10) for k in range(4)),
        Buffer("y", 100, "dev", output=True),
    )
    nodes = (
        Node("make", (), ("x",)),
        *(Node(f"work{k}", tuple({f"w{max(k - 1, 0)}", "w0"}) if k else (), (f"w{k}",)) for k in range(4)),
        Node("memory", (), ("d",), device="dev"),
        Node("begin", ("d", "x"), (), ("memory",), device="dev"),
        Node("wait", ("d", "x"), (), ("begin",), device="dev"),
        Node("use", ("d",), ("y",), ("begin",), device="dev"),
        Node("last", ("w3",), (), ("use",)),
    )
    return MemoryGraph(buffers, nodes)


def names(g: MemoryGraph, copies: list[Copy]) -> list[str]:
    order = spread(g, copies)
    check_order(g, order)
    return [g.nodes[i].name for i in order]


@pytest.mark.spec("IR-58")
def test_a_copy_begins_behind_what_it_needs_and_is_waited_for_as_late_as_nobody_needs_it() -> None:
    found = names(two_devices(10), [COPY])
    assert found == ["make", "memory", "begin", "work0", "work1", "work2", "work3", "use", "last", "wait"]


@pytest.mark.spec("IR-58", "PK-17")
def test_no_peak_rises_for_it() -> None:
    """The source has to be gone before something large begins, and the memory that is copied to not be there yet."""
    large = Buffer("l", 150)
    g = two_devices(10)
    g = MemoryGraph(
        (*g.buffers, large), (*g.nodes[:-1], Node("large", ("w3",), ("l",), ("use",)), Node("last", ("l",), ()))
    )
    found = names(g, [COPY])
    assert found.index("wait") == found.index("large") - 1, "while it lives, the source would be beside it"
    early = MemoryGraph((*g.buffers, Buffer("e", 150, "dev")), (Node("first", (), ("e",), device="dev"), *g.nodes))
    at = next(k for k, n in enumerate(early.nodes) if n.name == "work1")
    nodes = (*early.nodes[:at], Node("second", ("e",), (), device="dev"), *early.nodes[at:])
    found = names(MemoryGraph(early.buffers, nodes), [COPY])
    assert found.index("memory") == found.index("second") + 1, "while something large lives there, the copy has no room"


@pytest.mark.spec("IR-58", "PK-17")
@given(st.sampled_from(sorted(graphs.SHAPES)), st.integers(0, 10**6), st.integers(4, 24))
def test_any_order_stays_allowed_and_no_device_needs_more(shape: str, seed: int, n: int) -> None:
    rng, g = random.Random(seed), graphs.make(shape, seed, n)
    buffers = [replace(b, device=rng.choice(("cpu", "dev"))) for b in g.buffers if b.alias_of is None]
    names_of = {b.name for b in buffers}
    nodes = [
        Node(x.name, tuple(r for r in x.reads if r in names_of), tuple(w for w in x.writes if w in names_of), x.after)
        for x in g.nodes
    ]
    copies: list[Copy] = []
    for k in range(2):
        source = rng.choice(buffers).name
        at = max((i for i, x in enumerate(nodes) if source in x.writes), default=-1) + 1
        at = rng.randint(at, len(nodes))
        buffers.append(Buffer(f"d{k}", rng.randint(0, 200), "dev"))
        copies.append(Copy(f"begin{k}", f"wait{k}"))
        nodes[at:at] = [
            Node(f"idle{k}", (), ()),
            Node(f"memory{k}", (), (f"d{k}",), device="dev"),
            Node(f"begin{k}", (f"d{k}", source), (), (f"memory{k}",)),
            Node(f"wait{k}", (f"d{k}", source), (), (f"begin{k}",)),
        ]
        user = rng.randint(at + 4, len(nodes))
        nodes.insert(user, Node(f"use{k}", (f"d{k}",), (), (rng.choice(("begin", "wait")) + str(k),)))
    mixed = MemoryGraph(tuple(buffers), tuple(nodes))
    order = spread(mixed, copies)
    check_order(mixed, order)
    for device in ("cpu", "dev"):
        assert timeline(mixed, order, device=device).peak <= timeline(mixed, device=device).peak
    for copy in copies:
        assert gap(mixed, copy, spread(mixed, [copy])) >= gap(mixed, copy, range(len(nodes)))
    # Nothing came between the last one and an idle node in front of its memory: passing that costs no byte.
    assert gap(mixed, copies[-1], spread(mixed, copies[-1:])) > gap(mixed, copies[-1], range(len(nodes)))


def gap(graph: MemoryGraph, copy: Copy, order: Sequence[int]) -> int:
    at = {graph.nodes[i].name: t for t, i in enumerate(order)}
    return at[copy.waits] - at[copy.begins]


@pytest.mark.spec("IR-58", "SC-09")
def test_groups_stay_together() -> None:
    """The copy would begin in front of the first work, right behind what makes its source."""
    g = two_devices(10)
    g = replace(g, nodes=tuple(replace(n, group="g" if n.name in ("make", "work0") else "") for n in g.nodes))
    order = spread(g, [COPY])
    check_order(g, order)
    assert order == tuple(range(len(g.nodes)))


@pytest.mark.spec("IR-58")
def test_what_is_looked_at_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies behind the bound stay where they are."""
    looked: list[int] = []

    def counted(flat: Flat, order: Sequence[int]) -> int:
        looked.append(len(order))
        return peak_bytes(flat, order)

    g = two_devices(10)
    whole = spread(g, [COPY])
    monkeypatch.setattr(beside, "peak_bytes", counted)
    for work in (0, 1, 2 * len(g.nodes) + 1, 1000):
        monkeypatch.setattr(beside, "_WORK", work)
        looked.clear()
        found = spread(g, [COPY] * 50)
        check_order(g, found)
        assert sum(looked) < work + 4 * len(g.nodes), (
            "two devices: the peaks to stay under, and one try behind the bound"
        )
        assert found == tuple(range(len(g.nodes))) if not work else gap(g, COPY, found) <= gap(g, COPY, whole)
