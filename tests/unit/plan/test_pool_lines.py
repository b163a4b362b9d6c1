"""Pools with symbolic sizes: whatever the sizes, the emitted lines never let two live buffers share a byte."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowtide.core.errors import BugError, OptionError, UserError, VerifyError
from lowtide.ir.symbolic import evaluate, parse_dim, symbols_of
from lowtide.plan.pool_lines import (
    ALIAS,
    ALLOCATE,
    CREATE,
    DESTROY,
    FREE,
    GUESS,
    NULL,
    OTHER,
    REUSE,
    SIZE,
    SLICE,
    Group,
    Info,
    Line,
    groups_of,
    pooled,
    request_of,
    resolved,
    text_of,
)  # fmt: skip
from lowtide.plan.pools import MODES, describe, plan_pools
from lowtide.plan.ranges import LiveRanges, joined, live_in
from lowtide.plan.tree import Request, aligned, allocate, beside, finalise, is_multiple, leaf, temporal, with_room

HINTS = {"s0": 16, "s1": 16}
SIZES = ("(s0*4)", "(s0*s1*4)", "max((s0*64), (s1*8))", "(ceildiv(s0, 3)*100)", "((s0+s1)*12)", "(s1*128)")


def program(seed, many=14, unbacked=True):
    """Random lines: per step allocations and frees, then a line that uses everything alive."""
    draw = random.Random(seed)
    steps, infos, born, dies, binds = draw.randint(2, 9), {}, {}, {}, {}
    for k in range(draw.randint(1, many)):
        name, at = f"b{k}", draw.randrange(steps)
        kind, output = draw.random(), draw.random() < 0.2
        if kind < 0.25:
            nbytes = draw.choice((0, 1, 64, 100, 4096))
            info = Info(nbytes, nbytes, output=output)
        elif kind < 0.35 and unbacked and at:
            before = [u for u, bound in binds.items() if bound < at]
            symbol = draw.choice(before) if before and draw.random() < 0.6 else f"u{k}"
            binds.setdefault(symbol, draw.randrange(at))
            info = Info(parse_dim(f"({symbol}*8)"), None, output=output)
        else:
            dim = parse_dim(draw.choice(SIZES))
            info = Info(dim, evaluate(dim, HINTS), output=output)
        infos[name] = replace(
            info, layout=draw.choice(("", f"f32 {info.nbytes}")), device=draw.choice(("cpu", "cpu", "cuda"))
        )
        born.setdefault(at, []).append(name)
        if draw.random() < 0.9 and not output:
            dies.setdefault(draw.randint(at + 1, steps), []).append(name)
    lines, alive = [], []
    for t in range(steps + 1):
        lines += [Line(FREE, (n,)) for n in dies.get(t, ())]
        alive = [n for n in alive if n not in dies.get(t, ())]
        lines += [Line(ALLOCATE, (n,)) for n in born.get(t, ())]
        alive += born.get(t, [])
        bound = [u for u, at in binds.items() if at == t]
        lines.append(Line(OTHER, (*alive, *bound), text=f"step {t}"))
    return tuple(lines), infos


def run(lines, infos, bindings, alignment):
    """Plays the lines at given sizes and says what is wrong. Unknown sizes are bound by the lines that name them. The pools
    that are left, and the bytes of all that there are at every line that is not about memory."""
    known = {s: v for s, v in bindings.items() if not s.startswith("u")}
    pools, place, made, held = {}, {}, set(), []
    for line in lines:
        if line.kind == SIZE:
            known[line.names[0]] = evaluate(line.dim, known)
        elif line.kind == CREATE:
            assert line.pool not in made, "a pool is created once"
            made.add(line.pool)
            pools[line.pool] = evaluate(line.dim, known)
        elif line.kind in (SLICE, ALIAS):
            assert line.pool in pools, "sliced before it is created"
            at = evaluate(line.dim, known) if line.kind == SLICE else place[line.names[1]][1]
            nbytes = evaluate(infos[line.names[0]].nbytes, known)
            assert at % alignment == 0
            assert at + nbytes <= pools[line.pool]
            place[line.names[0]] = (line.pool, at, nbytes)
        elif line.kind == DESTROY:
            del pools[line.pool]
            for name in line.names[1:]:
                del place[name]
        elif line.kind == OTHER:
            held.append(sum(pools.values()))
            known |= {n: bindings[n] for n in line.names if n.startswith("u")}
            spots = [place[n] for n in line.names if n in infos]
            for k, (pool, at, nbytes) in enumerate(spots):
                assert pool in pools, "used after its pool was destroyed"
                for other, x, size in spots[:k]:
                    assert other != pool or x + size <= at or at + nbytes <= x or 0 in (size, nbytes)
    return set(pools), held


@pytest.mark.spec("PP-13", "PP-14", "PP-15", "PP-16", "PP-18", "PP-26", "PP-28")
@settings(max_examples=250, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(MODES), st.sampled_from([1, 64, 512]))
def test_at_any_sizes_nothing_alive_overlaps_and_nothing_leaks(seed, mode, alignment):
    lines, infos = program(seed)
    out, pools = pooled(lines, infos, mode=mode, alignment=alignment)
    draw = random.Random(seed)
    names = {s for i in infos.values() for s in symbols_of(i.nbytes)}
    for _ in range(8):
        sizes = {s: draw.choice((0, 1, 2, 16, 17, 128, draw.randint(0, 10_000))) for s in sorted(names)}
        left, _ = run(out, infos, sizes, alignment)
        assert left == {p.name for p in pools if p.output}
    assert [x for x in out if x.kind == OTHER] == [x for x in lines if x.kind == OTHER]
    assert pooled(lines, infos, mode=mode, alignment=alignment) == (out, pools)


@pytest.mark.spec("PP-19", "PP-20", "PP-22", "PP-27")
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(MODES))
def test_pools_by_mode_and_device(seed, mode):
    lines, infos = program(seed)
    out, pools = pooled(lines, infos, mode=mode)
    for p in pools:
        assert {r.device for r in p.members} == {p.device}
        outputs = [r for r in p.members if r.output]
        if mode in ("none", "intermediates"):
            assert len(outputs) <= 1
        assert len({r.unbacked for r in p.members}) == 1
        assert sum(x.kind == CREATE and x.pool == p.name for x in out) == 1
        assert sum(x.kind == DESTROY and x.pool == p.name for x in out) == (0 if p.output else 1)
        assert p.pinned == 0 or p.output
    assert len({p.name for p in pools}) == len(pools)


def request(name, nbytes, begin, end, **more):
    hint = nbytes if isinstance(nbytes, int) else evaluate(nbytes, HINTS)
    return Request(name, nbytes, hint, live_in([(begin, end)]), **more)


@pytest.mark.spec("PP-13")
def test_every_branch_of_a_temporal_split():
    root = temporal([leaf(request("a", 128, 0, 2))], 64)
    assert not allocate(root, request("big", 256, 2, 4), 64, last=False), "larger than the place"
    assert root.hint == 128
    assert not allocate(root, request("same time", 64, 1, 3), 64, last=True), "its one overlapping child is a leaf"
    assert allocate(root, request("fits", 128, 2, 4), 64, last=False)
    assert allocate(root, request("smaller", 64, 4, 9), 64, last=False)
    assert allocate(root, request("beside", 64, 5, 6), 64, last=False), "in the filler beside the smaller one"
    assert not allocate(root, request("two", 64, 1, 3), 64, last=True), "overlaps two children"
    assert allocate(root, request("big", 256, 9, 11), 64, last=True)
    assert root.hint == 256
    assert allocate(root, request("above a", 128, 0, 2), 64, last=False), "in what the first one got beside it"
    laid = finalise(root, 64, "p")
    at = dict(laid.offsets)
    assert (at["smaller"], at["beside"], at["a"], at["above a"], laid.nbytes) == (0, 64, 0, 128, 256)


@pytest.mark.spec("PP-14", "PP-09")
@pytest.mark.parametrize(("left", "right", "grown"), [(2, 4, False), (4, 2, True)])
def test_of_two_regions_only_the_right_one_grows(left, right, grown):
    """At steps 2 to 4 the region whose request ends at 2 is free."""
    regions = [temporal([leaf(request(n, 64, 0, end))], 64) for n, end in (("a", left), ("b", right))]
    root = temporal([beside(*regions, 64)], 64)
    assert not allocate(root, request("big", 256, 2, 4), 64, last=False)
    assert allocate(root, request("big", 256, 2, 4), 64, last=True) == grown
    assert root.hint == (64 + 256 if grown else 128)


@pytest.mark.spec("PP-12", "PP-09", "PP-11")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 12), st.integers(1, 5), st.booleans()), max_size=25))
def test_what_a_node_knows_is_what_lies_below_it(rows):
    root = temporal([leaf(request("r", 100, 3, 5))], 64)
    for k, (nbytes, begin, life, last) in enumerate(rows):
        before = (root.hint, root.ranges)
        if not allocate(root, request(f"b{k}", nbytes, begin, begin + life), 64, last=last):
            assert (root.hint, root.ranges) == before
        todo = [root]
        while todo:
            node = todo.pop()
            todo += node.children
            if node.kind == "temporal":
                assert node.hint == max(c.hint for c in node.children)
                for i, c in enumerate(node.children):
                    assert not any(c.ranges.overlaps(d.ranges) for d in node.children[:i])
            elif node.kind == "spatial":
                assert node.hint == -(-node.children[0].hint // 64) * 64 + node.children[1].hint
            if node.children:
                assert node.ranges == joined(c.ranges for c in node.children)


@pytest.mark.spec("PP-17")
def test_a_pool_grows_only_where_it_may():
    pair = [request("a", 128, 0, 4), request("b", 64, 1, 3)]
    assert len(plan_pools(pair, mode="none")) == 2
    (one,) = plan_pools(pair, mode="intermediates")
    assert (one.nbytes, dict(one.offsets)) == (192, {"a": 0, "b": 128})


def late(name, text, begin, end, **more):
    return Request(name, parse_dim(text), GUESS, live_in([(begin, end)]), unbacked=True, **more)


@pytest.mark.spec("PP-18", "PP-08")
@pytest.mark.parametrize("mode", MODES)
def test_a_region_of_unknown_size_takes_one_expression_after_another_without_a_gap(mode):
    rows = [late("first", "(u0*4)", 3, 5), late("next", "(u0*4)", 5, 7), late("idle", "(u0*4)", 8, 9)]
    rows += [late("wider", "(u0*8)", 5, 6), late("beside", "(u0*4)", 4, 6), late("gpu", "(u0*4)", 7, 8, device="cuda")]
    rows += [late("kept", "(u0*4)", 7, 9, output=True), request("small", 64, 5, 6), request("large", 4096, 0, 9)]
    pools = plan_pools(rows, mode=mode)
    assert {tuple(r.name for r in p.members) for p in pools if p.members[0].unbacked} == {
        ("first", "kept", "next"), ("idle",), ("wider",), ("beside",), ("gpu",),
    }  # fmt: skip
    assert [p.members for p in pools if not p.members[0].unbacked] == [
        p.members for p in plan_pools(rows[-2:], mode=mode)
    ]


@pytest.mark.spec("PP-08")
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(MODES), st.sampled_from([0, 1, 10**12]))
def test_unknown_sizes_cost_their_bytes_while_they_live_and_nothing_else(seed, mode, scale):
    """Empty, tiny or huge in the end: at every step the pools hold what they hold without those values, and the bytes of those
    alive."""
    lines, infos = program(seed)
    unknown = {n for n, i in infos.items() if i.hint is None}
    draw = random.Random(seed)
    sizes = {s: scale * draw.randint(1, 9) for n in sorted(unknown) for s in symbols_of(infos[n].nbytes)}
    known = [x for x in lines if x.kind == OTHER or x.names[0] not in unknown]
    rest, _ = pooled([replace(x, names=tuple(n for n in x.names if n not in unknown)) for x in known], infos, mode=mode)
    out, _ = pooled(lines, infos, mode=mode)
    _, held = run(out, infos, HINTS | sizes, 64)
    _, without = run(rest, infos, HINTS | sizes, 64)
    alive = [sum(evaluate(infos[n].nbytes, sizes) for n in x.names if n in unknown) for x in lines if x.kind == OTHER]
    assert held == [a + b for a, b in zip(alive, without, strict=True)]


@pytest.mark.spec("PP-21")
def test_outputs_first_small_to_large_then_the_rest_large_to_small():
    rows = [request("o2", 256, 0, 9, output=True), request("o1", 64, 0, 9, output=True), request("x", 64, 1, 2)]
    pools = plan_pools([*rows, request("y", 640, 1, 3)])
    assert [[r.name for r in p.members] for p in pools] == [["o1"], ["o2"], ["x", "y"]]
    assert describe(pools).startswith("pool0 on cpu: 64 bytes (64 at hint)\n  o1 at 0")


@pytest.mark.spec("PP-22")
def test_a_kept_output_pins_its_pool_and_that_is_said():
    rows = [request("small", 64, 2, 9, output=True), request("large", 6400, 0, 4)]
    assert [p.pinned for p in plan_pools(rows, mode="combined")] == [6400]
    assert sum(p.pinned for p in plan_pools(rows, mode="intermediates")) == 0
    moved = [request("out", 640, 3, 9, output=True), request("before", 640, 0, 3)]
    (pool,) = plan_pools(moved, mode="intermediates")
    assert dict(pool.offsets) == {"before": 0, "out": 0}, "a dead intermediate shares an output's storage"
    with pytest.raises(OptionError, match="no mode 'all'"):
        plan_pools(rows, mode="all")


@pytest.mark.spec("PP-03", "PP-05", "PP-04", "PP-02", "PP-01")
def test_groups_ranges_and_dropped_names():
    lines = (
        Line(ALLOCATE, ("a",)), Line(ALLOCATE, ("gone",)), Line(OTHER, text="k1"),
        Line(REUSE, ("b", "a")), Line(ALLOCATE, ("never",)), Line(OTHER, text="k2"),
        Line(FREE, ("b",)), Line(ALLOCATE, ("foreign",)), Line(FREE, ("gone",)), Line(OTHER, text="k3"),
    )  # fmt: skip
    infos = {n: Info(64, 64) for n in ("a", "gone", "never")} | {"b": Info(64, 64, output=True)}
    groups, clock = groups_of(lines, infos)
    assert clock == (1, 1, 1, 2, 2, 2, 3, 3, 3, 3)
    assert [(g.names, g.begin, g.end, g.output) for g in groups] == [
        (("a", "b"), 1, 5, True), (("gone",), 1, 3, False), (("never",), 2, 4, False),
    ]  # fmt: skip
    out, _ = pooled(lines, infos, removed=frozenset({"gone"}))
    assert not any("gone" in x.names for x in out) and sum(x.kind == NULL for x in out) == 2
    assert Line(ALLOCATE, ("foreign",)) in out
    assert [x.text for x in out if x.kind == OTHER] == ["k1", "k2", "k3"]
    with pytest.raises(UserError, match="twice"):
        groups_of((*lines, Line(FREE, ("b",))), infos)
    with pytest.raises(UserError, match="twice"):
        groups_of((*lines, Line(ALLOCATE, ("a",))), infos)


@pytest.mark.spec("PP-01")
def test_the_lines_that_came_in_are_as_they_were():
    lines, infos = program(3)
    given = list(lines)
    pooled(given, infos, removed=frozenset({"b0"}))
    assert tuple(given) == lines


GONE = (Line(ALLOCATE, ("a",)), Line(ALLOCATE, ("c",)), Line(OTHER, text="k"), Line(REUSE, ("b", "a")))


@pytest.mark.spec("PP-03", "PP-04")
@pytest.mark.parametrize(
    "again", [Line(ALLOCATE, ("b",)), Line(REUSE, ("b", "c")), Line(REUSE, ("d", "a")), Line(FREE, ("a",))], ids=text_of
)
def test_a_name_that_is_made_or_ends_twice_is_refused(again):
    """What was reused has ended: it is neither freed nor reused again."""
    with pytest.raises(UserError, match="twice"):
        groups_of((*GONE, again), dict.fromkeys("abcd", Info(64, 64)))


@pytest.mark.spec("PP-03", "PP-04")
def test_a_reuse_of_what_is_not_ours_stays_and_makes_no_group():
    lines = (*GONE, Line(REUSE, ("new", "foreign")), Line(OTHER, text="k2"), Line(FREE, ("new",)), Line(FREE, ("b",)))
    infos = dict.fromkeys("abc", Info(64, 64))
    assert [g.names for g in groups_of(lines, infos)[0]] == [("a", "b"), ("c",)]
    out, _ = pooled(lines, infos)
    assert [x for x in out if "new" in x.names] == [Line(REUSE, ("new", "foreign")), Line(FREE, ("new",))]
    (alias,) = [x for x in out if x.kind == ALIAS]
    assert alias.names == ("b", "a"), "the old name stays until the pool ends"


@pytest.mark.spec("PP-08")
def test_a_group_asks_for_its_bytes_once_and_an_unknown_size_is_guessed():
    group = Group(("a", "b"), 2, 5, True)
    wide = parse_dim("(s0*4)")
    assert request_of(group, Info(wide, 64, device="cuda")) == Request(
        "a", wide, 64, live_in([(2, 5)]), output=True, device="cuda"
    )
    late = parse_dim("(u0*4)")
    assert request_of(group, Info(late, None)) == Request(
        "a", late, GUESS, live_in([(2, 5)]), output=True, unbacked=True
    )


@pytest.mark.spec("PP-10")
def test_a_request_stands_in_a_tree_once():
    twice = request("a", 64, 0, 2)
    with pytest.raises(BugError, match="placed twice"):
        finalise(temporal([leaf(twice), leaf(twice)], 64), 64, "p")


@pytest.mark.spec("PP-14", "PP-11")
@pytest.mark.parametrize(("room", "extra"), [(100, 0), (128, 0), (129, 1), (300, 172)])
def test_a_place_is_parted_only_where_a_byte_is_left_behind_the_aligned_end(room, extra):
    node = leaf(request("a", 100, 0, 2))
    found = with_room(node, room, 64)
    assert (found is node) == (extra == 0)
    if extra:
        assert found.hint == room and found.children[1].hint == extra and found.children[1].is_empty()
        assert finalise(found, 64, "p").nbytes == 100, "filler takes no bytes in the end"


@pytest.mark.spec("PP-14", "PP-08")
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(MODES), st.sampled_from([1, 64]))
def test_what_is_decided_by_is_what_it_takes_at_the_hints(seed, mode, alignment):
    """No padding is added to what a place is taken to need."""
    lines, infos = program(seed, unbacked=False)
    for p in pooled(lines, infos, mode=mode, alignment=alignment)[1]:
        known = dict(HINTS)
        for name, dim in p.sizes:
            known[name] = evaluate(dim, known)
        assert p.hint == evaluate(p.nbytes, known)


@pytest.mark.spec("PP-17", "PP-20", "PP-22")
@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("none", [["o1"], ["o2"], ["wide"], ["high"]]),
        ("intermediates", [["o1"], ["o2"], ["high", "wide"]]),
        ("outputs", [["o1", "o2"], ["high", "wide"]]),
        ("combined", [["high", "o1", "o2", "wide"]]),
    ],
)
def test_who_shares_with_whom_by_mode(mode, wanted):
    """Two outputs and two intermediates, all alive at once: an output's pool grows for others in ``combined`` only."""
    rows = [request("o1", 64, 0, 9, output=True), request("o2", 128, 0, 9, output=True)]
    rows += [request("wide", 640, 1, 3), request("high", 320, 2, 4)]
    assert [[r.name for r in p.members] for p in plan_pools(rows, mode=mode)] == wanted


@pytest.mark.spec("PP-21")
def test_of_equal_sizes_the_longest_lived_goes_first_then_the_name():
    rows = [request("b", 64, 2, 4), request("a", 64, 2, 4), request("long", 64, 0, 9)]
    rows += [request("p", 64, 5, 9, output=True), request("q", 64, 3, 9, output=True)]
    pools = plan_pools(rows, mode="combined")
    at = {r.name: pools[0].offsets[r.name] for r in rows}
    assert at == {"q": 0, "p": 64, "long": 128, "a": 64, "b": 192}


@pytest.mark.spec("PP-24", "PP-25", "PP-10", "PP-26")
def test_lines_as_text():
    lines = (
        Line(ALLOCATE, ("x",)), Line(OTHER, text="k1"), Line(FREE, ("x",)),
        Line(ALLOCATE, ("y",)), Line(OTHER, text="k2"), Line(FREE, ("y",)),
    )  # fmt: skip
    wide = Info(parse_dim("(s0*64)"), 1024, "f32, (s0, 16)")
    out, _ = pooled(lines, {"x": wide, "y": wide})
    assert [text_of(x) for x in out] == [
        "pool0_n0 = (s0*64)", "pool0_n1 = (s0*64)", "pool0_n2 = max(pool0_n0, pool0_n1)", "pool0 = empty(pool0_n2)",
        "x = slice_of(pool0, 0, f32, (s0, 16))", "k1", "y = x", "k2", "del pool0, x, y",
    ]  # fmt: skip
    alone, _ = pooled(lines[:3], {"x": wide})
    assert [text_of(x) for x in alone][1:3] == [
        "pool0 = empty(pool0_n0, f32, (s0, 16))", "x = slice_of(pool0, 0, f32, (s0, 16))",
    ]  # fmt: skip
    assert [x.dim for x in resolved(alone, {"s0": 3})][:2] == [192, 192]
    with pytest.raises(VerifyError, match="before it is bound"):
        resolved(alone, {})


@pytest.mark.spec("PP-25", "PP-10")
def test_the_same_bytes_under_another_layout_are_a_slice_of_their_own():
    lines = (
        Line(ALLOCATE, ("x",)), Line(OTHER, text="k1"), Line(FREE, ("x",)),
        Line(ALLOCATE, ("y",)), Line(OTHER, text="k2"), Line(FREE, ("y",)),
    )  # fmt: skip
    out, _ = pooled(lines, {"x": Info(64, 64, "f32, (16,)"), "y": Info(64, 64, "i32, (16,)")})
    assert [x.kind for x in out if x.pool] == [CREATE, SLICE, SLICE, DESTROY]


@pytest.mark.spec("PP-26", "PP-20")
def test_the_pool_of_an_output_is_not_destroyed_even_behind_its_last_line():
    lines = (Line(ALLOCATE, ("x",)), Line(OTHER, text="k"), Line(FREE, ("x",)))
    for output in (False, True):
        out, _ = pooled(lines, {"x": Info(64, 64, output=output)})
        assert any(x.kind == DESTROY for x in out) != output


@pytest.mark.spec("PP-15")
@given(st.sampled_from(SIZES), st.sampled_from([1, 4, 64, 512]), st.integers(0, 5000), st.integers(0, 5000))
def test_align_up_as_an_expression(text, alignment, s0, s1):
    dim = parse_dim(text)
    up, plain = (evaluate(d, {"s0": s0, "s1": s1}) for d in (aligned(dim, alignment), dim))
    assert up == -(-plain // alignment) * alignment
    if is_multiple(dim, alignment):
        assert aligned(dim, alignment) is dim
        assert plain % alignment == 0


@pytest.mark.spec("PP-06", "PP-07")
@given(*[st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), max_size=6)] * 2)
def test_live_ranges_against_sets_of_steps(a, b):
    steps = [{t for x, y in spans for t in range(x, y)} for spans in (a, b)]
    one, two = live_in(a), live_in(b)
    assert one.overlaps(two) == two.overlaps(one) == bool(steps[0] & steps[1])
    assert one.contains(two) == (steps[1] <= steps[0])
    assert {t for x, y in joined([one, two]).spans for t in range(x, y)} == steps[0] | steps[1]
    assert all(p[1] < q[0] for p, q in zip(one.spans, one.spans[1:], strict=False))


@pytest.mark.spec("PP-06", "PP-07")
def test_infinite_bounds_and_nothing_at_all():
    assert live_in([(float("-inf"), 3)]).overlaps(live_in([(2, float("inf"))]))
    assert not LiveRanges().overlaps(live_in([(0, 9)]))
    with pytest.raises(UserError, match="empty"):
        _ = LiveRanges().begin


def test_a_thousand_deep_does_not_recurse():
    rows = [request(f"b{k}", parse_dim("(s0*4)"), 0, 9) for k in range(700)]
    (pool,) = plan_pools(rows)
    known = {"s0": 5}
    for name, dim in pool.sizes:
        known[name] = evaluate(dim, known)
    at = sorted(evaluate(pool.offsets[r.name], known) for r in rows)
    assert at == [64 * k for k in range(700)]
    assert max(len(str(d)) for _, d in pool.sizes) < 100
