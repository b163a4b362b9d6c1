"""Programs whose values lie on two devices: eager's numbers with poisoned memory, and what was promised on each of them.

A host that reads device memory as its own ends in a crash here, and a host that does not wait for a copy reads 0xFF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from checks import as_promised, check, compiled, planned  # noqa: E402

from lowtide import backend  # noqa: E402
from lowtide.codegen.targets import TARGETS, target_of  # noqa: E402
from lowtide.frontend.moved import made_in_place  # noqa: E402
from lowtide.ir.graph import Op, Ref  # noqa: E402
from lowtide.ir.text import parse  # noqa: E402
from lowtide.ir.verify import verify  # noqa: E402
from lowtide.runtime.calls import DTYPES  # noqa: E402
from lowtide.runtime.records import Planned, records  # noqa: E402

pytestmark = pytest.mark.torch


def there_and_back(device: str) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Work on the CPU, on the device, and on the CPU again, with more bytes there than here."""

    def f(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        d = (x * 2 + 1).relu().to(device)
        for _ in range(4):
            d = ((d @ w).relu() @ w + d).tanh()
        c = d.cpu()
        return (c.sin() @ c.t()).cos().sum(1), (d @ w).sum()

    return f


def _copies(ops: Iterable[Op]) -> list[str]:
    """Of these the copies, whether they make what they copy to or are given it."""
    return [op.name for op in ops if op.target in ("aten._to_copy.default", "aten.copy_.default")]


@pytest.mark.spec("IR-58", "G9", "SC-12", "SC-67", "RT-32")
@pytest.mark.parametrize("slabs", ["auto", "one", "none"])
def test_there_and_back(device: str, slabs: str) -> None:
    f, x, w = there_and_back(device), torch.randn(64, 48), (torch.randn(48, 48) / 7).to(device)
    found = check(f, (x, w), slabs=slabs)
    plan, graph = found.plan, found.schedule.graph
    assert [d.device for d in plan.devices] == [f"{device}:0", "cpu"]
    in_slabs = {graph.value[p.storage].layout.device for p in plan.places if p.slab is not None}
    assert in_slabs == ({s.device for s in plan.slabs} if slabs != "none" else set())
    assert slabs != "one" or in_slabs == {f"{device}:0", "cpu"}
    loops = {graph.value[o].layout.device for s in found.schedule.steps if s.loop for o in s.op.outputs if o}
    assert loops <= {"cpu"} and loops, "kernels of ours run on the host alone"
    call = compiled(f, slabs=slabs)
    told = as_promised(lambda: call(x, w))
    assert {d.device for d in told.devices} == {f"{device}:0", "cpu"}
    shown = str(told)
    assert "on cpu" in shown and f"iteration on {device}:0: promised" in shown
    (other,) = told.to_json()["graphs"][0]["others"]  # type: ignore[index]
    assert other["device"] == "cpu" and other["promised_peak_bytes"] == plan.others[0].promised_nbytes


@pytest.mark.spec("IR-58")
def test_what_is_copied_lies_in_slabs_of_either_device(device: str) -> None:
    def f(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        there = (x * 2).to(device)
        more = (d @ there).relu() @ d
        back = (more + there).cpu()
        return (back @ x + (x + 3).sin()).cos().sum(1), (more @ d).sum()

    x, d = torch.randn(32, 32), torch.randn(32, 32).to(device)
    found = check(f, (x, d), slabs="one")
    graph, place = found.schedule.graph, found.plan.place
    made = [m for s in found.schedule.steps if s.op.target == "aten.copy_.default" for m in s.op.mutates]
    assert [graph.value[m].layout.device for m in made] == [f"{device}:0", "cpu"]
    assert all(place[graph.value[m].storage].slab is not None for m in made)
    call = compiled(f, slabs="one")
    as_promised(lambda: call(x, d))


@pytest.mark.spec("IR-58")
def test_copies_that_cannot_lie_in_slabs_stay_calls_of_their_own(device: str) -> None:
    def f(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        turned, half = (x + 1).t().to(device), (x * 2).to(device, torch.float64)
        return d.t() @ turned, half.sum(), x.cos().to(device)

    found = check(f, (torch.randn(6, 6), torch.randn(6, 6).to(device)))
    made = {str(s.op.outputs[0]) for s in found.schedule.steps if s.op.target == "aten._to_copy.default"}
    layouts = [found.schedule.graph.value[n].layout for n in made]
    assert all(x.device == f"{device}:0" for x in layouts)
    assert sorted((x.dtype, x.stride) for x in layouts) == [("f32", (1, 6)), ("f32", (6, 1)), ("f64", (6, 1))]
    kept = {r.name for r in found.schedule.graph.sections[0].returns if isinstance(r, Ref)}
    (last,) = kept & made
    assert found.plan.place[last].slab is None


@pytest.mark.spec("IR-58")
def test_what_is_copied_does_not_change_with_its_source(device: str) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        before = x.to(device)
        x.add_(1)
        after = x.to(device)
        x.mul_(2)
        return before.cpu(), after, before + after

    x = torch.arange(6.0)
    call = compiled(f)
    a, b = x.clone(), x.clone()
    for _ in range(3):
        for got, wanted in zip(call(a), f(b), strict=True):
            assert torch.equal(got.cpu(), wanted.cpu())
        assert torch.equal(a, b)
    planned()


@pytest.mark.spec("IR-58")
def test_what_the_device_changes_comes_back_to_an_input_of_the_host(device: str) -> None:
    def f(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor]:
        d.mul_(2)
        x.copy_(d + 1)
        return (d.sum(),)

    given = [(torch.zeros(5), torch.arange(5.0).to(device)) for _ in range(2)]
    call = compiled(f)
    for _ in range(3):
        assert torch.equal(call(*given[0])[0].cpu(), f(*given[1])[0].cpu())
        for got, wanted in zip(*given, strict=True):
            assert torch.equal(got.cpu(), wanted.cpu())
    planned()


@pytest.mark.spec("IR-58")
def test_a_copy_keeps_its_strides(device: str) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        d = (x + 1).t().to(device)
        part = (x * 3)[:, ::2].to(device)
        wide = x[0].expand(4, -1).to(device)
        return d, part, wide, d.cpu()

    check(f, (torch.randn(6, 8),))


@pytest.mark.spec("SC-12")
def test_a_number_of_the_host_goes_to_the_device_by_value(device: str) -> None:
    def f(x: torch.Tensor, s: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scale = (s * 2).sin()
        y = d * scale + s
        s = s + 1
        return y, (d * s).cpu() + x, scale

    found = check(f, (torch.randn(5, 7), torch.tensor(0.75), torch.randn(5, 7).to(device)))
    assert len(_copies(s.op for s in found.schedule.steps)) == 1, "only the result is copied; the numbers are not"


@pytest.mark.spec("IR-58")
def test_the_host_waits_for_a_copy_that_nobody_was_to_wait_for(device: str) -> None:
    """In eager one has to wait oneself; of a captured graph nobody can see where."""

    def f(x: torch.Tensor, into: torch.Tensor) -> tuple[torch.Tensor, ...]:
        d = (x * 2).to(device, non_blocking=True)
        y = (x + 5).relu()  # may lie where x * 2 lay
        back = (d + 1).to("cpu", non_blocking=True)
        into.copy_(d, non_blocking=True)
        return back + y, into * 1

    x, into = torch.randn(64, 64), torch.zeros(64, 64)
    call = compiled(f, slabs="one")
    for _ in range(3):
        back, same = call(x, into)
        assert torch.equal(back, (x * 2 + 1) + (x + 5).relu()) and torch.equal(same, x * 2) and torch.equal(into, x * 2)
    planned()


@pytest.mark.spec("IR-56", "IR-58")
def test_a_constant_lies_on_each_device_that_reads_it(device: str) -> None:
    table = torch.arange(12.0).reshape(3, 4)

    def f(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        held = torch.tensor([1.0, 2.0, 3.0, 4.0])
        return x + held, d * held.to(device) + held.to(device).sin()

    found = check(f, (table, table.to(device)))
    graph = found.schedule.graph
    assert sorted(graph.value[c].layout.device for c in graph.constants) == ["cpu", f"{device}:0"]
    assert not _copies(s.op for s in found.schedule.steps)


@pytest.mark.spec("IR-56", "IR-58")
def test_constants_keep_the_order_of_the_values(device: str) -> None:
    """The first of two lies on the device alone, the second on the host."""

    def f(x: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = d * torch.tensor([1.0, 2.0, 3.0, 4.0]).to(device)
        return x + torch.tensor([5.0, 6.0, 7.0, 8.0]), y

    graph = check(f, (torch.ones(4), torch.ones(4).to(device))).schedule.graph
    assert [graph.value[c].layout.device for c in graph.constants] == [f"{device}:0", "cpu"]


@pytest.mark.spec("IR-56")
def test_an_original_that_nothing_names_is_not_held(device: str) -> None:
    text = """graph g version 1
  section inference
    input %d: f32[2]{1} @DEVICE:0
    const %c: f32[2]{1} @cpu
    %m: f32[2]{1} @DEVICE:0 = aten._to_copy.default(%c, device=device:DEVICE:0)
    %y: f32[2]{1} @DEVICE:0 = aten.add.Tensor(%d, %m)
    return %y
"""
    graph, held = made_in_place(parse(text.replace("DEVICE", device)), {"c": torch.tensor([1.0, 2.0])})
    assert tuple(held) == graph.constants == ("m",)
    assert held["m"].device.type == device and held["m"].cpu().tolist() == [1.0, 2.0]


@pytest.mark.spec("IR-58")
def test_a_constant_that_the_device_refuses_is_copied_when_the_program_runs(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself (%e), and with the chain that it stands in; another constant of that chain (%c) still lies there."""
    text = f"""graph g version 1
  section inference
    input %d: f32[2]{{1}} @{device}:0
    const %c: bool[2]{{1}} @cpu
    const %e: i64[2]{{1}} @cpu
    %s: i64[2]{{1}} @cpu = aten.add.Tensor(%c, %e)
    %t: i64[2]{{1}} @{device}:0 = aten._to_copy.default(%s, device=device:{device}:0)
    %m: bool[2]{{1}} @{device}:0 = aten._to_copy.default(%c, device=device:{device}:0)
    %n: i64[2]{{1}} @{device}:0 = aten._to_copy.default(%e, device=device:{device}:0)
    %x: f32[2]{{1}} @{device}:0 = aten.add.Tensor(%d, %m)
    %z: f32[2]{{1}} @{device}:0 = aten.add.Tensor(%x, %t)
    %y: f32[2]{{1}} @{device}:0 = aten.add.Tensor(%z, %n)
    return %y
"""
    empty_strided = torch.empty_strided

    def without_whole_numbers(*args: Any, dtype: torch.dtype, **kwargs: Any) -> torch.Tensor:
        if dtype == torch.int64:
            raise torch.OutOfMemoryError("none is left")
        return empty_strided(*args, dtype=dtype, **kwargs)

    monkeypatch.setattr(torch, "empty_strided", without_whole_numbers)
    graph, held = made_in_place(parse(text), {"c": torch.tensor([True, False]), "e": torch.tensor([0, 3])})
    verify(graph)
    assert set(held) == {"c", "e", "m"} == set(graph.constants)
    assert len(_copies(graph.ops)) == 2


@pytest.mark.spec("IR-58", "IR-29")
@pytest.mark.parametrize(
    ("made", "moves"),
    [
        ("aten.arange.start_step(0, 8, 4, device=device:cpu)", True),
        ("aten.arange.start_step(0.0, 0.2, 0.1, device=device:cpu)", False),
        ("aten.linspace.default(0, 1, 2, device=device:cpu)", False),
        ("mine.full.default([2], 1, device=device:cpu)", False),
    ],
    ids=["whole", "parts", "linspace", "mine"],
)
def test_only_what_all_devices_make_alike_is_made_there(device: str, made: str, moves: bool) -> None:
    text = f"""graph g version 1
  section inference
    input %d: f32[2]{{1}} @{device}:0
    %r: f32[2]{{1}} @cpu = {made}
    %m: f32[2]{{1}} @{device}:0 = aten._to_copy.default(%r, device=device:{device}:0)
    %y: f32[2]{{1}} @{device}:0 = aten.add.Tensor(%d, %m)
    return %y
"""
    graph, _ = made_in_place(parse(text), {})
    verify(graph)
    assert bool(_copies(graph.ops)) != moves


@pytest.mark.spec("IR-58", "IR-29")
def test_what_is_made_of_numbers_alone_is_made_where_it_is_needed(device: str) -> None:
    def f(d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ramp = torch.arange(8, dtype=torch.float32)
        return d + ramp.to(device), d * torch.full((8,), 2.5).to(device), ramp.to(device)

    found = check(f, (torch.randn(3, 8).to(device),))
    here = [d for d in _devices(found) if d == "cpu"]
    assert len(here) == len(_copies(s.op for s in found.schedule.steps)) == 1, (
        "the caller keeps the one, which stays a copy"
    )


def _devices(found: Planned) -> list[str]:
    """Where the results of the operations lie."""
    return [found.schedule.graph.value[o].layout.device for s in found.schedule.steps for o in s.op.outputs if o]


@pytest.mark.spec("IR-58", "IR-29")
def test_a_chain_of_constants_is_computed_where_it_is_needed(device: str) -> None:
    def f(d: torch.Tensor, e: torch.Tensor) -> tuple[torch.Tensor, ...]:
        i, table = torch.arange(4), torch.tensor([0.5, 2.0, 4.0, 8.0])
        mask = (i[None, :] <= i[:, None]) & (i[None, :] + 2 > i[:, None])
        bias = torch.where(mask, 0.0, -1e9) * 2 + table
        steps = (table - 1).reshape(2, 2)
        return d + bias.to(device), e.masked_fill(mask.to(device), 0.0), d[:2, :2] * steps.to(device)

    found = check(f, (torch.randn(4, 4).to(device), torch.randn(4, 4).to(device)))
    assert {*_devices(found)} == {f"{device}:0"}
    assert not _copies(s.op for s in found.schedule.steps)
    assert sum("arange" in s.op.target for s in found.schedule.steps) == 1, "what two of them need is made once"


@pytest.mark.spec("IR-58", "IR-29")
def test_a_chain_that_devices_round_otherwise_stays_a_copy(device: str) -> None:
    def f(d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ramp = torch.arange(4, dtype=torch.float32)
        return d * (ramp / 3).exp().to(device), d * torch.add(ramp, ramp, alpha=0.3).to(device)

    found = check(f, (torch.randn(3, 4).to(device),))
    assert len(_copies(s.op for s in found.schedule.steps)) == 2 and "cpu" in _devices(found)


@pytest.mark.spec("IR-58", "IR-29")
@pytest.mark.parametrize(
    ("made", "moves"),
    [
        ("aten.mul.Tensor(%c, %c)", True),
        ("aten.mul.Tensor(%c, %h)", False),
        ("aten.sin.default(%c)", False),
        ("aten._to_copy.default(%c, dtype=dtype:i64)", False),
        ("aten.add.Tensor(%c, %c, alpha=0.5)", False),
        ("aten.add.Tensor(%c, %kept)", False),
    ],
    ids=["product", "input", "sine", "whole", "alpha", "kept"],
)
def test_only_chains_of_constants_that_nobody_else_holds_move(device: str, made: str, moves: bool) -> None:
    dtype = "i64" if "i64" in made else "f32"
    text = f"""graph g version 1
  section inference
    input %h: f32[2]{{1}} @cpu
    const %c: f32[2]{{1}} @cpu
    %kept: f32[2]{{1}} @cpu = aten.full.default([2], 1.0, device=device:cpu)
    %r: {dtype}[2]{{1}} @cpu = {made}
    %v: {dtype}[1,2]{{2,1}} @cpu in %r = view aten.unsqueeze.default(%r, 0)
    %m: {dtype}[1,2]{{2,1}} @{device}:0 = aten._to_copy.default(%v, device=device:{device}:0)
    %w: {dtype}[2]{{1}} @{device}:0 in %m = view aten.squeeze.dim(%m, 0)
    %n: {dtype}[1,2]{{2,1}} @{device}:0 = aten._to_copy.default(%v, device=device:{device}:0)
    %y: f32[1,2]{{2,1}} @{device}:0 = aten.add.Tensor(%n, %w)
    return %y
    return %kept
"""
    graph, held = made_in_place(parse(text), {"c": torch.tensor([1.0, 2.0])})
    verify(graph)
    assert bool(_copies(op for op in graph.ops if op.name != "r")) != moves
    assert (f"c_on_{device}_0" in held) == moves == (f"c_on_{device}_0" in graph.constants)
    if moves:
        assert not any(v.layout.device == "cpu" for v in graph.values if v.name not in ("h", "kept"))
        assert graph.value["w"].storage == graph.value["m"].storage != "m", "the copy is a view now"
        assert graph.value["n"].storage == graph.value["m"].storage, "what is needed twice is computed once"


@pytest.mark.spec("IR-58", "IR-29")
@pytest.mark.parametrize(
    ("dtype", "made", "moves"),
    [
        ("i64", "aten.remainder.Scalar(%c, 3)", True),
        ("i64", "aten.remainder.Scalar(%c, 0)", False),
        ("i64", "aten.floor_divide.default(%c, %c)", False),
        ("c64", "aten.mul.Tensor(%c, %c)", False),
        ("f32", "aten.round.decimals(%c, decimals=1)", False),
        ("f32", "aten.round.default(%c)", True),
        ("f32", "aten._to_copy.default(%c, dtype=dtype:f64)", False),
    ],
    ids=["whole", "zero", "tensor", "complex", "decimals", "round", "double"],
)
def test_no_chain_moves_that_another_device_may_refuse_or_round_otherwise(
    device: str, dtype: str, made: str, moves: bool
) -> None:
    wide = "f64" if "f64" in made else dtype
    text = f"""graph g version 1
  section inference
    input %d: {dtype}[2]{{1}} @{device}:0
    const %c: {dtype}[2]{{1}} @cpu
    %r: {wide}[2]{{1}} @cpu = {made}
    %s: {dtype}[2]{{1}} @cpu = aten._to_copy.default(%r, dtype=dtype:{dtype})
    %m: {dtype}[2]{{1}} @{device}:0 = aten._to_copy.default(%s, device=device:{device}:0)
    %y: {dtype}[2]{{1}} @{device}:0 = aten.add.Tensor(%d, %m)
    return %y
"""
    graph, _ = made_in_place(parse(text), {"c": torch.ones(2, dtype=DTYPES[dtype])})
    verify(graph)
    assert any(v.layout.device == "cpu" for v in graph.values) != moves


@pytest.mark.spec("IR-56")
def test_a_constant_that_the_caller_keeps_or_changes_is_copied_each_time(device: str) -> None:
    def f(d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = torch.tensor([1.0, 2.0]).to(device)
        return (kept, d + kept)

    call, d = compiled(f), torch.ones(2).to(device)
    for _ in range(3):
        kept, total = call(d)
        assert kept.cpu().tolist() == [1.0, 2.0] and total.cpu().tolist() == [2.0, 3.0]
        kept.zero_()


@pytest.mark.spec("RT-32", "IR-58")
def test_sizes_that_depend_on_data_are_planned_as_they_run(device: str) -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = x[x[:, 0] > 0]
        d = (rows * 2).to(device)
        e = (d @ w).relu() + 1
        return e.cpu().sin() @ rows, e

    call = torch.compile(f, backend="lowtide", dynamic=True, options={"verify": True})
    w = torch.randn(32, 32).to(device)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for n in (40, 40, 64, 40, 64):
            x = torch.randn(n, 32)
            x[:32, 0] = x[:32, 0].abs()
            rows = x[x[:, 0] > 0]
            x = torch.cat([rows, rows, rows])[:32] if len(rows) >= 32 else x
            for got, wanted in zip(call(x, w), f(x, w), strict=True):
                torch.testing.assert_close(got.cpu(), wanted.cpu())
    (record,) = records()
    assert record.fallback is None and record.at_run_time


@pytest.mark.spec("SC-69")
def test_without_a_target_a_device_is_left_to_torch(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TARGETS, device)

    def f(x: torch.Tensor) -> torch.Tensor:
        return (x.to(device) * 2).cpu()

    assert torch.equal(torch.compile(f, backend="lowtide")(torch.ones(3)), torch.full((3,), 2.0))
    (record,) = records()
    assert record.fallback is not None and f"no target computes on {device}:0" in str(record.fallback)
    assert "test_two_devices.py" in str(record.fallback)


@pytest.mark.spec("SC-69", "IR-56")
def test_without_a_target_no_constant_is_copied_there(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TARGETS, device)
    moved: list[object] = []
    monkeypatch.setattr(backend, "made_in_place", lambda graph, held: moved.append(graph) or (graph, held))

    def f(d: torch.Tensor) -> torch.Tensor:
        return d * torch.tensor([1.0, 2.0, 3.0]).to(device)

    assert torch.compile(f, backend="lowtide")(torch.ones(3).to(device)).cpu().tolist() == [1.0, 2.0, 3.0]
    assert not moved and records()[0].fallback is not None


def test_the_target_says_that_there_are_no_kernels(device: str) -> None:
    assert TARGETS[device].dtypes == frozenset()
    call = compiled(lambda d: (d * 2).relu())
    call(torch.ones(3).to(device))
    assert target_of(planned().schedule.graph) is TARGETS[device]
    assert not planned().program.kernels
