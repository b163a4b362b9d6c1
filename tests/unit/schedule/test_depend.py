"""Dependencies against their definition, over names, views and effects; and on graphs of ten thousand operations."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.schedule.depend import Dependencies, dependencies, needed_operations
from strategies import static_graphs


def touched(graph: Graph, op: Op) -> set[str]:
    """Storages that an operation reads, changes or makes."""
    return {graph.value[n].storage for n in (*op.reads, *op.mutates, *(o for o in op.outputs if o is not None))}


def written(graph: Graph, op: Op) -> set[str]:
    """Storages that an operation changes or makes."""
    read = {graph.value[n].storage for n in op.reads}
    made = {graph.value[o].storage for o in op.outputs if o is not None} - read
    return made | {graph.value[m].storage for m in op.mutates}


def meets(graph: Graph, a: Op, b: Op) -> bool:
    """Whether two operations must keep their order: one writes what the other touches, or they have one effect."""
    if a.effect is not None and a.effect == b.effect:
        return True
    return bool(written(graph, a) & touched(graph, b) or touched(graph, a) & written(graph, b))


@pytest.mark.spec("SC-13", "SC-14", "SC-21")
@given(static_graphs(most=10))
@settings(max_examples=60, deadline=None)
def test_ancestors_are_the_closure_of_what_meets(graph: Graph) -> None:
    for section in graph.sections:
        found = dependencies(graph, section)
        ops = [op for op in section.ops if not op.view]
        assert found.names == tuple(op.name for op in ops)
        closure: dict[str, int] = {}
        for k, op in enumerate(ops):
            bits = 0
            for j, earlier in enumerate(ops[:k]):
                if meets(graph, earlier, op):
                    bits |= closure[earlier.name] | 1 << j
            closure[op.name] = bits
        assert found.ancestors == closure
        assert {(a, b) for a in found.names for b in found.after[a]} == {
            (a, b) for b in found.names for a in found.before[b]
        }


@pytest.mark.spec("SC-14")
@given(static_graphs(most=10))
@settings(max_examples=40, deadline=None)
def test_what_an_operation_takes_something_from_is_no_mere_ordering(graph: Graph) -> None:
    for section in graph.sections:
        found = dependencies(graph, section)
        writer: dict[str, str] = {}
        for op in section.ops:
            if op.view:
                continue
            read = {graph.value[n].storage for n in (*op.reads, *op.mutates)}
            takes = {writer[s] for s in read if s in writer}
            assert found.ordering[op.name] == set(found.before[op.name]) - takes
            writer.update(dict.fromkeys(written(graph, op), op.name))


@pytest.mark.spec("SC-21", "SC-22")
@given(static_graphs(most=10))
@settings(max_examples=30, deadline=None)
def test_distances_and_waves(graph: Graph) -> None:
    for section in graph.sections:
        found = dependencies(graph, section)

        def hops(n: str, pick, found: Dependencies = found) -> int:
            before = found.before[n]
            return pick(hops(b, pick) for b in before) + 1 if before else 0

        assert found.distance == {n: (hops(n, min), hops(n, max)) for n in found.names}
        assert sorted(n for w in found.waves for n in w) == sorted(found.names)
        for k, wave in enumerate(found.waves):
            assert all(found.distance[n][1] == k for n in wave)
            assert list(wave) == sorted(wave, key=found.names.index)


def made(reads: list[tuple[str, ...]]) -> Graph:
    """Operation ``t<k>`` reads what is listed; ``x`` is given."""
    layout = Layout("f32", "cpu", (4,), (1,))
    ops = tuple(Op(f"t{k}", "aten.cat.default", tuple(map(Ref, r)), (), (f"t{k}",)) for k, r in enumerate(reads))
    values = tuple(Value(n, layout, n) for n in ("x", *(op.name for op in ops)))
    return Graph("g", values, (Section("inference", (Ref("x"),), ops, (Ref(ops[-1].name),)),))


@pytest.mark.spec("SC-14")
def test_operations_of_one_effect_keep_their_order_though_they_share_nothing() -> None:
    graph = made([("x",), ("x",), ("x",)])
    (section,) = graph.sections
    ops = (replace(section.ops[0], effect="random"), section.ops[1], replace(section.ops[2], effect="random"))
    found = dependencies(replace(graph, sections=(replace(section, ops=ops),)), replace(section, ops=ops))
    assert found.before == {"t0": (), "t1": (), "t2": ("t0",)}
    assert found.ordering["t2"] == {"t0"}


@pytest.mark.spec("SC-21", "SC-22")
def test_ten_thousand_operations_deep_and_wide() -> None:
    n = 10_000
    deep = made([("x",), *((f"t{k}",) for k in range(n - 1))])
    found = dependencies(deep, deep.sections[0])
    assert found.ancestors[f"t{n - 1}"] == (1 << (n - 1)) - 1
    assert found.distance[f"t{n - 1}"] == (n - 1, n - 1)
    wide = made([*((("x",),) * (n - 1)), tuple(f"t{k}" for k in range(n - 1))])
    found = dependencies(wide, wide.sections[0])
    assert found.ancestors[f"t{n - 1}"] == (1 << (n - 1)) - 1
    assert [len(w) for w in found.waves] == [n - 1, 1]


@pytest.mark.spec("SC-17", "SC-20")
@given(static_graphs(most=10))
@settings(max_examples=40, deadline=None)
def test_what_is_needed_is_what_can_be_seen(graph: Graph) -> None:
    """Everything that is kept is an effect, a change or read by what is kept; everything else can go at once."""
    kept = needed_operations(graph, "aten.add.Tensor")
    storage = {v.name: v.storage for v in graph.values}
    returned = {storage[r] for s in graph.sections for a in s.returns if (r := getattr(a, "name", None)) is not None}
    changed = {storage[m] for op in graph.ops for m in op.mutates}
    ops = [op for op in graph.ops if not op.view]
    for k, op in enumerate(ops):
        made_ = {storage[o] for o in op.outputs if o is not None} - {storage[r] for r in op.reads}
        later = {storage[r] for x in ops[k + 1 :] if x.name in kept for r in (*x.reads, *x.mutates)}
        needed = op.target != "aten.add.Tensor" or op.mutates or made_ & (returned | changed | later)
        assert (op.name in kept) == bool(needed)
