"""Work beside copies of a schedule: only what costs no promised byte is moved, copy by copy where not all can be."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from lowtide.core.options import Options
from lowtide.ir.graph import WAIT, Graph, Layout, Op, Ref, Section, Value
from lowtide.plan import beside
from lowtide.plan.beside import work_beside_copies
from lowtide.plan.choose import plan_memory
from lowtide.plan.replay import replay
from lowtide.schedule.schedule import OpFacts, Schedule, schedule

ARENA = Options(slabs="one")


def copied(seed: int, copies: int = 2) -> Schedule:
    """Work of the host, and between it copies of some results to a device, each used there at once."""
    draw = random.Random(seed)
    values, ops = [Value("x", Layout("u8", "cpu", (64,), (1,)), "x")], list[Op]()
    made: list[str] = []
    at = sorted(draw.sample(range(2, 12), copies))
    for i in range(12):
        reads = (Ref("x"), *(Ref(n) for n in draw.sample(made[-4:], min(len(made), draw.randint(0, 2)))))
        values.append(Value(f"t{i}", Layout("u8", "cpu", (64 * draw.choice((1, 2, 3, 5, 7)),), (1,)), f"t{i}"))
        ops.append(Op(f"t{i}", "aten.cat.default", (reads,), (), (f"t{i}",)))
        made.append(f"t{i}")
        if i in at:
            k, source = at.index(i), draw.choice(made[-4:])
            size = next(v.layout.size for v in values if v.name == source)
            values += [Value(n, Layout("u8", "cuda:0", size, (1,)), n) for n in (f"d{k}", f"y{k}")]
            into = Ref(f"d{k}")
            ops += [
                Op(f"memory{k}", "aten.empty.memory_format", (size,), (), (f"d{k}",)),
                Op(f"begin{k}", "aten.copy_.default", (into, Ref(source), True), (), (), "none", mutates=(f"d{k}",)),
                Op(f"wait{k}", WAIT, (into, Ref(source)), (), (), "none"),
                Op(f"use{k}", "aten.cat.default", ((into,),), (), (f"y{k}",)),
            ]
    returned = (Ref("t11"), *(Ref(f"y{k}") for k in range(copies)))
    section = Section("inference", (Ref("x"),), tuple(ops), returned)
    facts = OpFacts(out="aten.cat.out")
    return schedule(Graph("g", tuple(values), (section,)), {op.name: facts for op in ops if op.name[0] in "tu"})


def gaps(made: Schedule) -> list[int]:
    at = {s.op.name: t for t, s in enumerate(made.steps)}
    return [at[f"wait{k}"] - at[f"begin{k}"] for k in range(sum(n.startswith("wait") for n in at))]


@pytest.mark.spec("IR-58", "PK-17")
@pytest.mark.parametrize(("seed", "moves"), [(0, [True, True]), (104, [True, False]), (249, [False, True])])
def test_what_raises_no_promise_is_moved_where_another_copy_would(seed: int, moves: list[bool]):
    made = copied(seed)
    plan = plan_memory(made, ARENA)
    better, found = work_beside_copies(made, plan, ARENA)
    replay(better, found)
    assert gaps(made) == [1, 1] and [gap > 1 for gap in gaps(better)] == moves
    assert all(f.promised_nbytes <= plan.on(f.device).promised_nbytes for f in found.devices)


@pytest.mark.spec("IR-58")
@pytest.mark.parametrize("bound", ["_ALONE", "_WORK"])
def test_few_are_tried_by_themselves(monkeypatch: pytest.MonkeyPatch, bound: str):
    """The first of these two would promise more."""
    made = copied(249)
    plan = plan_memory(made, ARENA)
    monkeypatch.setattr(beside, bound, 1 if bound == "_ALONE" else 2 * len(made.steps) - 1)
    assert work_beside_copies(made, plan, ARENA) == (made, plan)


@pytest.mark.spec("IR-58")
def test_nothing_is_planned_where_nothing_is_to_move(monkeypatch: pytest.MonkeyPatch):
    made = copied(0)
    plan = plan_memory(made, ARENA)

    def fail(*_: object) -> None:
        raise AssertionError("planned again")

    monkeypatch.setattr(beside, "plan_memory", fail)
    for given, options in (
        (made, Options(slabs="one", reorder=False)),
        (_in_one_group(made), ARENA),
        (_at_once(made), ARENA),
    ):
        better, found = work_beside_copies(given, plan, options)
        assert better is given and found is plan


def _in_one_group(made: Schedule) -> Schedule:
    first, *rest = made.steps
    return replace(made, steps=(replace(first, op=replace(first.op, group="g")), *rest))


def _at_once(made: Schedule) -> Schedule:
    """What is waited for was begun by nobody."""
    steps = (replace(s, op=replace(s.op, args=s.op.args[:2])) if s.begins else s for s in made.steps)
    return replace(made, steps=tuple(steps))
