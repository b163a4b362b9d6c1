"""The checker of plans refuses each kind of damage with its clause, in a real training plan and in random ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.errors import VerifyError
from lowtide.core.options import Options
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import FRESH, OVER, SLAB, MemoryPlan, Place
from lowtide.plan.replay import replay
from lowtide.schedule.schedule import OpFacts, Schedule, schedule
from plans import MATRIX, WRITES, plans_of, schedules, training
from strategies import static_graphs

BYTES = 256


@cache
def planned(slabs: str = "one", inplace: bool = True) -> tuple[Schedule, MemoryPlan]:
    made = training()
    if not inplace:
        made = replace(made, steps=tuple(replace(s, inplace=()) for s in made.steps))
    return made, plan_memory(made, Options(slabs=slabs))


def with_place(plan: MemoryPlan, storage: str, **changes: object) -> MemoryPlan:
    places = tuple(replace(p, **changes) if p.storage == storage else p for p in plan.places)
    return replace(plan, places=places)


def with_slab(plan: MemoryPlan, **changes: object) -> MemoryPlan:
    return replace(plan, slabs=(replace(plan.slabs[0], **changes), *plan.slabs[1:]))


def swapped(made: Schedule, a: str, b: str) -> Schedule:
    at = {s.op.name: i for i, s in enumerate(made.steps)}
    steps = list(made.steps)
    steps[at[a]], steps[at[b]] = steps[at[b]], steps[at[a]]
    return replace(made, steps=tuple(steps))


def clause_of(made: Schedule, plan: MemoryPlan) -> str:
    with pytest.raises(VerifyError) as refused:
        replay(made, plan)
    return refused.value.clause


def test_the_real_plans_pass():
    for slabs in ("auto", "none", "one"):
        for inplace in (True, False):
            replay(*planned(slabs, inplace))
    _, plan = planned()
    hows = [p.how for p in plan.places]
    assert {FRESH, OVER, SLAB} == set(hows), "the damage below needs all kinds of places"


Damage = Callable[[Schedule, MemoryPlan], tuple[Schedule, MemoryPlan]]
APART = "without in-place"
DAMAGES: list[tuple[str, str, Damage]] = [
    ("missing", "a storage has no place", lambda s, p: (s, replace(p, places=p.places[1:]))),
    ("twice", "a storage has two", lambda s, p: (s, replace(p, places=(*p.places, p.places[0])))),
    ("undefined", "begins after it is written", lambda s, p: (s, with_place(p, "h", first=1))),
    ("undefined", "read before it is made", lambda s, p: (swapped(s, "m", "y"), p)),
    ("freed", "ends before its last read", lambda s, p: (s, with_place(p, "r", end=p.place["r"].end - 1))),
    ("freed", "saved, but ends with forward", lambda s, p: (s, with_place(p, "keep", end=7))),
    (f"overlap {APART}", "on top of a live one", lambda s, p: (s, with_place(p, "r", offset=p.place["h"].offset))),
    (f"overlap {APART}", "on top of a saved one", lambda s, p: (s, with_place(p, "gr", offset=p.place["drop"].offset))),
    ("inplace", "takes over what is read later", lambda s, p: (s, with_place(p, "y", how=OVER, over="r"))),
    (f"inplace {APART}", "nobody permitted it", lambda s, p: (s, with_place(p, "gr", how=OVER, over="gy"))),
    ("bounds", "behind the end of its slab", lambda s, p: (s, with_slab(p, nbytes=p.slabs[0].nbytes - 64))),
    ("bounds", "before its start", lambda s, p: (s, with_place(p, "h", offset=-64))),
    ("bounds", "fewer bytes than its layout reaches", lambda s, p: (s, with_place(p, "h", nbytes=BYTES - 4))),
    (f"misaligned {APART}", "at an odd offset", lambda s, p: (s, with_place(with_slab(p, nbytes=1 << 20), "h", offset=4100))),
    ("whole", "read by what copies all of its slab", lambda s, p: (of_target(s, "r", "aten.copy.default"), p)),
    ("callee", "no out= form", lambda s, p: (facts_of(s, "h", OpFacts()), p)),
    ("callee", "results are copied", lambda s, p: (facts_of(s, "h", replace(MATRIX, restride=(0,))), p)),
    ("held", "slab given back too early", lambda s, p: (s, with_slab(p, end=p.slabs[0].end - 1))),
    ("held", "slab taken too late", lambda s, p: (s, with_slab(p, first=p.slabs[0].first + 1))),
    ("held", "kept on a GPU with saved tensors in it", lambda s, p: (s, with_slab(p, kept=True, device="cuda:0"))),
    ("device", "slab elsewhere", lambda s, p: (s, with_slab(p, device="cuda:0", kept=False))),
    ("escape", "returned in a slab", lambda s, p: (s, with_place(with_slab(p, nbytes=9**9, end=99), "loss", how=SLAB, slab=0))),
    ("escape", "a returned one is freed", lambda s, p: (s, with_place(p, "loss", end=p.place["loss"].end - 1))),
    ("escape", "a returned one is not known as such", lambda s, p: (s, with_place(p, "gw", escapes=False))),
    ("input", "takes over the caller's", lambda s, p: (s, with_place(p, "h", how=OVER, over="x", slab=None, offset=0))),
    ("input", "a place for the caller's", lambda s, p: (s, replace(p, places=(*p.places, Place("x", BYTES, 0, 1, FRESH))))),
    ("order", "random numbers changed places", lambda s, p: (swapped(s, "drop", "keep"), p)),
    ("order", "a step is missing", lambda s, p: (replace(s, steps=s.steps[:-1]), p)),
    ("order", "reads the buffer after its update", lambda s, p: (swapped(s, "m", "new"), p)),
    ("section", "backward runs in forward", lambda s, p: (swapped(s, "loss", "gy"), p)),
    ("section", "a step says another section", lambda s, p: (in_section(s, "gx", 0), p)),
    ("promise", "more held than promised", lambda s, p: (s, replace(p, live=(p.live[0] - 1, *p.live[1:])))),
    ("promise", "less held than promised", lambda s, p: (s, replace(p, live=(*p.live[:-1], p.live[-1] + 1)))),
    ("promise", "too few steps", lambda s, p: (s, replace(p, live=p.live[:-1]))),
    ("promise", "below its bound", lambda s, p: (s, replace(p, lower_bound=p.promised_nbytes + 1))),
    ("promise", "above the sum", lambda s, p: (s, replace(p, sum_nbytes=p.promised_nbytes - 1))),
    ("promise", "a workspace forgotten", lambda s, p: (facts_of(s, "gw", replace(MATRIX, out_workspace=65)), p)),
]  # fmt: skip


def in_section(made: Schedule, name: str, section: int) -> Schedule:
    return replace(made, steps=tuple(replace(s, section=section) if s.op.name == name else s for s in made.steps))


def of_target(made: Schedule, name: str, target: str) -> Schedule:
    changed = [replace(s, op=replace(s.op, target=target)) if s.op.name == name else s for s in made.steps]
    return replace(made, steps=tuple(changed))


def facts_of(made: Schedule, name: str, facts: OpFacts) -> Schedule:
    return replace(made, steps=tuple(replace(s, facts=facts) if s.op.name == name else s for s in made.steps))


@pytest.mark.spec("G2", "G3", "G4", "G5", "G6", "G9", "G11", "PP-35")
@pytest.mark.parametrize(("clause", "what", "damage"), DAMAGES, ids=[f"{c}: {w}" for c, w, _ in DAMAGES])
def test_damage_is_refused_with_its_clause(clause: str, what: str, damage: Damage):
    made, plan = damage(*planned(inplace=APART not in clause))
    assert clause_of(made, plan) == clause.removesuffix(f" {APART}")


def test_what_is_returned_is_not_taken_over():
    """Also where no later step reads it."""
    names = [Value(n, Layout("f32", "cpu", (8,), (1,)), n) for n in ("x", "a", "b")]
    ops = tuple(Op(n, "aten.relu.default", (Ref(r),), outputs=(n,)) for n, r in (("a", "x"), ("b", "a")))
    graph = Graph("g", tuple(names), (Section("inference", (Ref("x"),), ops, (Ref("a"), Ref("b"))),))
    made = schedule(graph, {n: OpFacts(out="aten.relu.out", pointwise=True) for n in "ab"})
    plan = plan_memory(made, Options())
    stolen = with_place(plan, "b", how=OVER, over="a")
    assert clause_of(made, stolen) == "inplace"


def test_in_place_needs_an_operation_that_can():
    """Pairs that the schedule permits are checked again."""
    made, plan = planned("none")
    over = next(p for p in plan.places if p.how == OVER and p.storage == "gr")
    for facts in (
        replace(WRITES, pointwise=False),
        replace(WRITES, out=None),
        replace(WRITES, restride=(0,)),
    ):
        assert clause_of(facts_of(made, "gr", facts), plan) == "inplace"
    views = [
        replace(v, layout=Layout("f32", "cpu", (8, 8), (1, 8))) if v.name == over.over else v for v in made.graph.values
    ]
    assert clause_of(replace(made, graph=replace(made.graph, values=tuple(views))), plan) == "inplace"


def damaged(made: Schedule, plan: MemoryPlan, dice: random.Random) -> MemoryPlan | None:
    """One random place made wrong; None where this plan has none that could be."""
    last = {p.storage: max([p.first, *(t for t, s in enumerate(steps_of(made)) if s and p.storage in touched(made, s))])
            for p in plan.places}  # fmt: skip
    read_later = [p for p in plan.places if last[p.storage] > p.first and p.nbytes]
    sharing = [
        (a, b) for a in plan.places for b in read_later
        if a.slab is not None and a.slab == b.slab and a.how == b.how == SLAB
        and a.nbytes and b.first < a.first <= last[b.storage]
    ]  # fmt: skip
    kinds: list[Callable[[], MemoryPlan]] = []
    if read_later:
        early = dice.choice(read_later)
        kinds.append(lambda: with_place(plan, early.storage, end=last[early.storage]))
        kinds.append(lambda: replace(plan, places=tuple(p for p in plan.places if p is not early)))
    if sharing:
        a, b = dice.choice(sharing)
        kinds.append(lambda: with_place(plan, a.storage, offset=b.offset))
    if any(plan.live):
        t = dice.choice([t for t, n in enumerate(plan.live) if n])
        kinds.append(lambda: replace(plan, live=(*plan.live[:t], plan.live[t] - 1, *plan.live[t + 1 :])))
    return dice.choice(kinds)() if kinds else None


def steps_of(made: Schedule) -> list[Op | None]:
    out: list[Op | None] = []
    section = 0
    for s in made.steps:
        out.extend([None] * (s.section - section))
        section = s.section
        out.append(s.op)
    return out


def touched(made: Schedule, op: Op) -> set[str]:
    return {made.graph.value[r].storage for r in (*op.reads, *op.mutates)}


@pytest.mark.spec("G2", "G3")
@given(schedules(static_graphs(most=8)), st.integers(0, 2**16))
def test_random_damage_in_random_plans_is_refused(made: Schedule, seed: int):
    for plan in plans_of(made).values():
        wrong = damaged(made, plan, random.Random(seed))
        if wrong is not None:
            with pytest.raises(VerifyError):
                replay(made, wrong)


@pytest.mark.spec("G2", "G3", "PP-35")
def test_pinned_bytes_have_a_figure_and_a_slab_of_their_own() -> None:
    names = [Value("x", Layout("f32", "cpu", (64,), (1,)), "x")]
    names += [Value(n, replace(names[0].layout, pinned=n in "bd"), n) for n in "abcde"]
    ops = tuple(Op(n, "aten.relu.default", (Ref(r),), outputs=(n,)) for r, n in zip("xabcd", "abcde", strict=True))
    graph = Graph("g", tuple(names), (Section("inference", (Ref("x"),), ops, (Ref("e"),)),))
    made = schedule(graph, {n: OpFacts(out="aten.relu.out") for n in "abcde"}, inplace=False)
    plan = plan_memory(made, Options(slabs="one"))
    replay(made, plan)
    assert clause_of(made, replace(plan, others=())) == "promise"
    of = {s.device: k for k, s in enumerate(plan.slabs)}
    wrong = with_place(plan, "b", slab=of["cpu"], offset=0)
    assert clause_of(made, wrong) == "device"
