"""Slabs between calls: kept up to the limit, given back when asked, never by a call that failed, and safe from threads."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from lowtide.codegen.host import emit
from lowtide.core.errors import BugError
from lowtide.core.options import Options
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.plan.choose import plan_memory
from lowtide.program import Consumed, Entry, Header, Program, SlabUse
from lowtide.runtime.load import exact, load, release_retained, retained_nbytes
from lowtide.schedule.schedule import OpFacts, schedule

pytestmark = pytest.mark.torch
KIB = 1 << 10


@pytest.fixture(autouse=True)
def nothing_retained():
    gc.collect()
    release_retained()
    yield
    release_retained()


def slab_program(body: str, kept: bool = True) -> Program:
    header = Header("t", "f32", (4, 4), (4, 1), 0)
    source = (
        f"def inference(args, run):\n    x, = args\n    args.clear()\n    h0 = run.take(0, None); t, = h0\n    {body}\n"
    )
    return Program(
        source, (Entry("inference", (SlabUse(0, KIB, "cpu", (header,), kept),)),), {"add": "op:aten.add.out"}
    )


GIVES = "add(x, x, out=t); y = x + t; del t; run.give(0, h0); del h0\n    return [y]"
FAILS = "add(x, x, out=t); x.view(3)"


def section(body: str = GIVES, retain: int = 1 << 20, kept: bool = True):
    return load(slab_program(body, kept), {}, retain=retain)[0]


def test_a_kept_slab_serves_the_next_call():
    run, x = section(), torch.ones(4, 4)
    assert torch.equal(run([x])[0], 3 * x)
    assert retained_nbytes() == KIB
    first = run.slabs.idle[0][0].held[0].data_ptr()
    run([x])
    assert run.slabs.idle[0][0].held[0].data_ptr() == first
    assert retained_nbytes() == KIB
    assert release_retained() == KIB
    assert retained_nbytes() == 0 == release_retained()
    assert torch.equal(run([x])[0], 3 * x)


def test_no_more_than_the_limit_is_kept():
    x = torch.ones(4, 4)
    run, other, third = section(), section(retain=KIB), section(retain=2 * KIB)
    run([x])
    other([x])
    assert retained_nbytes() == KIB
    third([x])
    assert retained_nbytes() == 2 * KIB


def test_what_is_not_to_be_kept_is_not():
    section(kept=False)([torch.ones(4, 4)])
    assert retained_nbytes() == 0


@pytest.mark.spec("RT-16")
def test_a_call_that_fails_gives_nothing_back():
    run = section(FAILS)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="shape"):
            run([torch.ones(4, 4)])
    assert retained_nbytes() == 0
    good = section()
    good([torch.ones(4, 4)])
    assert retained_nbytes() == KIB


def test_bytes_end_with_their_program():
    """A dropped variant must not eat up the process's limit."""
    run = section()
    run([torch.ones(4, 4)])
    assert retained_nbytes() == KIB
    del run
    gc.collect()
    other = section(retain=KIB)
    other([torch.ones(4, 4)])
    assert len(other.slabs.idle[0]) == 1
    assert retained_nbytes() == KIB


@pytest.mark.spec("RT-30")
def test_calls_side_by_side():
    run, wrong = section(), []

    def many(value: float) -> None:
        x = torch.full((4, 4), value)
        for _ in range(200):
            if not torch.equal(run([x])[0], 3 * x):
                wrong.append(value)

    threads = [threading.Thread(target=many, args=(float(i),)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert retained_nbytes() == KIB * len(run.slabs.idle[0])
    assert 1 <= len(run.slabs.idle[0]) <= 4


def test_poison_shows_what_was_never_written():
    run = load(
        slab_program("y = t.clone(); del t; run.give(0, h0); del h0\n    return [y]"), {}, retain=0, poison=True
    )[0]
    assert torch.isnan(run([torch.ones(4, 4)])[0]).all()


@pytest.mark.spec("RT-20", "PP-15")
def test_headers_lie_where_the_plan_says():
    headers = (
        Header("a", "i64", (3,), (1,), 64),
        Header("b", "f32", (2, 2), (1, 2), 128),
        Header("e", "f32", (0, 2), (2, 1), 0),
    )
    use = SlabUse(0, KIB, "cpu", headers, False)
    source = (
        "def inference(args, run):\n    args.clear()\n    h0 = run.take(0, None); a, b, e, = h0\n    return [a, b, e]\n"
    )
    a, b, e = load(Program(source, (Entry("inference", (use,)),), {}), {}, retain=0)[0]([])
    base = a.untyped_storage().data_ptr()
    assert (a.data_ptr() - base, b.data_ptr() - base) == (64, 128)
    assert (a.dtype, b.stride(), tuple(e.shape)) == (torch.int64, (1, 2), (0, 2))
    assert a.untyped_storage().nbytes() == KIB


def test_exact_gives_the_strides_asked_for():
    t = torch.arange(6.0).view(2, 3)
    copy = exact(t, (2, 3), (1, 2))
    assert copy.stride() == (1, 2) and torch.equal(copy, t) and copy.data_ptr() != t.data_ptr()


def test_a_name_that_is_none_is_a_bug_of_ours():
    with pytest.raises(BugError, match="identifier"):
        load(Program("", (), {"a b": "op:aten.add.Tensor"}), {}, retain=0)


@pytest.mark.spec("RT-21")
def test_owns_notices_other_holders():
    """A section that overwrites an input runs only where nobody else holds it, and where it is what forward left."""
    values = tuple(Value(n, Layout("f32", "cpu", (16,), (1,)), n) for n in ("x", "s", "g", "y"))
    times = Op("y", "aten.mul.Tensor", (Ref("s"), Ref("g")), outputs=("y",))
    sections = (
        Section(
            "forward", (Ref("x"),), (Op("s", "aten.relu.default", (Ref("x"),), outputs=("s",)),), (Ref("s"),), (0,)
        ),
        Section("backward", (Ref("s"), Ref("g")), (times,), (Ref("y"),)),
    )
    graph = Graph("g", values, sections)
    made = schedule(graph, {"s": OpFacts(out="aten.relu.out"), "y": OpFacts(out="aten.mul.out", pointwise=True)})
    forward, backward = load(emit(made, plan_memory(made, Options())), {}, retain=0)
    g = torch.ones(16)
    assert backward.consumed == (Consumed((0,)),) and backward.strides == ((1,), (1,))
    saved = forward([torch.randn(16)])
    args = [saved.pop(), g]
    for hold in (lambda t: t, lambda t: t[:2], lambda t: t.detach(), lambda t: t.untyped_storage()):
        held = hold(args[0])
        assert not backward.owns(args)
        del held
        assert backward.owns(args)
    array = args[0].numpy()
    assert not backward.owns(args) and not backward.owns([torch.from_numpy(array), g])
