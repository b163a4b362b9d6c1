"""Plans of random schedules: the checker takes each of them, and the three figures are in order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from lowtide.core.options import Options
from lowtide.core.units import align_up
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.memory.lifetime import lifetimes, timeline
from lowtide.order.engine import reorder
from lowtide.plan import choose
from lowtide.plan.choose import main_device, plan_memory
from lowtide.plan.plan import FRESH, OVER, SLAB, MemoryPlan
from lowtide.plan.replay import replay
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, reordered, schedule
from plans import plans_of, schedules
from strategies import reach, static_graphs

RANDOM = schedules(static_graphs(most=8))
TWO_DEVICES = schedules(static_graphs(most=6, devices=("cpu", "cuda:0")))


@pytest.mark.spec("G2", "G3", "G4", "G6", "PP-30", "PP-35")
@given(RANDOM)
def test_the_checker_takes_every_real_plan(made: Schedule):
    for plan in plans_of(made).values():
        replay(made, plan)


@given(TWO_DEVICES)
def test_the_checker_takes_plans_for_two_devices(made: Schedule):
    for plan in plans_of(made).values():
        replay(made, plan)


@pytest.mark.spec("G9", "PP-30", "PP-23")
@given(RANDOM)
def test_bound_promise_and_sum_are_in_order(made: Schedule):
    found = reorder(memory_graph(made), budget_steps=100)
    best = reordered(made, found.order)
    for slabs in ("auto", "none", "one"):
        plan = plan_memory(best, Options(slabs=slabs), found.lower_bound)
        assert found.lower_bound == plan.lower_bound <= plan.promised_nbytes <= plan.sum_nbytes
    plans = plans_of(made)
    assert plans["auto"].promised_nbytes <= plans["none"].promised_nbytes == timeline(memory_graph(made)).peak
    assert plans["auto"].promised_nbytes == min(nbytes for _, nbytes in plans["auto"].candidates)


@pytest.mark.spec("G9")
@given(TWO_DEVICES)
def test_figures_are_of_one_device(made: Schedule):
    graph = memory_graph(made)
    device = main_device(lifetimes(graph))
    found = reorder(graph, budget_steps=100, device=device)
    plan = plan_memory(reordered(made, found.order), Options(), found.lower_bound)
    assert plan.device == device
    assert plan.lower_bound <= plan.promised_nbytes <= plan.sum_nbytes
    replay(reordered(made, found.order), plan)


@pytest.mark.spec("G11", "PP-29", "RT-10")
@given(RANDOM)
def test_places_are_of_what_we_make_and_as_large_as_it_reaches(made: Schedule):
    graph = made.graph
    for plan in plans_of(made).values():
        assert not {p.storage for p in plan.places} & graph.caller_owned
        for p in plan.places:
            assert p.nbytes == max(reach(v.layout) for v in graph.values if v.storage == p.storage)


@pytest.mark.spec("PP-31", "G4")
@given(TWO_DEVICES)
def test_nothing_returned_lies_in_a_slab_and_nothing_on_a_gpu_is_kept_across_sections(made: Schedule):
    borders = [t for t, n in enumerate(memory_graph(made).nodes) if n.name.startswith("call:")]
    for plan in plans_of(made).values():
        for p in plan.places:
            assert not (p.escapes and p.slab is not None)
        for s in plan.slabs:
            assert not (s.kept and s.device != "cpu" and any(s.first < t < s.end for t in borders))


def between(made: Schedule, plan: MemoryPlan) -> list[int]:
    """Bytes more than without slabs at every border between sections, without what can be given back there."""
    base = timeline(memory_graph(made)).live
    borders = [t for t, n in enumerate(memory_graph(made).nodes) if n.name.startswith("call:")]
    idle = [sum(s.nbytes for s in plan.slabs if s.kept and not s.first <= t < s.end) for t in borders]
    return [plan.live[t] - n - base[t] for t, n in zip(borders, idle, strict=True)]


@pytest.mark.spec("PP-30")
@given(RANDOM)
def test_slabs_that_lower_no_peak_hold_no_more_between_sections(made: Schedule):
    """Other programs may run there, and the peak of all of them together lie there."""
    plans = plans_of(made)
    if plans["auto"].promised_nbytes == plans["none"].promised_nbytes:
        assert max(between(made, plans["auto"]), default=0) <= 0


@pytest.mark.spec("PP-30")
def test_a_saved_tensor_that_would_be_padded_is_left_out_of_phases():
    """Three are saved from one window for another; the smallest is no multiple of the alignment."""
    names = {"x": 512, "a": 512, "b": 320, "c": 4, "y": 64, "g": 64, "d": 512}
    values = tuple(Value(n, Layout("u8", "cpu", (k,), (1,)), n) for n, k in names.items())

    def op(name: str, *reads: str) -> Op:
        return Op(name, "aten.relu.default", tuple(map(Ref, reads)), outputs=(name,))

    made_forward = (op("a", "x"), op("b", "a"), op("c", "b"), op("y", "c"))
    forward = Section("forward", (Ref("x"),), made_forward, tuple(map(Ref, "yabc")), (1, 2, 3))
    backward = Section("backward", tuple(map(Ref, "abcg")), (op("d", *"abcg"),), (Ref("d"),))
    made = schedule(Graph("g", values, (forward, backward)), dict.fromkeys(names, WRITES))
    phases = plan_memory(made, Options(), ways={"cpu": "phases 1"})
    assert phases.chosen == "phases 1" and between(made, phases) == [0]
    assert {n: phases.place[n].how for n in "abc"} == {"a": SLAB, "b": SLAB, "c": FRESH}


@given(RANDOM)
def test_no_more_is_kept_than_allowed(made: Schedule):
    for retain in (0, 64, 512):
        plan = plan_memory(made, Options(slabs="one", retain=retain))
        assert sum(s.nbytes for s in plan.slabs if s.kept) <= retain


def chain(*sizes: int, facts: OpFacts) -> Schedule:
    """x -> t0 -> t1 -> ...; the last is returned."""
    names = [f"t{i}" for i in range(len(sizes))]
    values = [
        Value(n, Layout("u8", "cpu", (k,), (1,)), n) for n, k in zip(["x", *names], [sizes[0], *sizes], strict=True)
    ]
    ops = tuple(
        Op(n, "aten.relu.default", (Ref(before),), (), (n,)) for before, n in zip(["x", *names], names, strict=False)
    )
    section = Section("inference", (Ref("x"),), ops, (Ref(names[-1]),))
    return schedule(Graph("g", tuple(values), (section,)), dict.fromkeys(names, facts))


WRITES = OpFacts(out="aten.relu.out")


def test_a_chain_in_one_slab():
    made = chain(1000, 2000, 3000, 4000, facts=WRITES)
    plan = plan_memory(made, Options(slabs="one"))
    assert [p.how for p in plan.places] == [SLAB, SLAB, SLAB, FRESH]
    # t0 and t2 may share; t1 lies between them
    assert plan.slabs[0].nbytes == align_up(2000, 64) + align_up(3000, 64)
    assert plan.sum_nbytes == sum(align_up(n, 64) for n in (1000, 2000, 3000, 4000))
    assert plan.promised_nbytes == plan.slabs[0].nbytes + 4000


def test_a_pointwise_chain_in_place():
    made = chain(1000, 1000, 1000, facts=OpFacts(out="aten.relu.out", pointwise=True))
    plan = plan_memory(made, Options())
    # the last is returned on storage of its own, or continues a chain that is: either way one kilobyte
    assert plan.promised_nbytes == 1000
    assert [p.how for p in plan.places] == [FRESH, OVER, OVER]
    assert plan_memory(schedule(made.graph, {}), Options()).promised_nbytes == 2000


@pytest.mark.spec("PP-29", "RT-02")
def test_what_operations_allocate_themselves_stays_out_of_slabs():
    for unfit in (OpFacts(), OpFacts(out="aten.relu.out", restride=(0,))):
        plan = plan_memory(chain(1000, 1000, 1000, 1000, facts=unfit), Options(slabs="one"))
        assert all(p.how == FRESH for p in plan.places) and not plan.slabs


def test_workspace_counts_in_promise_and_sum():
    made = chain(64, 64, facts=OpFacts(workspace=1000, out="aten.relu.out", out_workspace=1200))
    plan = plan_memory(made, Options(slabs="none"))
    assert plan.live == (64 + 1200, 128 + 1200)
    assert plan.sum_nbytes == 128 + 1200


def test_a_program_without_steps():
    value = Value("x", Layout("f32", "cpu", (4,), (1,)), "x")
    graph = Graph("g", (value,), (Section("inference", (Ref("x"),), (), (Ref("x"),)),))
    plan = plan_memory(schedule(graph, {}), Options())
    assert (plan.promised_nbytes, plan.sum_nbytes, plan.places, plan.live) == (0, 0, (), ())
    assert plan.peak_step == 0
    replay(schedule(graph, {}), plan)


def training(layers: int, nbytes: int) -> Schedule:
    """Forward saves one tensor per layer and frees one; backward reads them in reverse order, with one of its own each."""
    names = [n for i in range(layers) for n in (f"s{i}", f"t{i}")]
    back = [n for i in reversed(range(layers)) for n in (f"a{i}", f"b{i}")]
    layout = Layout("u8", "cpu", (nbytes,), (1,))
    values = tuple(Value(n, layout, n) for n in ("x", *names, *back, "y", "g"))
    forward, last = list[Op](), "x"
    for i in range(layers):
        forward.append(Op(f"t{i}", "aten.mul.Tensor", (Ref(last), Ref("x")), (), (f"t{i}",)))
        forward.append(Op(f"s{i}", "aten.mul.Tensor", (Ref(f"t{i}"), Ref("x")), (), (f"s{i}",)))
        last = f"s{i}"
    forward.append(Op("y", "aten.mul.Tensor", (Ref(last), Ref("x")), (), ("y",)))
    backward, last = list[Op](), f"s{layers - 1}"
    for i in reversed(range(layers)):
        backward.append(Op(f"a{i}", "aten.mul.Tensor", (Ref(last), Ref(f"s{i}")), (), (f"a{i}",)))
        backward.append(Op(f"b{i}", "aten.mul.Tensor", (Ref(f"a{i}"), Ref(f"s{i}")), (), (f"b{i}",)))
        last = f"b{i}"
    backward.append(Op("g", "aten.mul.Tensor", (Ref(last), Ref("s0")), (), ("g",)))
    saved = tuple(Ref(f"s{i}") for i in range(layers))
    sections = (
        Section("forward", (Ref("x"),), tuple(forward), (Ref("y"), *saved), tuple(range(1, layers + 1))),
        Section("backward", saved, tuple(backward), (Ref("g"),)),
    )
    facts = OpFacts(out="aten.mul.out")
    return schedule(Graph("step", values, sections), {op.name: facts for s in sections for op in s.ops})


@pytest.mark.spec("PP-23", "PP-30")
def test_saved_tensors_lie_in_slabs_and_backward_fills_the_holes_they_leave():
    made = training(12, 1024)
    plan = plan_memory(made, Options())
    replay(made, plan)
    none = plan_memory(made, Options(slabs="none"))
    assert plan.promised_nbytes <= none.promised_nbytes
    cut = next(t for t, n in enumerate(memory_graph(made).nodes) if n.name.startswith("call:"))
    crossing = [k for k, s in enumerate(plan.slabs) if s.first < cut < s.end]
    assert any(plan.slabs[k].kept for k in crossing)
    arena = plan_memory(made, Options(slabs="one"))
    assert len(arena.slabs) == 1 and arena.slabs[0].kept and arena.slabs[0].first < cut < arena.slabs[0].end
    assert sum(p.slab == 0 and p.first > cut for p in arena.places) >= 20


@pytest.mark.spec("PP-30", "PP-31")
@pytest.mark.parametrize(("device", "kept"), [("cpu", True), ("cuda:0", False)])
def test_an_arena_with_saved_tensors_is_kept_where_it_can_be_lent(device: str, kept: bool):
    made = training(12, 1024)
    values = [replace(v, layout=replace(v.layout, device=device)) for v in made.graph.values]
    there = schedule(replace(made.graph, values=tuple(values)), {s.op.name: s.facts for s in made.steps})
    plan = plan_memory(there, Options(slabs="one"))
    assert [s.kept for s in plan.slabs] == [kept]
    replay(there, plan)


@pytest.mark.spec("PP-29")
@given(RANDOM)
def test_the_share_of_bytes_in_slabs_is_that_of_what_we_may_place(made: Schedule):
    plan = plan_memory(made, Options(slabs="one"))
    placed = sum(p.nbytes for p in plan.places if p.slab is not None)
    assert plan.coverage == (placed / sum(p.nbytes for p in plan.places) if placed else 0.0)
    assert plan_memory(made, Options(slabs="none")).coverage == 0.0
    writers = {o: s for s in made.steps for o in s.op.outputs if o is not None}
    for p in plan.places:
        assert p.slab is None or p.over is not None or writers[p.storage].facts.out is not None


@pytest.mark.spec("PP-23")
def test_the_ways_considered_include_slabs_by_phase_and_none_is_cheaper():
    plan = plan_memory(training(12, 1024), Options())
    considered = dict(plan.candidates)
    assert {"none", "one", "windows 4", "phases 4"} <= considered.keys()
    assert plan.promised_nbytes == min(considered.values())


@pytest.mark.spec("PP-34")
def test_a_handover_that_the_packer_did_not_take_is_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch):
    """A packer that lets every result begin elsewhere, where its operation can write into given memory."""

    def apart(chains, alignment, *, packed=True):
        offsets, top = dict[str, int](), 0
        for c in chains:
            for m in c.members:
                if m.takes_over is None or m.name in c.free:
                    at, top = top, top + align_up(c.nbytes, alignment)
                offsets[m.name] = at
        return offsets, top

    made = chain(64, 64, 64, 64, 128, facts=OpFacts(out="aten.relu.out", pointwise=True))
    taken = {a.name: a.takes_over for a in lifetimes(memory_graph(made)) if a.takes_over is not None}
    assert taken
    usual = plan_memory(made, Options(slabs="one"))
    assert all(p.how == OVER for p in usual.places if p.storage in taken)
    monkeypatch.setattr(choose, "pack_chains", apart)
    plan = plan_memory(made, Options(slabs="one"))
    replay(made, plan)
    moved = [p for p in plan.places if p.storage in taken and p.slab is not None]
    assert moved and all((p.how, p.over) == (SLAB, None) for p in moved)
    assert len({p.offset for p in plan.places if p.slab is not None}) == len(
        [p for p in plan.places if p.slab is not None]
    )
