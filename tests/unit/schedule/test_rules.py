"""Each number that a target gives decides: one of it and one less, or more, are answered differently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from small_loops import flat, nest
from test_inline import PLUS, made

from lowtide.ir.task import Task
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.inline import inline
from lowtide.schedule.joined import joined
from lowtide.schedule.rules import CACHED, Rules
from lowtide.schedule.schedule import schedule

SUM = flat(2, 1, (16,), "a = load 0 r0; b = load 1 r0; c = add a b; store 2 r0 c")
DOUBLED = flat(1, 1, (64,), "a = load 0 r0; b = add a a; store 1 r0 b")
SCALED = flat(2, 1, (64, 4), "a = load 0 4*r0+r1; b = load 1 r0; c = mul a b; store 2 4*r0+r1 c")
NARROW, WIDE = (flat(1, 1, (128, n), f"a = load 0 200*r0+r1; store 1 {n}*r0+r1 a") for n in (130, 140))
REMAINDERS = "a = load 0 8*i0+r0; b = mod a a; c = mod b a; d = mod c a; store 1 8*i0+r0 d"
HEAVY_ROWS = nest((4,), 1, 1, ((8,), REMAINDERS))
ROW_SUMS = nest(
    (4,),
    1,
    1,
    ((8,), "a = load 0 8*i0+r0; s = reduce sum a"),
    ((8,), "a = load 0 8*i0+r0; b = sub a s; store 1 8*i0+r0 b"),
)
ALONG = nest((20,), 1, 1, ((20,), "a = load 0 20*i0+r0; s = reduce sum a"), ((), "store 1 i0 s"))
# In a tile, 16 rows of 256 numbers and 16 more between them.
TURNED = flat(1, 1, (20, 20), "a = load 0 20*r0+r1; b = add a a; store 1 r0+20*r1 b")
OF_ROWS = nest((40,), 1, 1, ((200,), "a = load 0 200*i0+r0; s = reduce sum a"), ((), "store 1 i0 s"))
OF_COLUMNS = nest((200,), 1, 1, ((40,), "a = load 0 200*r0+i0; s = reduce sum a"), ((), "store 1 i0 s"))
WIDE_SUM = flat(2, 1, (64,), "a = load 0 r0; b = load 1 r0; c = add a b; store 2 r0 c")


def inlined(rules: Rules) -> bool:
    """Whether a value is computed where it is read."""
    return len(inline(made([(PLUS, "x", "y"), (SUM, "y w", "z")], "z"), rules=rules).loops) == 1


def twice(rules: Rules) -> bool:
    """Whether a value is computed in each of two that read it, once more than needed: weight 20 each time."""
    remainders = flat(1, 1, (16,), "a = load 0 r0; c = const 5; b = mod a c; d = mod a b; store 1 r0 d")
    lowered = made([(remainders, "x", "y"), (SUM, "y w", "z"), (SUM, "y v", "u")], "z u")
    return len(inline(lowered, rules=rules).loops) == 2


def one_task(a: Task, b: Task, needed: set[str]) -> Callable[[Rules], bool]:
    return lambda rules: isinstance(joined(a, b, needed, rules), Task)


def kept_in_rows(rules: Rules) -> bool:
    """Whether values too costly to compute twice have no memory, since later stages of their row compute them along it."""
    found = joined(Task(HEAVY_ROWS, ("x",), ("h",)), Task(ROW_SUMS, ("h",), ("y",)), {"y"}, rules)
    assert isinstance(found, Task)
    return found.makes == ("y",)


def siblings(rules: Rules) -> bool:
    """Whether two that share 64 numbers of 8 bytes are one kernel."""
    lowered = made([(WIDE_SUM, "x k", "y"), (WIDE_SUM, "w k", "z")], "y z", 64)
    return len(fuse_loops(lowered, schedule(lowered.graph, {}, loops=lowered.loops), rules=rules).lowered.loops) == 1


SUMS = one_task(Task(OF_ROWS, ("x",), ("s",)), Task(OF_COLUMNS, ("x",), ("t",)), {"s", "t"})
ASKED: dict[str, tuple[int | float, int | float, Callable[[Rules], bool]]] = {
    # the last answer that says no, the first that says yes, what is asked
    "most_instructions": (7, 8, one_task(Task(PLUS, ("x",), ("y",)), Task(SUM, ("y", "w"), ("z",)), {"y", "z"})),
    "most_buffers": (3, 4, one_task(Task(PLUS, ("x",), ("y",)), Task(SUM, ("y", "w"), ("z",)), {"y", "z"})),
    "most_streams": (3, 4, one_task(Task(DOUBLED, ("f",), ("g",)), Task(WIDE_SUM, ("g", "w"), ("z",)), {"g", "z"})),
    "kept_row": (7, 8, kept_in_rows),
    "most_idle": (1.07, 1.08, one_task(Task(NARROW, ("x",), ("y",)), Task(WIDE, ("x",), ("z",)), {"y", "z"})),
    "held_nbytes": (
        16 * 272 * 8 - 1,
        16 * 272 * 8,
        one_task(Task(ALONG, ("x",), ("s",)), Task(TURNED, ("x",), ("y",)), {"s", "y"}),
    ),
    "inlined_instructions": (5, 6, inlined),
    "inlined_buffers": (1, 2, inlined),
    "again": (19, 20, twice),
    "large": (64, 65, siblings),
    "least_rows": (65, 64, one_task(Task(DOUBLED, ("f",), ("g",)), Task(SCALED, ("x", "g"), ("y",)), {"g", "y"})),
    "least_shared": (513, 512, siblings),
    "few_columns": (199, 200, SUMS),
    "long_columns": (41, 40, SUMS),
}


@pytest.mark.spec("SC-11")
@pytest.mark.parametrize("question", ASKED)
def test_a_number_decides_where_it_says(question: str) -> None:
    refused, granted, ask = ASKED[question]
    given = {"large": {"least_shared": 513}, "long_columns": {"large": 64, "few_columns": 199}}.get(
        question, {"large": 64}
    )
    rules = replace(CACHED, **given)
    assert not ask(replace(rules, **{question: refused}))
    assert ask(replace(rules, **{question: granted}))


def test_every_number_is_asked_for_here_or_has_a_test_of_its_own() -> None:
    """``rank`` in ``test_fusion.py``, ``whole_columns`` in ``test_unsplit.py``."""
    assert {f.name for f in fields(Rules)} - ASKED.keys() == {"rank", "whole_columns"}
