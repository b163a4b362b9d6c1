"""Lifetimes and the timeline: golden cases of every rule, and equality with a naive replay on random graphs."""

from __future__ import annotations

import random

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_oracle import Rules, replay

from lowtide.memory.flat import flatten, live_bytes, peak_bytes
from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.memory.lifetime import lifetimes, timeline
from lowtide.order.entrants import ENTRANTS
from lowtide.order.windows import after_each


def graph(buffers: list[Buffer], *nodes: Node) -> MemoryGraph:
    return MemoryGraph(tuple(buffers), nodes)


def shuffled(g: MemoryGraph, seed: int) -> list[int]:
    """A random topological order."""
    rng, preds = random.Random(seed), g.predecessors
    waiting = [set(p) for p in preds]
    ready, out = [i for i, p in enumerate(preds) if not p], []
    while ready:
        i = ready.pop(rng.randrange(len(ready)))
        out.append(i)
        for j, w in enumerate(waiting):
            if i in w:
                w.discard(i)
                if not w:
                    ready.append(j)
    return out


@pytest.mark.spec("PK-05", "PK-06", "PK-16", "PK-19")
@given(st.sampled_from(sorted(graphs.SHAPES)), st.integers(0, 10**6), st.integers(1, 14))
def test_timeline_equals_a_naive_replay(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    order = shuffled(g, seed)
    expected = replay(g, order)
    line = timeline(g, order)
    assert list(line.live) == expected
    assert line.start == Rules(g).start()
    assert live_bytes(flatten(g), order) == expected
    assert after_each(flatten(g), order) == list(line.after)
    escaping = sum(x.nbytes for x in lifetimes(g, order) if x.escapes)
    assert not g.nodes or line.after[-1] == escaping


@pytest.mark.spec("PK-17")
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_each_device_has_its_own_timeline(seed: int, n: int):
    g = graphs.make("devices", seed, n)
    lines = [timeline(g, device=d) for d in ("cpu", "cuda")]
    both = timeline(g)
    assert [a + b for a, b in zip(lines[0].after, lines[1].after, strict=True)] == list(both.after)
    for d in ("cpu", "cuda"):
        assert live_bytes(flatten(g, device=d), range(len(g.nodes))) == list(timeline(g, device=d).live)


@pytest.mark.spec("PK-05")
def test_a_buffer_that_nobody_reads_lives_for_its_step_and_an_output_for_ever():
    g = graph([Buffer("a", 5), Buffer("b", 7, output=True)], Node("n", (), ("a",)), Node("m", (), ("b",)), Node("o"))
    lives = {x.name: (x.first, x.end, x.escapes) for x in lifetimes(g)}
    assert lives == {"a": (0, 1, False), "b": (1, 3, True)}
    assert timeline(g).after[-1] == 7


@pytest.mark.spec("PK-05", "PK-03")
def test_inputs_count_only_if_freeable_and_used():
    g = graph(
        [
            Buffer("plain", 100, input=True),
            Buffer("used", 10, input=True, freeable=True),
            Buffer("idle", 1000, input=True, freeable=True),
            Buffer("y", 1),
        ],
        Node("n", ("plain", "used"), ("y",)),
        Node("m", ("plain",), ()),
    )
    line = timeline(g)
    assert (line.start, line.live, line.after) == (10, (11, 0), (0, 0))


@pytest.mark.spec("PK-05")
def test_only_an_ordering_successor_does_not_end_a_freeable_input():
    g = graph([Buffer("x", 8, input=True, freeable=True)], Node("n"), Node("m", after=("n",)))
    assert timeline(g).peak == 0


@pytest.mark.spec("PK-06")
def test_an_output_of_the_first_step_keeps_its_bytes():
    g = graph([Buffer("y", 4, output=True), Buffer("z", 2)], Node("n", (), ("y",)), Node("m", (), ("z",)))
    assert timeline(g).live == (4, 6)
    assert timeline(g).after == (4, 4)


@pytest.mark.spec("PK-06")
def test_no_steps_no_bytes():
    assert timeline(MemoryGraph((), ())).peak == 0


@pytest.mark.spec("PK-16")
def test_relu_chain_needs_one_buffer():
    names = [f"b{i}" for i in range(5)]
    nodes = [Node("n0", (), ("b0",))]
    nodes += [Node(f"n{i}", (names[i - 1],), (names[i],), inplace=((names[i - 1], names[i]),)) for i in range(1, 5)]
    assert timeline(graph([Buffer(n, 64) for n in names], *nodes)).peak == 64


@pytest.mark.spec("PK-16")
@pytest.mark.parametrize(
    ("read", "taken"),
    [
        (Buffer("x", 8, input=True), False),
        (Buffer("x", 8, input=True, freeable=True), True),
        (Buffer("x", 7, input=True, freeable=True), False),
        (Buffer("x", 9, input=True, freeable=True), True),
        (Buffer("x", 8, input=True, freeable=True, output=True), False),
        (Buffer("x", 8, "cuda", input=True, freeable=True), False),
    ],
)
def test_what_may_be_taken_over(read: Buffer, taken: bool):
    g = graph([read, Buffer("y", 8, output=True)], Node("n", ("x",), ("y",), inplace=(("x", "y"),)))
    (life,) = (x for x in lifetimes(g) if x.name == "y")
    assert (life.takes_over == "x") is taken


@pytest.mark.spec("PK-16")
def test_competing_pairs_save_the_most_bytes():
    buffers = [Buffer("a", 10, input=True, freeable=True), Buffer("b", 4, input=True, freeable=True)]
    buffers += [Buffer("y", 10, output=True), Buffer("z", 4, output=True)]
    pairs = (("a", "z"), ("a", "y"), ("b", "z"))
    g = graph(buffers, Node("n", ("a", "b"), ("y", "z"), inplace=pairs))
    assert timeline(g).peak == 14
    assert peak_bytes(flatten(g), [0]) == 14
    # z can only use a, so y, which could use both, must leave it to z
    g = graph(buffers, Node("n", ("a", "b"), ("z",), inplace=(("a", "z"), ("b", "z"))))
    assert next(x for x in lifetimes(g) if x.name == "z").takes_over == "b"


@pytest.mark.spec("PK-16")
def test_a_larger_write_moves_a_smaller_one_to_its_other_choice():
    free = {"input": True, "freeable": True}
    buffers = [Buffer("a", 6, **free), Buffer("b", 9, **free), Buffer("y", 6, output=True), Buffer("z", 5, output=True)]
    g = graph(buffers, Node("n", ("a", "b"), ("y", "z"), inplace=(("a", "y"), ("b", "y"), ("a", "z"))))
    assert {x.name: x.takes_over for x in lifetimes(g)} == {"a": None, "b": None, "y": "b", "z": "a"}
    assert timeline(g).peak == 15
    assert live_bytes(flatten(g), [0]) == [15]


@pytest.mark.spec("PK-16")
def test_bytes_that_are_there_already_take_nothing_over():
    """A mutated input is not begun by its mutation, even in the first step; its pair must not use up the operand."""
    free = {"input": True, "freeable": True}
    buffers = [
        Buffer("a", 9, **free),
        Buffer("x", 9, **free),
        Buffer("x2", 0, alias_of="x"),
        Buffer("y", 5, output=True),
    ]
    g = graph(buffers, Node("n", ("a", "x"), ("x2", "y"), inplace=(("a", "x2"), ("a", "y"))), Node("m", ("x2",)))
    assert {x.name: x.takes_over for x in lifetimes(g)} == {"a": None, "x": None, "y": "a"}
    assert timeline(g).live == (18, 14)
    assert live_bytes(flatten(g), [0, 1]) == [18, 14]


@pytest.mark.spec("PK-01", "G3")
def test_a_chain_of_mutations_is_one_storage_as_long_as_its_last_name_is_used():
    buffers = [Buffer("x", 8), *(Buffer(f"x{i}", 8, alias_of="x" if i == 1 else f"x{i - 1}") for i in (1, 2, 3))]
    nodes = [Node("make", (), ("x",))]
    nodes += [Node(f"m{i}", ("x" if i == 1 else f"x{i - 1}",), (f"x{i}",)) for i in (1, 2, 3)]
    g = graph(buffers, *nodes, Node("use", ("x3",)), Node("end"))
    assert [(x.name, x.first, x.end) for x in lifetimes(g)] == [("x", 0, 5)]
    assert timeline(g).peak == 8


@pytest.mark.spec("G3")
def test_an_output_view_keeps_what_it_stands_on():
    g = graph([Buffer("x", 8), Buffer("v", 4, alias_of="x", output=True)], Node("n", (), ("x",)), Node("m"))
    assert timeline(g).after == (8, 8)


@pytest.mark.spec("G6")
def test_predecessors_know_aliases():
    buffers = [Buffer("x", 8), Buffer("view", 0, alias_of="x"), Buffer("new", 0, alias_of="view"), Buffer("y", 1)]
    g = graph(
        buffers,
        Node("make", (), ("x",)),
        Node("read", ("view",), ("y",)),
        Node("overwrite", (), ("new",), after=("read",)),
        Node("late", ("new",)),
    )
    assert g.predecessors == ((), (0,), (0, 1), (2,))


@pytest.mark.spec("G6")
def test_a_reader_of_bytes_written_in_parts_waits_for_all_parts():
    buffers = [Buffer("whole", 8), *(Buffer(n, 0, alias_of="whole") for n in ("left", "right"))]
    g = graph(buffers, Node("l", (), ("left",)), Node("r", (), ("right",)), Node("use", ("whole",)))
    assert g.predecessors == ((), (), (0, 1))
    assert timeline(g, (1, 0, 2)).live == (8, 8, 8)


@pytest.mark.spec("G6")
def test_an_input_is_there_whatever_is_written_over_it_later():
    buffers = [Buffer("x", 8, input=True), Buffer("x2", 0, alias_of="x")]
    g = graph(buffers, Node("mutate", ("x",), ("x2",)), Node("old", ("x",)))
    assert g.predecessors == ((), ())


@pytest.mark.spec("PK-05")
@pytest.mark.parametrize("shape", sorted(graphs.SHAPES))
def test_every_entrant_is_judged_alike(shape: str):
    for seed in range(5):
        g = graphs.make(shape, seed, 30)
        flat = flatten(g)
        for entrant in ENTRANTS.values():
            order = entrant(flat)
            assert timeline(g, order).peak == peak_bytes(flat, order)
