"""Two loops made one: what is refused, and that what is not computes the same in any order of points."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from loop_programs import Run, fill, one_by_one
from small_loops import flat, nest

from lowtide.ir.interpret import interpret
from lowtide.ir.loops import Loop, check_loop
from lowtide.ir.task import Task
from lowtide.schedule.joined import joined

SIZE = 1024  # elements of every buffer: more than any index here reaches


def compute(tasks: list[Task], run: Run) -> Mapping[str, np.ndarray]:
    """What is in every buffer after the tasks ran one after the other."""
    held: dict[str, np.ndarray] = {}
    for t in tasks:
        for n in t.given:
            held.setdefault(n, fill(n, "i64", SIZE))
        for n in t.makes:
            held[n] = np.full(SIZE, 77, np.int64)
        run(t.loop, [held[n] for n in (*t.given, *t.makes)])
    return held


@dataclass(frozen=True)
class Pair:
    """Two tasks. ``needed``: values that others read. ``because``: words of the refusal; None where they may be one."""

    a: Task
    b: Task
    needed: str
    because: str | None = None


def task(loop: Loop, given: str, makes: str = "") -> Task:
    return Task(loop, tuple(given.split()), tuple(makes.split()))


def rows(stages: str = "4*i0+r0", n: int = 4, m: int = 4, out: str = "4*i0+r0") -> Loop:
    """Every element of rows, doubled."""
    return nest((n,), 1, 1, ((m,), f"a = load 0 {stages}; b = add a a; store 1 {out} b"))


def sums(index: str, n: int = 4, m: int = 4, kind: str = "sum") -> Loop:
    return nest((n,), 1, 1, ((m,), f"a = load 0 {index}; s = reduce {kind} a"), ((), "store 1 i0 s"))


def turned(n: int, m: int) -> Loop:
    """Every element of rows, doubled and stored in columns."""
    return flat(1, 1, (n, m), f"a = load 0 {m}*r0+r1; b = add a a; store 1 r0+{n}*r1 b")


TURNED = "a = load 0 8*i0+4*i1+r0; b = load 1 4*i0+8*i1+r0; c = add a b; s = reduce sum c"
DOUBLED = flat(1, 1, (4, 4), "a = load 0 4*r0+r1; b = add a a; store 1 4*r0+r1 b")
X = "load 0 4*i0+r0"
CROSSED = "a = load 0 4*i0+2*r0+r1; b = load 1 4*i0+r0+2*r1; c = add a b; store 2 4*i0+2*r0+r1 c"
SUM, LAST = ((4,), f"a = {X}; s = reduce sum a"), ((), "store 2 i0 s")
CENTRED = nest((4,), 1, 1, SUM, ((4,), f"b = {X}; d = sub b s; store 1 4*i0+r0 d"))
Y = "load 0 4*r0+i0"  # down a column
COLUMN = ((4,), f"a = {Y}; s = reduce sum a")
DOWN = ((4,), f"a = {Y}; s = reduce max a")
TURNING = "a = load 0 4*r0+r1; b = load 1 r0+4*r1; c = mul a b"
FIRST = "n = index r0; c = const 3; k = lt n c"  # true at the first three points
LONG = 1 << 14
MOST = 1 << 13  # columns that are summed however few their rows are
MANY = 1 << 16  # columns whose sums would not stay in cache
WIDE = 20  # rows of which some are turned: more than the fewest that are worth it
OTHER = "other outer points"
ELSEWHERE = "at other points"

PAIRS: dict[str, Pair] = {
    # what is read was stored at the same outer point
    "rows and their sums": Pair(task(rows(), "x", "y"), task(sums("4*i0+r0"), "y", "s"), "s"),
    "rows and their sums, kept": Pair(task(rows(), "x", "y"), task(sums("4*i0+r0"), "y", "s"), "y s"),
    "rows read by columns": Pair(
        task(rows(), "x", "y"), task(nest((4,), 1, 1, ((4,), "a = load 0 4*r0+i0; store 1 4*i0+r0 a")), "y", "z"), "y z", OTHER
    ),
    "always the first row": Pair(task(rows(), "x", "y"), task(sums("r0"), "y", "s"), "y s", OTHER),
    "every second row": Pair(task(rows(), "x", "y"), task(sums("8*i0+r0"), "y", "s"), "y s", OTHER),
    "another row": Pair(task(rows(), "x", "y"), task(sums("4*i0+r0+4"), "y", "s"), "y s", OTHER),
    "the sum of another row": Pair(
        task(sums("4*i0+r0"), "x", "s"), task(nest((4,), 1, 1, ((), "a = load 0 i0+1; store 1 i0 a")), "s", "t"), "s t", OTHER
    ),
    "one more than was stored": Pair(task(rows(m=3), "x", "y"), task(sums("4*i0+r0"), "y", "s"), "y s", OTHER),
    "the rest of a row": Pair(task(rows(), "x", "y"), task(sums("4*i0+r0+1", m=3), "y", "s"), "s"),
    "past the end of a row": Pair(task(rows(), "x", "y"), task(sums("4*i0+r0+2", m=3), "y", "s"), "y s", OTHER),
    "before a row": Pair(
        task(rows(out="4*i0+r0+1"), "x", "y"), task(sums("4*i0+r0"), "y", "s"), "y s", OTHER
    ),
    "every second one": Pair(
        task(rows(out="8*i0+2*r0"), "x", "y"), task(sums("8*i0+2*r0+2", m=3), "y", "s"), "s"
    ),
    "between every second one": Pair(
        task(rows(out="8*i0+2*r0"), "x", "y"), task(sums("8*i0+r0", m=7), "y", "s"), "y s", OTHER
    ),
    "beside every second one": Pair(
        task(rows(out="8*i0+2*r0"), "x", "y"), task(sums("8*i0+2*r0+1"), "y", "s"), "y s", OTHER
    ),
    "looked up": Pair(
        task(rows(), "x", "y"),
        task(nest((4,), 2, 1, ((), "n = load 0 i0; c = const 4; k = mod n c; a = load 1 4*i0+@k; store 2 i0 a")), "j y", "t"),
        "y t",
        OTHER,
    ),
    "stored in two places": Pair(
        task(nest((4,), 1, 1, ((2,), f"a = {X}; store 1 4*i0+r0 a"), ((2,), f"b = {X}; store 1 4*i0+r0+2 b")), "x", "y"),
        task(sums("4*i0+r0"), "y", "s"),
        "y s",
        OTHER,
    ),
    "stored here and there": Pair(
        task(nest((4,), 1, 1, ((4,), f"{FIRST}; a = {X}; store 1 4*i0+r0 a k")), "x", "y"),
        task(sums("4*i0+r0"), "y", "s"),
        "y s",
        OTHER,
    ),
    "added up in a place": Pair(
        task(nest((4,), 2, 0, ((4,), "a = load 0 4*i0+r0; accumulate 1 i0 a")), "x z"),
        task(nest((4,), 1, 1, ((), "a = load 0 i0; store 1 i0 a")), "z", "t"),
        "t",
        "is changed by one and touched by the other",
    ),
    # reductions are complete before they are read
    "a sum in all of its row": Pair(
        task(sums("4*i0+r0"), "x", "s"),
        task(nest((4,), 2, 1, ((4,), "a = load 0 4*i0+r0; s = load 1 i0; d = sub a s; store 2 4*i0+r0 d")), "x s", "y"),
        "y",
    ),
    "a sum of what a sum was taken from": Pair(
        task(nest((4,), 1, 1, SUM, ((4,), f"b = {X}; d = sub b s; store 1 4*i0+r0 d")), "x", "y"),
        task(nest((4,), 2, 1, ((4,), f"a = {X}; b = load 1 4*i0+r0; c = mul a b; s = reduce sum c"), LAST), "x y", "s"),
        "y s",
    ),
    "rows, and what is left of them without their sums": Pair(
        task(rows(), "x", "y"), task(nest((4,), 1, 1, SUM, ((4,), f"b = {X}; d = sub b s; store 1 4*i0+r0 d")), "y", "z"), "y z"
    ),
    "turned within a row": Pair(
        task(nest((4,), 2, 1, ((2, 2), CROSSED)), "x w", "y"),
        task(nest((4,), 2, 1, ((2, 2), CROSSED)), "x y", "z"),
        "z",
    ),
    # a common space
    "other numbers of rows": Pair(task(rows(), "x", "y"), task(sums("4*i0+r0", n=3), "x", "s"), "y s", "other numbers of points"),
    "rows of rows": Pair(
        task(rows(), "x", "y"),
        task(nest((2, 4), 1, 1, ((2,), "a = load 0 8*i0+2*i1+r0; s = reduce sum a"), ((), "store 1 4*i0+i1 s")), "x", "s"),
        "y s",
        "other numbers of points",
    ),
    "rows as two dimensions": Pair(
        task(rows(), "x", "y"),
        task(nest((2, 2), 1, 1, ((4,), "a = load 0 8*i0+4*i1+r0; s = reduce sum a"), ((), "store 1 2*i0+i1 s")), "y", "s"),
        "s",
    ),
    "rows in two dimensions, always the first of the second one": Pair(
        task(nest((2, 2), 1, 1, ((4,), "a = load 0 8*i0+4*i1+r0; b = add a a; store 1 8*i0+4*i1+r0 b")), "x", "y"),
        task(nest((2, 2), 1, 1, ((4,), "a = load 0 8*i0+r0; s = reduce sum a"), ((), "store 1 2*i0+i1 s")), "y", "s"),
        "y s",
        OTHER,
    ),
    "rows that the other counts in two dimensions": Pair(
        task(rows(), "x", "y"),
        task(
            nest((2, 2), 2, 1, ((4,), TURNED), ((), "store 2 2*i0+i1 s")),
            "y w",
            "s",
        ),
        "s",
    ),
    "elements into rows": Pair(task(DOUBLED, "x", "y"), task(sums("4*i0+r0"), "y", "s"), "s"),
    "elements of which rows take some": Pair(task(DOUBLED, "x", "y"), task(sums("4*i0+r0", m=3), "y", "s"), "y s", ELSEWHERE),
    "elements of the rows behind": Pair(task(DOUBLED, "x", "y"), task(sums("4*i0+r0+4"), "y", "s"), "y s", ELSEWHERE),
    "elements that overlap": Pair(
        task(flat(1, 1, (16,), "a = load 0 r0; b = add a a; store 1 r0 b"), "x", "y"),
        task(sums("i0+r0"), "y", "s"),
        "y s",
        "once per point",
    ),
    "elements seen from the side": Pair(
        task(DOUBLED, "x", "y"),
        task(flat(1, 1, (4, 4), "a = load 0 4*r1+r0; b = add a a; store 1 4*r0+r1 b"), "y", "z"),
        "y z",
    ),
    "a total among rows": Pair(
        task(flat(1, 0, (4, 4), "a = load 0 4*r0+r1; accumulate 0 60 a"), "x"),
        task(sums("4*i0+r0"), "q", "s"),
        "s",
        "not pointwise",
    ),
    # sums of columns, row by row
    "rows and the sums of their columns": Pair(task(rows(), "x", "y"), task(sums("4*r0+i0"), "y", "s"), "s"),
    "elements and the sums of their columns": Pair(task(DOUBLED, "x", "y"), task(sums("4*r0+i0"), "y", "s"), "y s"),
    "sums of columns and what walks with them": Pair(task(sums("4*r0+i0"), "x", "s"), task(rows(), "x", "y"), "y s"),
    "sums of columns of another tensor": Pair(task(rows(), "x", "y"), task(sums("4*r0+i0"), "x", "s"), "y s"),
    "sums of the columns of rows in between": Pair(
        task(rows(n=2), "x", "y"), task(sums("8*r0+i0", n=8, m=2), "y", "s"), "y s", OTHER
    ),
    "sums of columns of other rows": Pair(task(rows(), "x", "y"), task(sums("4*r0+i0+4"), "y", "s"), "y s", OTHER),
    "sums of columns that are read at once": Pair(
        task(nest((4,), 1, 2, ((4,), f"a = {X}; b = add a a; store 1 4*i0+r0 b; fold 2 r0 b")), "x", "y s"),
        task(nest((4,), 2, 1, ((4,), "a = load 0 4*i0+r0; b = load 1 r0; c = add a b; store 2 4*i0+r0 c")), "x s", "z"),
        "y s z",
        OTHER,
    ),
    "sums of columns that start from something": Pair(
        task(rows(), "x", "y"),
        task(nest((4,), 2, 1, COLUMN, ((), "b = load 1 i0; c = add s b; store 2 i0 c")), "y z", "s"),
        "y s",
        "used again before they are stored",
    ),
    "sums of columns around their means": Pair(
        task(rows(), "x", "y"),
        task(nest((4,), 1, 1, COLUMN, ((4,), f"b = {Y}; c = sub b s; d = reduce sum c"), ((), "store 1 i0 d")), "y", "s"),
        "y s",
        "used again before they are stored",
    ),
    "the greatest of columns": Pair(task(rows(), "x", "y"), task(sums("4*r0+i0", kind="max"), "y", "s"), "y s"),
    "greatest and sums of the columns of what is not needed again": Pair(
        task(rows(), "x", "y"),
        task(
            nest((4,), 1, 2, ((4,), f"a = {Y}; s = reduce max a; t = reduce sum a"), ((), "store 1 i0 s; store 2 i0 t")),
            "y",
            "s t",
        ),
        "s t",
    ),
    "sums of the greatest of columns": Pair(
        task(rows(), "x", "y"),
        task(nest((4,), 1, 1, ((4,), f"a = {Y}; s = reduce max a"), ((4,), "t = reduce sum s"), ((), "store 1 i0 t")), "y", "s"),
        "y s",
        "used again before they are stored",
    ),
    "the products of columns": Pair(
        task(rows(), "x", "y"), task(sums("4*r0+i0", kind="prod"), "y", "s"), "y s", "no partial prod"
    ),
    "sums of more columns than are summed row by row": Pair(
        task(sums(f"{MANY}*i0+r0", n=512, m=MANY), "x", "t"), task(sums(f"{MANY}*r0+i0", n=MANY, m=512), "x", "s"), "s t",
        "more than 16384 columns",
    ),
    "few rows, and sums of many columns": Pair(
        task(sums(f"{LONG}*i0+r0", n=40, m=LONG), "x", "t"), task(sums(f"{LONG}*r0+i0", n=LONG, m=40), "x", "s"), "s t",
        "fewer than 128 rows",
    ),
    "few rows, and sums and extremes of many columns": Pair(
        task(sums(f"{MOST}*i0+r0", n=40, m=MOST), "x", "t"),
        task(
            nest(
                (MOST,),
                1,
                2,
                ((40,), f"a = load 0 {MOST}*r0+i0; s = reduce sum a; t = reduce max a"),
                ((), "store 1 i0 s; store 2 i0 t"),
            ),
            "x",
            "s u",
        ),
        "s t u",
        "fewer than 128 rows",
    ),
    # tiles of rows that some walk across
    "rows and what lies turned": Pair(
        task(sums(f"{WIDE}*i0+r0", n=WIDE, m=WIDE), "x", "s"), task(turned(WIDE, WIDE), "x", "y"), "s y",
    ),
    "longer rows than a tile holds, and what lies turned": Pair(
        task(sums(f"{LONG}*i0+r0", n=WIDE, m=LONG), "x", "s"), task(turned(WIDE, LONG), "x", "y"), "s y",
        "no tile of it would stay in cache",
    ),
    "sums of columns, and what lies turned, of longer rows than a tile holds": Pair(
        task(sums(f"{LONG}*r0+i0", n=LONG, m=MOST), "x", "s"), task(turned(MOST, LONG), "x", "y"), "s y",
        "no tile of it would stay in cache",
    ),
    "as many rows as columns, of which others than sums are taken": Pair(
        task(rows(), "x", "y"), task(sums("4*r0+i0", kind="prod"), "x", "s"), "y s", "no partial prod"
    ),
    "sums of columns in one place": Pair(
        task(rows(), "x", "y"),
        task(nest((4,), 1, 1, COLUMN, ((), "store 1 0 s")), "y", "s"),
        "y s",
        "places of their own",
    ),
    "sums of columns and a part of them": Pair(
        task(rows(), "x", "y"),
        task(nest((4,), 1, 2, COLUMN, ((2,), f"b = {Y}; t = reduce sum b"), ((), "store 1 i0 s; store 2 i0 t")), "y", "s t"),
        "y s t",
        "over different rows",
    ),
    "columns, copied and summed": Pair(
        task(rows(), "x", "y"),
        task(nest((4,), 1, 2, ((4,), f"a = {Y}; store 2 4*r0+i0 a; s = reduce sum a"), ((), "store 1 i0 s")), "y", "s z"),
        "y s z",
        "more with the columns than summing",
    ),
    # columns, walked through side by side
    "softmaxes of columns stored as rows, and what lies turned": Pair(
        task(nest((4,), 1, 1, DOWN, ((4,), f"b = {Y}; d = sub b s; store 1 4*i0+r0 d")), "x", "y"),
        task(flat(2, 1, (4, 4), f"{TURNING}; store 2 4*r0+r1 c"), "y z", "w"),
        "w",
    ),
    "softmaxes of columns, and what lies turned": Pair(
        task(nest((4,), 1, 1, DOWN, ((4,), f"b = {Y}; d = sub b s; store 1 4*r0+i0 d")), "x", "y"),
        task(flat(2, 1, (4, 4), f"{TURNING}; store 2 4*r0+r1 c"), "y z", "w"),
        "w",
        "the other across",
    ),
    "softmaxes of columns, and what lies as they do": Pair(
        task(nest((4,), 1, 1, DOWN, ((4,), f"b = {Y}; d = sub b s; store 1 4*r0+i0 d")), "x", "y"),
        task(flat(1, 1, (4, 4), "a = load 0 4*r0+r1; b = add a a; store 1 4*r0+r1 b"), "y", "w"),
        "w",
        "used again before they are stored",
    ),
    # rows made of elements
    "elements, and a factor per row": Pair(
        task(flat(1, 1, (64,), "a = load 0 r0; b = add a a; store 1 r0 b"), "f", "g"),
        task(flat(2, 1, (64, 4), "a = load 0 4*r0+r1; b = load 1 r0; c = mul a b; store 2 4*r0+r1 c"), "x g", "y"),
        "y",
    ),
    "elements repeated along a range in the middle": Pair(
        task(flat(1, 1, (64, 4), "a = load 0 4*r0+r1; b = add a a; store 1 4*r0+r1 b"), "x", "y"),
        task(flat(1, 1, (64, 3, 4), "a = load 0 4*r0+r2; store 1 12*r0+4*r1+r2 a"), "y", "z"),
        "y z",
    ),
    "a factor that the next row reads": Pair(
        task(flat(1, 1, (LONG,), "a = load 0 r0; b = add a a; store 1 r0 b"), "f", "g"),
        task(flat(2, 1, (LONG - 1, LONG), "a = load 0 r1; b = load 1 r0+1; c = mul a b; store 2 r0 c"), "x g", "y"),
        "y",
        "each over points of its own",
    ),
    "a factor per column": Pair(
        task(flat(1, 1, (LONG,), "a = load 0 r0; b = add a a; store 1 r0 b"), "f", "g"),
        task(flat(2, 1, (2, LONG), f"a = load 0 {LONG}*r0+r1; b = load 1 r1; c = mul a b; store 2 {LONG}*r0+r1 c"), "x g", "y"),
        "y",
        "each over points of its own",
    ),
    "a factor per row of what rows are summed up to": Pair(
        task(flat(1, 1, (4,), "a = load 0 r0; b = add a a; store 1 r0 b"), "f", "g"),
        task(nest((4,), 2, 1, ((4,), f"a = {X}; b = load 1 i0; c = mul a b; s = reduce sum c"), LAST), "x g", "s"),
        "s",
    ),
    "a factor per part of a row": Pair(
        task(flat(1, 1, (8,), "a = load 0 r0; b = add a a; store 1 r0 b"), "f", "g"),
        task(
            nest((4,), 2, 1, ((2, 3), "a = load 0 3*i0+12*r0+r1; b = load 1 i0+4*r0; c = mul a b; s = reduce sum c"), LAST),
            "x g",
            "s",
        ),
        "s",
    ),
    "sums of columns, each doubled": Pair(
        task(sums("4*r0+i0"), "x", "s"), task(flat(1, 1, (4,), "a = load 0 r0; b = add a a; store 1 r0 b"), "s", "t"), "t"
    ),
    # a value that later stages read again
    "rows, of which only what is left without their sums is needed": Pair(
        task(rows(), "x", "y"), task(CENTRED, "y", "z"), "z"
    ),
    "rows of something that is changed before they are read again": Pair(
        task(nest((4,), 2, 1, ((4,), f"a = {X}; b = load 1 i0; c = mul a b; store 2 4*i0+r0 c")), "x f", "y"),
        task(
            nest((4,), 2, 1, SUM, ((), "store 1 i0 s"), ((4,), f"b = {X}; d = sub b s; store 2 4*i0+r0 d")), "y f", "z"
        ),
        "z",
    ),
    # what changes
    "changed at its own points": Pair(
        task(rows(), "x", "y"),
        task(nest((4,), 2, 0, ((), "a = load 0 4*i0; b = load 1 i0; c = add a b; store 1 i0 c")), "y z"),
        "y",
    ),
    "changed where others read": Pair(
        task(sums("r0"), "z", "s"),
        task(nest((4,), 2, 0, ((), "a = load 0 i0; store 1 i0 a")), "w z"),
        "s",
        "is changed at other outer points",
    ),
    "changed beside what it reads": Pair(
        task(nest((4,), 1, 1, ((), "a = load 0 i0; b = load 0 i0+1; c = add a b; store 1 i0 c")), "z", "t"),
        task(nest((4,), 2, 0, ((), "a = load 0 i0; store 1 i0 a")), "w z"),
        "t",
        "is changed at other outer points",
    ),
    "changed by rows, read a little further": Pair(
        task(sums("4*i0+r0", m=5), "z", "s"),
        task(nest((4,), 2, 0, ((4,), "a = load 0 4*i0+r0; store 1 4*i0+r0 a")), "w z"),
        "s",
        "is changed at other outer points",
    ),
    "changed first": Pair(
        task(nest((4,), 2, 0, ((), "a = load 0 i0; store 1 i0 a")), "w z"),
        task(sums("i0+r0"), "z", "s"),
        "s",
        "is changed by one and touched by the other",
    ),
    "changed here and there, read again": Pair(
        task(flat(1, 1, (8,), "a = load 0 r0; store 1 r0 a"), "z", "t"),
        task(
            flat(
                3,
                1,
                (8,),
                f"a = load 0 r0; b = load 1 r0; {FIRST}; store 1 r0 a k; d = load 1 r0; e = add b d; f = load 2 r0; g = add e f;"
                "store 3 r0 g",
            ),
            "w z t",
            "u",
        ),
        "t u",
    ),
    # a load that happens only here and there
    "read here and there": Pair(
        task(flat(1, 1, (8,), "a = load 0 r0; b = add a a; store 1 r0 b"), "x", "y"),
        task(flat(1, 1, (8,), f"{FIRST}; a = load 0 r0 k; store 1 r0 a"), "y", "z"),
        "y z",
    ),
    "read here and there, then all": Pair(
        task(flat(1, 1, (8,), "a = load 0 r0; b = add a a; store 1 r0 b"), "x", "y"),
        task(flat(1, 1, (8,), f"{FIRST}; a = load 0 r0 k; b = load 0 r0; d = sub b a; store 1 r0 d"), "y", "z"),
        "y z",
    ),
}  # fmt: skip


@pytest.mark.spec("SC-24", "SC-25", "SC-26")
@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name: str) -> None:
    pair = PAIRS[name]
    found = joined(pair.a, pair.b, set(pair.needed.split()))
    if pair.because is not None:
        assert isinstance(found, str)
        assert pair.because in found
        return
    assert isinstance(found, Task), found
    check_loop(found.loop)
    assert set(pair.needed.split()) <= {*found.makes, *found.given}
    changed = {*pair.a.changes, *pair.b.changes}
    for seed in range(6):
        want = compute([pair.a, pair.b], one_by_one(seed))
        got = compute([found], one_by_one(seed + 1))
        for n in {*pair.needed.split(), *changed}:
            assert np.array_equal(want[n], got[n]), (n, str(found.loop))


@pytest.mark.parametrize("name", PAIRS)
def test_under_any_names_the_same_is_made(name: str) -> None:
    """Names that would sort otherwise, or look like numbers; each time what was made for the names before serves."""
    p = PAIRS[name]
    found = joined(p.a, p.b, set(p.needed.split()))
    values = sorted({*p.a.given, *p.a.makes, *p.b.given, *p.b.makes})
    many = len(values)
    for new in (values, [f"w{many - k}" for k in range(many)], [str(k + 1) for k in range(many)]):
        called = dict(zip(values, new, strict=True))
        wanted = found if isinstance(found, str) else renamed(found, called)
        again = joined(renamed(p.a, called), renamed(p.b, called), {called[n] for n in p.needed.split()})
        assert again == (
            re.sub(r"%(\w+)", lambda m, c=called: f"%{c[m[1]]}", wanted) if isinstance(wanted, str) else wanted
        )


def renamed(t: Task, names: Mapping[str, str]) -> Task:
    return Task(t.loop, tuple(names[n] for n in t.given), tuple(names[n] for n in t.makes))


@pytest.mark.spec("SC-25", "SC-31")
def test_a_value_that_is_read_beside_where_it_is_stored_keeps_its_memory() -> None:
    """Its neighbour in the row is another point's value, which is not at hand."""
    found = joined(PAIRS["the rest of a row"].a, PAIRS["the rest of a row"].b, {"s"})
    assert isinstance(found, Task)
    assert found.makes == ("y", "s")
    assert [s.inner for s in found.loop.stages] == [(4,), (3,), ()]


@pytest.mark.spec("SC-31")
@pytest.mark.parametrize(
    ("maker", "makes"),
    [
        (rows(), ("z",)),
        (nest((4,), 1, 1, ((4,), f"a = {X}; b = scan sum a; store 1 4*i0+r0 b")), ("y", "z")),
        (nest((4,), 1, 1, SUM, ((4,), f"a = {X}; b = mul a s; store 1 4*i0+r0 b")), ("z",)),
    ],
    ids=["pointwise", "a running sum", "behind a sum"],
)
def test_what_later_stages_of_a_row_read_is_computed_again_where_that_can_be(
    maker: Loop, makes: tuple[str, ...]
) -> None:
    a, b = task(maker, "x", "y"), task(CENTRED, "y", "z")
    found = joined(a, b, {"z"})
    assert isinstance(found, Task)
    assert found.makes == makes
    runs = (interpret, interpret) if any(x.op == "scan" for x in maker.body) else (one_by_one(0), one_by_one(1))
    want, got = compute([a, b], runs[0]), compute([found], runs[1])
    assert all(np.array_equal(want[n], got[n]) for n in makes)


@pytest.mark.spec("SC-31", "G12")
def test_a_row_that_is_stored_in_two_places_at_a_time_is_not_joined_with_what_reads_it() -> None:
    halves = nest((4,), 1, 1, ((2,), "a = load 0 4*i0+r0; store 1 4*i0+r0 a; store 1 4*i0+r0+2 a"))
    found = joined(task(halves, "x", "y"), task(CENTRED, "y", "z"), {"z"})
    assert found == "%y is read at other outer points than it is stored at"


@pytest.mark.spec("SC-24")
@pytest.mark.parametrize("kind", ["scan sum", "reduce argmax"])
def test_what_has_an_order_of_points_shares_its_stage_with_nothing(kind: str) -> None:
    ordered = nest((4,), 1, 1, ((4,), f"a = load 0 4*i0+r0; s = {kind} a; store 1 4*i0+r0 s"))
    if kind == "reduce argmax":
        ordered = nest((4,), 1, 1, ((4,), f"a = load 0 4*i0+r0; s = {kind} a"), ((), "store 1 i0 s"))
    for a, b in ((task(ordered, "x", "t"), task(rows(), "x", "y")), (task(rows(), "x", "y"), task(ordered, "x", "t"))):
        found = joined(a, b, {"y", "t"})
        assert isinstance(found, Task)
        stages = [s for s in found.loop.stages if any(x.op in ("scan", "reduce") for x in s.body)]
        assert all(not any(x.op == "add" for x in s.body) for s in stages)
