"""Bytes, operations and seconds of steps: by hand, never counted twice, never an error."""

from __future__ import annotations

import pytest
from small_loops import flat

from lowtide.ir.graph import Arg, Graph, Layout, Op, Origin, Ref, Section, Value
from lowtide.ir.lowered import loop_op
from lowtide.schedule.cost import Cost, Machine, loop_cost
from lowtide.schedule.estimate import estimate
from lowtide.schedule.schedule import OpFacts, Step

ROUND = Machine(bytes_per_second=1e9, operations_per_second=1e9, call_seconds=1e-6, matmul=(("f32", 4e9),))


def step(target: str, sizes: dict[str, tuple[int, ...]], *more: Arg) -> tuple[Graph, Step]:
    """``out`` from the other values in order, and then ``more`` arguments."""

    def strides(size: tuple[int, ...]) -> tuple[int, ...]:
        out = [1] * len(size)
        for k in range(len(size) - 2, -1, -1):
            out[k] = out[k + 1] * size[k + 1]
        return tuple(out)

    values = tuple(Value(n, Layout("f32", "cpu", s, strides(s)), n) for n, s in sizes.items())
    given = tuple(Ref(n) for n in sizes if n != "out")
    op = Op("out", target, (*given, *more), outputs=("out",))
    return Graph("g", values, (Section("inference", given, (op,), (Ref("out"),)),)), Step(op, 0, OpFacts())


CONVOLUTION = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)
CASES = {
    "aten.mm.default": ({"a": (3, 5), "b": (5, 7), "out": (3, 7)}, (), 2 * 3 * 5 * 7),
    "aten.addmm.default": ({"c": (7,), "a": (3, 5), "b": (5, 7), "out": (3, 7)}, (), 2 * 3 * 5 * 7),
    "aten.bmm.default": ({"a": (2, 3, 5), "b": (2, 5, 7), "out": (2, 3, 7)}, (), 2 * 2 * 3 * 5 * 7),
    "aten.linear.default": ({"a": (3, 5), "w": (7, 5), "out": (3, 7)}, (), 2 * 3 * 5 * 7),
    "aten.convolution.default": (
        {"a": (2, 4, 8, 8), "w": (6, 4, 3, 3), "out": (2, 6, 6, 6)},
        (None, *CONVOLUTION),
        2 * (2 * 6 * 6 * 6) * 4 * 9,
    ),
    "aten.convolution_backward.default": (
        {"g": (2, 6, 6, 6), "a": (2, 4, 8, 8), "w": (6, 4, 3, 3), "out": (2, 4, 8, 8)},
        ((6,), *CONVOLUTION, (True, True, True)),
        2 * 2 * (2 * 6 * 6 * 6) * 4 * 9,
    ),
    "aten._scaled_dot_product_flash_attention_for_cpu.default": (
        {"q": (1, 2, 10, 8), "k": (1, 2, 20, 8), "v": (1, 2, 20, 8), "out": (1, 2, 10, 8)}, (), 2 * 2 * 2 * 10 * 20 * 8,
    ),
    "aten.sort.stable": ({"a": (3, 5), "out": (3, 5)}, (), 0),
    "other.op": ({"a": (3, 5), "out": (3, 5)}, (), 0),
    "nothing": ({"out": ()}, (), 0),
}  # fmt: skip


@pytest.mark.spec("SC-60", "SC-61", "SC-62")
@pytest.mark.parametrize("target", CASES)
def test_library_calls(target: str) -> None:
    sizes, more, operations = CASES[target]
    found = estimate(*step(target, sizes, *more), ROUND)
    assert found.operations == operations
    elements = 0
    for size in sizes.values():
        count = 1
        for n in size:
            count *= n
        elements += count
    assert found.nbytes == 4 * elements
    assert found.seconds == pytest.approx(max(found.nbytes / 1e9, operations / 4e9) + 1e-6)


@pytest.mark.spec("SC-60")
def test_a_slice_counts_what_it_reaches_and_a_broadcast_its_elements() -> None:
    graph, s = step("aten.add.Tensor", {"a": (100,), "b": (100,), "out": (100,)})
    layouts = {"a": Layout("f32", "cpu", (100,), (0,)), "b": Layout("f32", "cpu", (10,), (7,), 3)}
    values = tuple(Value(v.name, layouts.get(v.name, v.layout), v.storage) for v in graph.values)
    found = estimate(Graph("g", values, graph.sections), s, ROUND)
    assert found.nbytes == 4 * (1 + 10 + 100)


@pytest.mark.spec("SC-60", "SC-61")
def test_inside_a_kernel_nothing_is_moved() -> None:
    """x is read once although it is loaded twice; what is only an instruction is no buffer."""
    loop = flat(1, 1, (100,), "a = load 0 r0; b = add a a; c = load 0 r0; d = mul b c; store 1 r0 d")
    graph, _ = step("aten.add.Tensor", {"x": (100,), "out": (100,)})
    op = loop_op(("x",), ("out",), (), Origin(), "out")
    found = estimate(graph, Step(op, 0, OpFacts(), loop=loop), ROUND)
    assert (found.nbytes, found.operations) == (2 * 8 * 100, 2 * 100)
    assert found.seconds == pytest.approx(1.6e-6 + 1e-6)


@pytest.mark.spec("SC-62")
def test_broken_arguments_are_no_error() -> None:
    for target in CASES:
        graph, s = step(target, {"out": (3,)})
        assert estimate(graph, s, ROUND).operations == 0


@pytest.mark.spec("SC-62")
def test_what_fits_a_cache_moves_at_its_rate() -> None:
    machine = Machine(1e9, 1e12, 0.0, in_cache=((1000, 8e9), (2000, 4e9)))
    found = [Cost(n, 0, 0).seconds(machine) for n in (1000, 1001, 2000, 2001)]
    assert found == pytest.approx([1000 / 8e9, 1001 / 4e9, 2000 / 4e9, 2001 / 1e9])


@pytest.mark.spec("SC-60")
@pytest.mark.parametrize(
    ("inner", "loads", "elements"),
    [
        ((4, 10), "n = index r1; c = const 3; k = lt n c; a = load 0 3*r0+r1 k", 12),
        ((4, 5, 2), "n = index 2*r1+r2; c = const 4; k = lt n c; a = load 0 4*r0+2*r1+r2 k", 16),
        ((4, 10), "n = index r0; c = const 3; k = lt n c; a = load 0 r1 k", 10),
        ((4, 10), "n = index r1; c = const 30; k = lt n c; a = load 0 10*r0+r1 k", 40),
        ((10,), "n = index r0; c = const 2; d = const 3; k = lt n c; l = lt n d; b = load 0 r0 k; a = load 0 r0 l", 5),
        ((10,), "n = index r0; c = const 8; d = const 9; k = lt n c; l = lt n d; b = load 0 r0 k; a = load 0 r0 l", 10),
    ],
    ids=["a part", "counted through by two", "another range", "always", "twice", "twice most of it"],
)
def test_a_guarded_load_counts_what_it_reads(inner: tuple[int, ...], loads: str, elements: int) -> None:
    loop = flat(1, 1, inner, f"{loads}; store 1 0 a")
    assert loop_cost(loop).nbytes == 8 * (elements + 1)
