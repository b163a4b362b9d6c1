"""What is stored twice is stored once, in the order that a copy wishes: the same numbers, no more kernels, no higher peak; what
is not says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from loop_programs import compute, one_by_one, programs

from lowtide.core.reason import Reason
from lowtide.ir.graph import Graph, Layout, Op, Origin, Ref, Section, Value
from lowtide.ir.index import flatten
from lowtide.ir.layouts import Padding
from lowtide.ir.loops import parse_loop
from lowtide.ir.lowered import LOOP, Lowered, check_lowered, loop_op
from lowtide.ir.strides import filled
from lowtide.ir.symbolic import symbol
from lowtide.ir.verify import verify
from lowtide.memory.lifetime import timeline
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.open_layouts import Decided, decide_layouts
from lowtide.schedule.requests import agrees
from lowtide.schedule.schedule import memory_graph, schedule

N, M = 32, 48
SIZE = (N, M)


def decided(lowered: Lowered) -> Decided:
    """Well formed, in no more kernels, the peak no higher."""
    found = decide_layouts(lowered)
    verify(found.lowered.graph)
    check_lowered(found.lowered)
    was, now = (memory_graph(schedule(x.graph, {}, loops=x.loops)) for x in (lowered, found.lowered))
    assert len(now.nodes) <= len(was.nodes) and timeline(now).peak <= timeline(was).peak
    assert decide_layouts(found.lowered).notes == (), "decided once"
    return found


def program(
    ops: Sequence[Op | tuple[str, str, str]], returns: str, layouts: Mapping[str, Layout] | None = None
) -> Lowered:
    """``ops``: library calls and views, or a loop's text, what it is given and what it makes. What nobody makes is given; all
    are [N, M] but for ``layouts``."""
    loops = {}
    listed: list[Op] = []
    for x in ops:
        if not isinstance(x, Op):
            text, given, makes = x
            loop = parse_loop(text)
            x = loop_op(tuple(given.split()), tuple(makes.split()), (), Origin(), f"op_{makes.replace(' ', '_')}")
            loops[x.name] = loop
        listed.append(x)
    made = [o for op in listed for o in op.outputs if o is not None]
    given = list(dict.fromkeys(n for op in listed for n in op.reads if n not in made))
    dense = Layout("f64", "cpu", SIZE, filled(SIZE))
    base: dict[str, str] = {}
    for op in listed:
        if op.view:
            base[str(op.outputs[0])] = base.get(op.reads[0], op.reads[0])
    values = tuple(Value(n, (layouts or {}).get(n, dense), base.get(n, n)) for n in (*given, *made))
    section = Section("inference", tuple(map(Ref, given)), tuple(listed), tuple(map(Ref, returns.split())))
    lowered = Lowered(Graph("g", values, (section,)), loops)
    verify(lowered.graph)
    check_lowered(lowered)
    return lowered


def pointwise(to: str, at: str = f"((r0*{M})+r1)", operation: str = "neg") -> str:
    """A loop over [N, M] that reads ``at`` and stores ``to``."""
    return f"""loop [] in(f64) out(f64)
  stage [{N}, {M}]
    v0: f64 = load 0 [{at}]
    v1: f64 = {operation} v0
    v2: f64 = store 1 [{to}] v1
"""


BY_ROWS, BY_COLUMNS = f"((r0*{M})+r1)", f"(r0+(r1*{N}))"
TURNED = f"""loop [] in(f64) out(f64)
  stage [{N}, {M}]
    v0: f64 = load 0 [{BY_ROWS}]
    v1: f64 = store 1 [{BY_COLUMNS}] v0
"""
BOTH = f"""loop [] in(f64) out(f64, f64)
  stage [{N}, {M}]
    v0: f64 = load 0 [{BY_ROWS}]
    v1: f64 = neg v0
    v2: f64 = store 1 [{BY_ROWS}] v1
    v3: f64 = store 2 [{BY_COLUMNS}] v1
"""
SUMMED = f"""loop [{N}] in(f64) out(f64)
  stage [{M}]
    v0: f64 = load 0 [((i0*{M})+r0)]
    v1: f64 = reduce sum v0
  stage []
    v2: f64 = store 1 [i0] v1
"""
LOOKED_UP = f"""loop [] in(i64, f64) out(f64)
  stage [{N}]
    v0: i64 = load 0 [r0]
    v1: f64 = load 1 [((v0*{M})+r0)]
    v2: f64 = store 2 [r0] v1
"""
MADE = (pointwise(BY_ROWS), "x", "a")
COPIED = (TURNED, "a", "c")
COLUMN = Layout("f64", "cpu", (N,), (1,))
INDEX = Layout("i64", "cpu", (N,), (1,))
TALL = Layout("f64", "cpu", (M, N), (N, 1))
SQUARE = Layout("f64", "cpu", (N, N), (N, 1))


def same(lowered: Lowered) -> Decided:
    """``decided``, after the two compute the same."""
    found = decided(lowered)
    want, got = ({n: np.asarray(x) for n, x in compute(y).items()} for y in (lowered, found.lowered))
    assert want.keys() == got.keys() and all(np.array_equal(x, got[n]) for n, x in want.items())
    return found


def call(target: str, out: str, *args: str) -> Op:
    return Op(out, target, tuple(map(Ref, args)), (), (out,))


def matrix(out: str = "m", *args: str) -> Op:
    return call("aten.mm.default", out, *args)


def fused(lowered: Lowered) -> Lowered:
    return fuse_loops(lowered, schedule(lowered.graph, {}, loops=lowered.loops)).lowered


@pytest.mark.spec("IR-12", "IR-52")
@given(programs(), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_programs_compute_the_same(lowered: Lowered, seed: int) -> None:
    """Fused, as in the pipeline, and as they come, where more is stored twice."""
    for x in (lowered, fused(lowered)):
        found = decided(x)
        want, got = compute(x), compute(found.lowered, one_by_one(seed))
        assert want.keys() == got.keys()
        for name, y in want.items():
            assert np.array_equal(y, got[name]), (name, found.notes)


def test_the_programs_hold_twins() -> None:
    noted: list[str] = []

    @given(programs())
    @settings(max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    def draw(lowered: Lowered) -> None:
        noted.extend((*decide_layouts(lowered).notes, *decide_layouts(fused(lowered)).notes))

    draw()
    turned = sum("in its order" in n for n in noted)
    assert turned >= 1 and len(noted) - turned >= 10


@pytest.mark.spec("IR-12", "IR-52")
@pytest.mark.parametrize("text", ["apart", "together"])
def test_a_value_is_stored_as_its_copy_wishes(text: str) -> None:
    """Another loop reads it, by index arithmetic; the copy is returned, so its strides are what eager's are."""
    made = [MADE, COPIED] if text == "apart" else [(BOTH, "x", "a c")]
    lowered = program([*made, (pointwise(BY_ROWS, operation="abs"), "a", "b")], "c b", {"c": TALL})
    found = same(lowered)
    assert found.notes == ("%a is stored once, as %c, in its order: 12.0 KiB less",)
    assert sum(op.target == LOOP for op in found.lowered.graph.ops) == 2
    assert "a" not in found.lowered.graph.value and found.lowered.graph.value["c"].layout == TALL
    assert BY_COLUMNS in str(found.lowered.loops["b"])


@pytest.mark.spec("IR-12", "IR-14")
def test_a_copy_gives_way_where_what_it_copies_is_fixed() -> None:
    """What is copied is returned, what is given lies as it lies."""
    back = (pointwise(BY_ROWS, BY_COLUMNS, "abs"), "c", "b")
    for ops, returns, stays in (([MADE, COPIED, back], "a b", "a"), ([(TURNED, "a", "c"), back], "b", "a")):
        found = same(program(ops, returns, {"c": TALL}))
        assert found.notes == (f"%c is stored once, as %{stays}, in its order: 12.0 KiB less",)
        assert BY_COLUMNS not in str(found.lowered.loops["b"])
        assert found.refused == (), "of what became one nothing stays"


KEPT = "the caller gets to keep it"
WANTED = "aten.softmax.int (%d) reads %c as it lies"


@pytest.mark.spec("IR-12")
@pytest.mark.parametrize(
    ("why", "refused"),
    [
        ("returned", [KEPT, WANTED]),
        ("changed", []),
        ("both returned", [KEPT, KEPT]),
        ("summed", ["%s would run across memory", WANTED]),
        ("twice", ["%b, %g would run across memory for one copy", WANTED]),
        ("looked up", ["%g finds its place in %a by loaded numbers", WANTED]),
        ("as a library has it", ["aten.softmax.int (%e) reads %a as it lies", WANTED]),
    ],
)
def test_what_is_fixed_or_worse_in_another_order_stays(why: str, refused: list[str]) -> None:
    """Both are returned; one is changed, so that the two are not alike; a reduction would run across memory, or two loops; a
    number that is loaded says which element is read; a library call wants it as it is."""
    again = (pointwise(BY_ROWS, operation="abs"), "a", "b")
    back = Op("d", "aten.softmax.int", (Ref("c"), 1), (), ("d",))
    other = Op("e", "aten.softmax.int", (Ref("a"), 1), (), ("e",))
    cases: dict[str, tuple[list[Op | tuple[str, str, str]], str]] = {
        "returned": ([MADE, COPIED, back], "a d"),
        "both returned": ([MADE, COPIED], "a c"),
        "changed": (
            [
                MADE,
                (TURNED.replace(BY_COLUMNS, BY_ROWS), "a", "c"),
                Op("f", "aten.add_.Tensor", (Ref("a"), 1), (), (), "none", mutates=("a",)),
                (pointwise(BY_ROWS, operation="abs"), "c", "b"),
            ],
            "b",
        ),
        "summed": ([MADE, COPIED, (SUMMED, "a", "s"), back], "s d"),
        "twice": ([MADE, COPIED, again, (pointwise(BY_ROWS, operation="exp"), "a", "g"), back], "b g d"),
        "looked up": ([MADE, COPIED, (LOOKED_UP, "k a", "g"), back], "g d"),
        "as a library has it": ([MADE, COPIED, other, back], "e d"),
    }
    ops, returns = cases[why]
    tall = {"s": COLUMN} if why == "changed" else {"c": TALL, "d": TALL, "s": COLUMN, "k": INDEX}
    found = decided(program(ops, returns, tall))
    assert found.notes == ()
    ways = [("a", "c"), ("c", "a")][: len(refused)]
    wanted = [Reason(f"%{a} stored once, as %{b}", x) for (a, b), x in zip(ways, refused, strict=True)]
    assert found.refused == tuple(wanted)
    assert found.text() == "".join(f"{x.what}: {x.because}\n" for x in wanted)


def test_what_no_loop_makes_leaves_no_reason() -> None:
    """A copy of what is given, which is returned: only of the copy could the layout be another."""
    found = same(program([(TURNED, "x", "c")], "c", {"c": TALL}))
    assert found.refused == (Reason("%c stored once, as %x", KEPT),)


def test_what_is_saved_for_a_later_section_stays_as_captured() -> None:
    lowered = program([MADE, COPIED], "a c", {"c": TALL})
    (section,) = lowered.graph.sections
    forward = replace(section, name="forward", saved=(0, 1))
    backward = Section("backward", section.returns, (), ())
    graph = replace(lowered.graph, sections=(forward, backward))
    verify(graph)
    found = decide_layouts(replace(lowered, graph=graph))
    assert found.notes == ()
    assert {r.because for r in found.refused} == {"a later section receives it as it was captured"}


@pytest.mark.spec("IR-12")
def test_what_does_not_begin_where_its_storage_begins_stays() -> None:
    """Its offset is not lost when others are decided; nobody lays it otherwise."""
    later = Layout("f64", "cpu", SIZE, filled(SIZE), 64)
    ops = [MADE, COPIED, (pointwise(BY_ROWS, operation="abs"), "a", "b"), matrix("m", "b", "y")]
    found = decide_layouts(program(ops, "c m", {"c": TALL, "b": later, "y": TALL, "m": SQUARE}), padding=FAR)
    assert found.notes and found.lowered.graph.value["b"].layout == later


@pytest.mark.spec("IR-52")
def test_products_take_what_gave_way_as_a_view() -> None:
    """Column by column, which is how they take the second matrix anyhow; a slice of every second column they would copy."""
    layouts = {"c": TALL, "d": TALL, "y": Layout("f64", "cpu", (M, N), (N, 1)), "m": SQUARE}
    other = Op("d", "aten.softmax.int", (Ref("c"), 1), (), ("d",))
    found = decided(program([MADE, COPIED, matrix("m", "a", "y"), other], "m d", layouts))
    view = found.lowered.graph.value["a"]
    assert (view.storage, view.layout.size, view.layout.stride) == ("c", SIZE, (1, N))
    (op,) = (op for op in found.lowered.graph.ops if op.view)
    assert (op.target, op.args) == ("aten.as_strided.default", (Ref("c"), SIZE, (1, N))), "from where %c begins"
    part = Op("p", "aten.slice.Tensor", (Ref("a"), 1, 0, M, 2), (), ("p",), view=True)
    layouts |= {"p": Layout("f64", "cpu", (N, M // 2), (M, 2)), "y": Layout("f64", "cpu", (M // 2, N), (N, 1))}
    found = decided(program([MADE, COPIED, part, matrix("m", "p", "y"), other], "m d", layouts))
    assert found.lowered.graph.value["p"].layout == Layout("f64", "cpu", (N, M // 2), (1, 2 * N))
    row = Layout("f64", "cpu", (N * M,), (1,))
    part = Op("p", "aten.view.default", (Ref("a"), (N * M,)), (), ("p",), view=True)
    opaque = Op("q", "aten.softmax.int", (Ref("p"), 0), (), ("q",))
    found = decided(program([MADE, COPIED, part, opaque, other], "q d", layouts | {"p": row, "q": row}))
    assert found.notes == () and "no strides say where %p would lie" in [r.because for r in found.refused]


@pytest.mark.spec("IR-52")
def test_the_same_in_the_same_order_is_stored_once() -> None:
    """Whoever reads the second reads the first: library calls by another name."""
    text = BOTH.replace(BY_COLUMNS, BY_ROWS)
    other = Op("e", "aten.softmax.int", (Ref("c"), 1), (), ("e",))
    found = decided(program([(text, "x", "a c"), other], "a e"))
    assert found.notes == ("%c is stored once, as %a: 12.0 KiB less",)
    assert [op.target for op in found.lowered.graph.ops if op.view] == ["aten.alias.default"]
    assert found.lowered.graph.value["c"].storage == "a"
    assert decided(program([(text, "x", "a c")], "a c")).notes == (), "the user gets two"


@pytest.mark.spec("IR-12")
@pytest.mark.parametrize("between", [True, False])
def test_of_two_stores_the_first_stays_where_something_reads_it_before_the_second(between: bool) -> None:
    """The first is returned by nobody, the second is: without a reader in between the second alone would do."""
    read = "v6: f64 = load 1 [((r0*48)+r1)] v5" if between else "v6: f64 = abs v1"
    text = f"""loop [] in(f64) out(f64, f64, f64)
  stage [{N}, {M}]
    v0: f64 = load 0 [{BY_ROWS}]
    v1: f64 = neg v0
    v2: f64 = store 1 [{BY_ROWS}] v1
    v3: i64 = index [r0]
    v4: i64 = const 24
    v5: bool = lt v3 v4
    {read}
    v7: f64 = store 2 [{BY_ROWS}] v6
    v8: f64 = store 3 [{BY_ROWS}] v1
"""
    found = same(program([(text, "x", "a b c")], "b c"))
    assert len(found.notes) == (0 if between else 1)
    if between:
        assert Reason("%a stored once, as %c", "%op_a_b_c reads it before it stores %c") in found.refused
    assert same(program([(text, "x", "a b c")], "b a")).notes == ("%c is stored once, as %a: 12.0 KiB less",)


@pytest.mark.spec("IR-12")
def test_what_was_a_copy_of_something_saved_is_a_view_in_its_own_section() -> None:
    """The forward section makes what is saved; the backward section copied it for a product, which takes it by columns."""
    layouts = {"c": TALL, "y": TALL, "m": SQUARE}
    lowered = program([MADE, COPIED, matrix("m", "c", "y")], "m", layouts)
    (whole,) = lowered.graph.sections
    made, *rest = whole.ops
    forward = Section("forward", (Ref("x"),), (made,), (Ref("a"),), saved=(0,))
    backward = Section("backward", (Ref("a"), Ref("y")), tuple(rest), whole.returns)
    order = ("x", "a", "y", "c", "m")
    graph = replace(lowered.graph, sections=(forward, backward), values=tuple(lowered.graph.value[n] for n in order))
    verify(graph)
    found = decided(replace(lowered, graph=graph))
    assert found.notes == ("%c is stored once, as %a, in its order: 12.0 KiB less",)
    assert [op.name for op in found.lowered.graph.sections[1].ops] == ["c", "m"]
    assert found.lowered.graph.value["c"].layout == Layout("f64", "cpu", (M, N), (1, M))


IMAGES = {
    "nchw": Layout("f64", "cpu", (2, 16, 3, 8), (384, 24, 8, 1)),
    "nhwc": Layout("f64", "cpu", (2, 16, 3, 8), (384, 1, 128, 16)),
}
WEIGHT = Layout("f64", "cpu", (16, 16, 1, 1), (16, 1, 16, 16))


def image(to: str, operation: str = "neg") -> str:
    """A loop over an image that reads and stores where its elements lie."""
    index = flatten([symbol(f"r{k}") for k in range(4)], IMAGES[to].stride)
    return f"""loop [] in(f64) out(f64)
  stage [2, 16, 3, 8]
    v0: f64 = load 0 [{index}]
    v1: f64 = {operation} v0
    v2: f64 = store 1 [{index}] v1
"""


def convolved(*more: tuple[str, str, str], weight: Layout = WEIGHT, returns: str = "m") -> Lowered:
    """A loop makes an image channel by channel, a convolution whose weight has its channels last reads it, perhaps others do."""
    layouts = dict.fromkeys("xab", IMAGES["nchw"]) | {"m": IMAGES["nhwc"], "w": weight}
    call_ = Op("m", "aten.convolution.default", (Ref("a"), Ref("w")), (), ("m",))
    return program([(image("nchw"), "x", "a"), *more, call_], returns, layouts)


@pytest.mark.spec("IR-14", "IR-52")
def test_an_open_image_is_laid_as_a_convolution_asks_that_copies_it() -> None:
    """Its channels last, since those of the weight are; the loop that makes it stores it so."""
    assert decide_layouts(convolved()).notes == (), "which does not copy, as far as anybody knows"
    found = decide_layouts(convolved(), frozenset("m"))
    verify(found.lowered.graph)
    check_lowered(found.lowered)
    assert found.notes == ("%a is laid as aten.convolution.default (%m) asks",) and found.served == 1
    assert found.lowered.graph.value["a"].layout == IMAGES["nhwc"]
    was, now = (
        {n: np.asarray(x) for n, x in compute(replace(y, graph=unread(y.graph))).items()}
        for y in (convolved(), found.lowered)
    )
    lies = was["a"].reshape(2, 16, 3, 8), now["a"].reshape(2, 3, 8, 16)
    assert np.array_equal(lies[0], lies[1].transpose(0, 3, 1, 2))
    assert decide_layouts(found.lowered, frozenset("m")).notes == (), "what lies as asked stays"


def unread(graph: Graph) -> Graph:
    """The graph without its library calls, which returns what they read."""
    (section,) = graph.sections
    ops = tuple(op for op in section.ops if op.target == LOOP)
    kept = {n for op in ops for n in (*op.reads, *op.outputs)}
    inputs = tuple(i for i in section.inputs if isinstance(i, Ref) and i.name in kept)
    section = replace(section, ops=ops, inputs=inputs, returns=(Ref("a"),))
    return replace(graph, sections=(section,), values=tuple(v for v in graph.values if v.name in kept))


@pytest.mark.spec("IR-14", "IR-52")
@pytest.mark.parametrize("why", ["it follows the image", "returned", "another reads it"])
def test_a_request_that_cannot_be_met_stays_a_copy(why: str) -> None:
    plain = Layout("f64", "cpu", (16, 16, 1, 1), (16, 1, 1, 1))
    cases = {
        "it follows the image": (convolved(weight=plain), []),
        "returned": (convolved(returns="m a"), [KEPT]),
        "another reads it": (
            convolved((image("nchw", "abs"), "a", "b"), returns="m b"),
            ["%b would run across memory for one copy"],
        ),
    }
    lowered, refused = cases[why]
    found = decide_layouts(lowered, frozenset("m"))
    assert found.notes == () and found.served == 0
    assert [r.because for r in found.refused] == refused
    assert all(r.what == "%a laid as aten.convolution.default (%m) asks" for r in found.refused)


@pytest.mark.spec("IR-12", "IR-52")
def test_an_image_that_alone_decides_does_not_give_way_to_a_copy_in_another_order() -> None:
    """Of image and weight only it has its channels last: otherwise the convolution would compute another way."""
    index = [flatten([symbol(f"r{k}") for k in range(4)], IMAGES[to].stride) for to in ("nhwc", "nchw")]
    copy = f"""loop [] in(f64) out(f64)
  stage [2, 16, 3, 8]
    v0: f64 = load 0 [{index[0]}]
    v1: f64 = store 1 [{index[1]}] v0
"""
    layouts = dict.fromkeys("xam", IMAGES["nhwc"]) | dict.fromkeys("cq", IMAGES["nchw"])
    layouts["w"] = Layout("f64", "cpu", (16, 16, 1, 1), (16, 1, 1, 1))
    ops = [(image("nhwc"), "x", "a"), (copy, "a", "c"), call("aten.convolution.default", "m", "a", "w")]
    found = decided(program([*ops, Op("q", "aten.softmax.int", (Ref("c"), 1), (), ("q",))], "m q", layouts))
    assert found.notes == ()
    assert Reason("%a stored once, as %c", "aten.convolution.default (%m) reads %a as it lies") in found.refused


@pytest.mark.spec("IR-52")
def test_strides_of_single_elements_decide_how_a_convolution_computes() -> None:
    """They put no element elsewhere, but torch counts them when it looks for channels last."""
    one = Layout("f64", "cpu", (1, 16, 1, 1), (16, 1, 16, 16))
    other = replace(one, stride=(16, 1, 1, 1))
    op = call("aten.convolution.default", "m", "a", "w")
    for weight, alike in ((Layout("f64", "cpu", (16, 16, 1, 1), (16, 1, 1, 1)), False), (WEIGHT, True)):
        values = {"a": Value("a", one, "a"), "w": Value("w", weight, "w")}
        assert agrees(op, "a", other, values) is alike, "unless the weight has its channels last"
        assert agrees(op, "a", one, values)


@pytest.mark.spec("IR-52")
def test_attention_reads_keys_and_values_wherever_their_rows_lie() -> None:
    """Heads first or tokens first: neither is copied for it."""
    heads, tokens = Layout("f64", "cpu", (1, 3, 32, 16), (1536, 512, 16, 1)), (1536, 16, 48, 1)
    swapped = """loop [] in(f64) out(f64)
  stage [3, 32, 16]
    v0: f64 = load 0 [((r0*512)+(r1*16)+r2)]
    v1: f64 = store 1 [((r0*16)+(r1*48)+r2)] v0
"""
    made = swapped.replace("((r0*16)+(r1*48)+r2)", "((r0*512)+(r1*16)+r2)").replace("] v0", "] v1")
    made = made.replace("    v1: f64 = store", "    v1: f64 = neg v0\n    v2: f64 = store")
    layouts = {
        "a": heads,
        "c": replace(heads, stride=tokens),
        "o": heads,
        "q": heads,
    }
    attend = Op(
        "o", "aten._scaled_dot_product_flash_attention_for_cpu.default", (Ref("q"), Ref("a"), Ref("a")), (), ("o",)
    )
    other = Op("e", "aten.softmax.int", (Ref("c"), 1), (), ("e",))
    ops = [(made, "x", "a"), (swapped, "a", "c"), attend, other]
    found = decided(program(ops, "o e", layouts | {"e": layouts["c"]}))
    assert found.refused == ()
    assert found.notes == ("%a is stored once, as %c, in its order: 12.0 KiB less",)
    assert found.lowered.graph.value["a"].layout.stride[1:] == tokens[1:]
    byname = replace(attend, args=(Ref("q"), Ref("q"), Ref("a")), kwargs=(("attn_mask", Ref("a")),))
    asks = replace(attend, args=(Ref("a"), Ref("q"), Ref("q")))  # results lie as queries do
    for kept in (byname, asks):
        assert decided(program([*ops[:2], kept, other], "o e", layouts | {"e": layouts["c"]})).notes == ()


FAR = Padding(nbytes=64, above=16)


@pytest.mark.spec("IR-16", "IR-20")
@pytest.mark.parametrize("read", ["whole", "rows", "from the third column", "by softmax", "flat", "returned"])
def test_lines_that_products_read_are_moved_apart_where_that_aligns_them(read: str) -> None:
    """45 columns of eight bytes: at multiples of 64 bytes once there is room for 48. A part that begins elsewhere stays
    unaligned, and what is read as one line has no room between lines."""
    wide, width = Layout("f64", "cpu", (N, 45), (45, 1)), 45
    store = pointwise(f"((r0*{width})+r1)", f"((r0*{width})+r1)").replace(f"[{N}, {M}]", f"[{N}, {width}]")
    parts = {
        "rows": Op("p", "aten.slice.Tensor", (Ref("a"), 0, 8, 16), (), ("p",), view=True),
        "from the third column": Op("p", "aten.slice.Tensor", (Ref("a"), 1, 3, 45), (), ("p",), view=True),
        "flat": Op("p", "aten.view.default", (Ref("a"), (N * 45,)), (), ("p",), view=True),
    }
    shapes = {
        "rows": Layout("f64", "cpu", (8, 45), (45, 1), 8 * 45),
        "from the third column": Layout("f64", "cpu", (N, 42), (45, 1), 3),
        "flat": Layout("f64", "cpu", (N * 45,), (1,)),
    }
    part = [parts[read]] if read in parts else []
    other = [call("aten.softmax.int", "q", "p")] if read == "flat" else []
    name = "p" if part and read != "flat" else "a"
    product = call("aten.softmax.int", "m", "a") if read == "by softmax" else matrix("m", name, "y")
    layouts = {
        "x": wide,
        "a": wide,
        "p": shapes.get(read, wide),
        "y": Layout("f64", "cpu", (45, N), (N, 1)),
        "m": SQUARE,
        "q": shapes["flat"],
    }
    lowered = program(
        [(store, "x", "a"), *part, *other, product], "m q" if other else "m a" if read == "returned" else "m", layouts
    )
    found = decide_layouts(lowered, padding=FAR)
    verify(found.lowered.graph)
    check_lowered(found.lowered)
    graph = found.lowered.graph
    if read in ("whole", "rows"):
        assert found.notes == ("%a is laid with lines at multiples of 64 bytes",)
        assert graph.value[name].layout.stride == (48, 1) and int(str(graph.value[name].layout.offset)) % 48 == 0
        assert graph.nbytes["a"] == ((N - 1) * 48 + 45) * 8, "gaps count, but for one behind the last line"
        was, now = (
            np.asarray(compute(replace(y, graph=unread(y.graph)))["a"]).ravel() for y in (lowered, found.lowered)
        )
        assert np.array_equal(was, np.append(now, np.zeros(3)).reshape(N, 48)[:, :45].ravel())
        assert decide_layouts(found.lowered, padding=FAR).notes == ()
    else:
        assert found.notes == () and graph.value["a"].layout.stride == (45, 1)
        assert [r.because for r in found.refused] == (["no strides say where %p would lie"] if read == "flat" else [])
    assert decide_layouts(lowered).notes == (), "lines are side by side where nobody asks for room"


BATCHES = Layout("f64", "cpu", (2, 3, 16), (48, 16, 1))
SWAPPED = """loop [] in(f64) out(f64)
  stage [2, 3, 16]
    v0: f64 = load 0 [((r0*48)+(r1*16)+r2)]
    v1: f64 = store 1 [((r0*16)+(r1*32)+r2)] v0
"""
ROW = Layout("f64", "cpu", (16,), (1,))
BY_MEMORY: dict[str, tuple[Op, str]] = {
    "part, strided": (Op("m", "aten.as_strided.default", (Ref("p"), (3, 16), (16, 1)), (), ("m",), view=True), "p"),
    "part, its bytes": (Op("m", "aten.view.dtype", (Ref("p"), "f32"), (), ("m",), view=True), "p"),
    "part, as it lies": (Op("m", "aten._reshape_alias.default", (Ref("p"), (16,), (1,)), (), ("m",), view=True), "p"),
    "part, its numbers apart": (Op("m", "aten.view_as_real.default", (Ref("p"),), (), ("m",), view=True), "p"),
    "part, strided and copied": (
        Op("m", "aten.as_strided_copy.default", (Ref("p"), (3, 16), (16, 1)), (), ("m",)),
        "p",
    ),
    "all, strided": (Op("m", "aten.as_strided.default", (Ref("a"), (3, 16), (16, 1)), (), ("m",), view=True), "a"),
    "all, its bytes": (Op("m", "aten.view.dtype", (Ref("a"), "f32"), (), ("m",), view=True), "a"),
    "all, as it lies": (
        Op("m", "aten._reshape_alias.default", (Ref("a"), (6, 16), (16, 1)), (), ("m",), view=True),
        "a",
    ),
}


@pytest.mark.spec("IR-12", "IR-52")
@pytest.mark.parametrize("why", sorted(BY_MEMORY))
def test_what_is_read_by_where_it_lies_in_memory_stays(why: str) -> None:
    """Even where what is named does not move: what lies around it would be read as well."""
    op, read = BY_MEMORY[why]
    made = (pointwise("((r0*48)+r1)").replace(f"[{N}, {M}]", "[2, 48]"), "x", "a")
    part = Op("p", "aten.slice.Tensor", (Ref("a"), 0, 0, 1), (), ("p",), view=True)
    shape = {
        "m": Layout("f32", "cpu", (32,), (1,)) if "bytes" in why or "numbers" in why
        else Layout("f64", "cpu", (3, 16), (16, 1)),
    }  # fmt: skip
    layouts = dict.fromkeys("xa", BATCHES) | {"c": Layout("f64", "cpu", (3, 2, 16), (32, 16, 1)), "p": ROW, "q": ROW}
    last = call("aten.softmax.int", "q", "m")
    ops = [made, (SWAPPED, "a", "c"), *([part] if read == "p" else []), op, last]
    found = decided(program(ops, "c q", layouts | shape))
    assert found.notes == ()
    assert Reason("%a stored once, as %c", f"{op.target} (%m) reads %{read} as it lies") in found.refused
    plain = call("aten.softmax.int", "q", "p")
    assert len(decided(program([made, (SWAPPED, "a", "c"), part, plain], "c q", layouts)).notes) == 1, (
        "it may move else"
    )
