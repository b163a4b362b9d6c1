"""``lowtide.memory_analysis``: what the compiled graphs promised, and what a step really takes.

Comes in: nothing (all graphs of the process) or a step to run and measure. Goes out: a frozen ``MemoryAnalysis`` that
prints as a table and turns into JSON. Units: bytes over what the caller holds, from call to return; for training from
the start of the forward call to the end of the backward call.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lowtide.core.codec import VERSION
from lowtide.core.reason import Reason
from lowtide.core.units import format_bytes
from lowtide.ir.graph import PINNED, Ref
from lowtide.ir.lowered import Coverage
from lowtide.plan.holders import Holder, holders
from lowtide.plan.plan import SLAB, DeviceFigures, MemoryPlan
from lowtide.plan.refused import refusals
from lowtide.runtime.measure import Measured, measure
from lowtide.runtime.rates import machine
from lowtide.runtime.records import Call, Calls, Planned, Record, left_out, records, runs_so_far
from lowtide.schedule.estimate import estimates
from lowtide.schedule.schedule import CALL, Schedule, memory_graph


@dataclass(frozen=True, slots=True)
class DeviceAnalysis:
    """What one graph holds on one device, in bytes.

    argument_bytes: inputs that stay the caller's (parameters included). output_bytes: returned tensors and gradients.
    saved_bytes: held between forward and backward. temp_bytes: slabs. callee_bytes: results that operations allocate
    themselves, and their workspaces, at the peak. alias_bytes: results that continue in a dying operand's bytes.
    lower_bound_bytes: proved for the operations as they are, over all orders. sum_bytes: all storages, aligned, without
    sharing.
    """

    device: str
    argument_bytes: int = 0
    output_bytes: int = 0
    saved_bytes: int = 0
    temp_bytes: int = 0
    callee_bytes: int = 0
    alias_bytes: int = 0
    lower_bound_bytes: int = 0
    promised_peak_bytes: int = 0
    sum_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GraphAnalysis:
    """One captured graph. ``device`` is the one that most bytes are on; the figures up to ``sum_bytes`` are its own, as
    ``DeviceAnalysis`` describes them, and those of further devices are in ``others``.

    sections: (call, the most bytes held on ``device`` while it runs). fallback: why the graph runs unplanned, or None; sizes
    of a planned graph that do are listed apart, and named in it.
    moved_bytes, operations, estimated_seconds: of all steps together, by the machine's measured rates.
    reasons: what is not as one would wish, library calls that need not be among it. coverage: how many operations became
    generated loops, and which calls are left; None where library calls compute everything. refused: pairs of loops that
    stay two kernels, storages with the same elements that stay two, results that overwrite no operand, and storages outside
    slabs, each with why.
    """

    name: str
    device: str
    argument_bytes: int
    output_bytes: int
    saved_bytes: int
    temp_bytes: int
    callee_bytes: int
    alias_bytes: int
    lower_bound_bytes: int
    promised_peak_bytes: int
    sum_bytes: int
    sections: tuple[tuple[str, int], ...]
    layout: str
    holders: tuple[Holder, ...]
    capture_seconds: float
    compile_seconds: float
    fallback: str | None
    reasons: tuple[str, ...]
    moved_bytes: int = 0
    operations: int = 0
    estimated_seconds: float = 0.0
    coverage: Coverage | None = None
    refused: tuple[Reason, ...] = ()
    others: tuple[DeviceAnalysis, ...] = ()


@dataclass(frozen=True, slots=True)
class DevicePeak:
    """The whole iteration on one device, in bytes: promised, and measured where a step was given and the device counted (else
    None), with the number of its allocations; the largest of the graphs' lower bounds, and the sum of their sums."""

    device: str
    promised_peak_bytes: int
    measured_peak_bytes: int | None
    lower_bound_bytes: int
    sum_bytes: int
    allocations: int | None


@dataclass(frozen=True, slots=True)
class MemoryAnalysis:
    """All graphs, and the whole iteration on the device for which most bytes are promised, as ``DevicePeak`` describes it.

    devices: the same of each device, that one first. left_to_python: what Dynamo could not capture in this process, and so nobody
    plans; one line of its own per reason.
    """

    graphs: tuple[GraphAnalysis, ...]
    promised_peak_bytes: int
    measured_peak_bytes: int | None
    lower_bound_bytes: int
    sum_bytes: int
    allocations: int | None
    left_to_python: tuple[str, ...]
    devices: tuple[DevicePeak, ...]

    def _not_lowered(self) -> list[str]:
        """Why operations that loops are for are library calls, each reason once."""
        return list(dict.fromkeys(why for g in self.graphs if g.coverage and g.coverage.left for why in g.reasons))

    @property
    def coverage(self) -> Coverage | None:
        """Of all graphs with generated loops together."""
        found = [g.coverage for g in self.graphs if g.coverage is not None]
        return functools.reduce(operator.add, found) if found else None

    def to_json(self) -> dict[str, object]:
        """The version-1 JSON form."""
        return {"version": VERSION, **asdict(self)}

    def __str__(self) -> str:
        rows = [f"{'graph':<12}{'promised':>12}{'bound':>12}{'saved':>12}{'outputs':>12}{'sum':>12}  slabs"]
        for g in self.graphs:
            shown = (g.promised_peak_bytes, g.lower_bound_bytes, g.saved_bytes, g.output_bytes, g.sum_bytes)
            tail = f"unplanned: {g.fallback}" if g.fallback else g.layout
            rows.append(f"{g.name:<12}" + "".join(f"{format_bytes(n):>12}" for n in shown) + f"  {tail}")
            for d in g.others:
                shown = (d.promised_peak_bytes, d.lower_bound_bytes, d.saved_bytes, d.output_bytes, d.sum_bytes)
                rows.append(f"{'':<12}" + "".join(f"{format_bytes(n):>12}" for n in shown) + f"  on {d.device}")
        largest = max(self.graphs, key=lambda g: g.promised_peak_bytes, default=None)
        if largest is not None and largest.holders:
            rows.append(f"at the peak of {largest.name}:")
            rows.extend(f"  {format_bytes(h.nbytes):>10}  {h.made_by}  {h.origin}" for h in largest.holders)
        covered = self.coverage
        if covered is not None:
            rows.append(f"computed: {covered}")
            rows.extend(f"  {why}" for why in self._not_lowered())
        rows.extend(
            f"{g.name}: estimated {g.estimated_seconds * 1e3:.3g} ms, {format_bytes(g.moved_bytes)} moved, "
            f"{g.operations:.3g} operations"
            for g in self.graphs
            if g.operations or g.moved_bytes
        )
        rows.extend(
            f"{g.name}: {len(g.refused)} times two did not share a kernel or bytes; .refused says why"
            for g in self.graphs
            if g.refused
        )
        rows.extend(f"not captured by Dynamo, runs in Python: {why}" for why in self.left_to_python)
        for d in self.devices:
            measured = "not measured" if d.measured_peak_bytes is None else format_bytes(d.measured_peak_bytes)
            where = f" on {d.device}" if len(self.devices) > 1 else ""
            rows.append(f"iteration{where}: promised {format_bytes(d.promised_peak_bytes)}, measured {measured}")
        return "\n".join(rows)


def memory_analysis(step: Callable[[], Any] | None = None) -> MemoryAnalysis:
    """What the graphs compiled in this process promise; with ``step``, what one iteration really takes.

    ``step`` runs once and must leave nothing behind that it does not hold itself (set gradients to None before): the
    framework allocators' own allocations are counted: the CPU's on this thread, and those of other devices that graphs are
    planned for before it, in the whole process, whose statistics are reset. A further device that the step itself is the first
    to plan for is not measured. Only graphs that the step ran are then listed, and all that is unplanned.

    Example: ``print(lowtide.memory_analysis(lambda: model(x).sum().backward()))``
    """
    listed: Sequence[tuple[Record, Planned | None]]
    found: Measured | None = None
    if step is None:
        listed = [(r, p) for r in records() for p in (r.planned or ([] if r.captured else [None]))]
        calls = _one_iteration()
    else:
        before = {id(r): runs_so_far(r) for r in records()}
        with Calls() as log:
            found = measure(step, {d.device for r in records() for p in r.planned for d in p.plan.devices})
        calls = log.calls
        ran = {id(c.planned) for c in calls}
        listed = [(r, p) for r in records() for p in r.planned if id(p) in ran]
        listed += [(r, None) for r in records() if r.fallback is not None or runs_so_far(r) > before.get(id(r), 0)]
    captured = (_bare(r, f"at {sizes}: {why}") for r in records() for sizes, why in tuple(r.captured.items()))
    graphs = (*(_graph(r, p) for r, p in listed), *captured)
    plans = [p.plan for _, p in listed if p is not None]
    names = dict.fromkeys(d.device for plan in plans for d in plan.devices) or {"cpu": None}
    peaks = [_device_peak(d, plans, calls, found) for d in names]
    devices = tuple(sorted(peaks, key=lambda d: (d.device == PINNED, -d.promised_peak_bytes)))
    most = devices[0]
    return MemoryAnalysis(
        graphs,
        most.promised_peak_bytes,
        most.measured_peak_bytes,
        most.lower_bound_bytes,
        most.sum_bytes,
        most.allocations,
        left_out(),
        devices,
    )


def _device_peak(device: str, plans: Sequence[MemoryPlan], calls: Sequence[Call], found: Measured | None) -> DevicePeak:
    here = [plan.on(device) for plan in plans]
    measured = found.on(device) if found is not None else None
    return DevicePeak(
        device,
        iteration_peak(calls, device),
        measured.peak_nbytes if measured else None,
        max((f.lower_bound for f in here), default=0),
        sum(f.sum_nbytes for f in here),
        measured.allocations if measured else None,
    )


def _one_iteration() -> list[Call]:
    """Every graph once, at the sizes with the highest promise: forward calls in turn, then backward calls in reverse."""
    largest = [max(r.planned, key=lambda p: p.plan.promised_nbytes) for r in records() if r.planned]
    forward = [Call(p, 0, (), (), ()) for p in largest]
    return forward + [Call(p, 1, (), (), ()) for p in reversed(largest) if len(p.schedule.graph.sections) > 1]


def iteration_peak(calls: Sequence[Call], device: str = "cpu") -> int:
    """Most bytes held on a device over a sequence of calls: each call's own, on top of what earlier calls of other programs
    still hold: saved tensors until their backward call, and returned tensors until a later call was seen to end them."""
    return max((nbytes for live in iteration_live(calls, device) for nbytes in live), default=0)


def iteration_live(calls: Sequence[Call], device: str = "cpu") -> list[list[int]]:
    """For each call the bytes held on a device while each of its steps runs, what earlier calls still hold included."""
    holding: dict[int, int] = {}
    released: dict[int, int] = {}  # of what a program returned, the bytes that ended before its last section
    maker: dict[int, int] = {}
    out: list[list[int]] = []
    for call in calls:
        planned, me = call.planned, id(call.planned)
        lo, hi = _span(planned.schedule, call.section)
        for address, nbytes, _ in (h for h in call.gone if h.device == device):
            owner = maker.pop(address, me)
            released[owner] = released.get(owner, 0) + nbytes
            holding[owner] = holding.get(owner, 0) - nbytes
        held = planned.plan.on(device).live
        live = [n - released.get(me, 0) for n in held[lo:hi]]
        for position, (address, nbytes, _) in (d for d in call.died if d[1].device == device):
            owner = maker.pop(address, me)
            if owner != me:
                released[owner] = released.get(owner, 0) + nbytes
                holding[owner] -= nbytes
                for t in range(_last_read(planned.schedule, call.section, position) - lo + 1):
                    live[t] += nbytes
        others = sum(n for key, n in holding.items() if key != me)
        out.append([others + n for n in live])
        after = held[hi] if hi < len(held) else _kept_on(planned, device)
        holding[me] = after - released.get(me, 0)
        maker.update((h.address, me) for h in call.returned if h.device == device)
    return out


def _last_read(schedule: Schedule, section: int, position: int) -> int:
    """Step in which an input of a section is read last (the section's first where it is not)."""
    graph = schedule.graph
    given = graph.sections[section].inputs[position]
    nodes = memory_graph(schedule).nodes
    lo, hi = _span(schedule, section)
    storage = graph.value[given.name].storage if isinstance(given, Ref) else None
    return max((t for t in range(lo, hi) if storage in nodes[t].reads), default=lo)


def _kept_on(planned: Planned, device: str) -> int:
    """Bytes held on a device after the last section: what the caller gets, and slabs for the next call."""
    plan, value = planned.plan, planned.schedule.graph.value
    given = sum(p.nbytes for p in plan.places if p.escapes and value[p.storage].layout.memory == device)
    return given + sum(s.nbytes for s in plan.slabs if s.kept and s.device == device)


def _span(schedule: Schedule, section: int) -> tuple[int, int]:
    nodes = memory_graph(schedule).nodes
    borders = [t for t, n in enumerate(nodes) if n.name.startswith(CALL)]
    return [0, *borders][section], [*borders, len(nodes)][section]


def _bare(record: Record, fallback: str | None, layout: str = "none", why: tuple[str, ...] = ()) -> GraphAnalysis:
    """Of what has no plan from before its first run."""
    seconds = record.capture_seconds, record.compile_seconds
    return GraphAnalysis(record.name, "cpu", 0, 0, 0, 0, 0, 0, 0, 0, 0, (), layout, (), *seconds, fallback, why)


def _graph(record: Record, planned: Planned | None) -> GraphAnalysis:
    fallback = str(record.fallback) if record.fallback else None
    if planned is None:
        layout = "; ".join(f"planned as it runs: {tell()}" for tell in record.at_run_time) or "none"
        why = (str(record.because),) if record.because is not None else ()
        return _bare(record, fallback, layout, why)
    plan, schedule = planned.plan, planned.schedule
    graph = schedule.graph
    main, *others = (_of_device(schedule, plan, told) for told in plan.devices)
    costs = estimates(schedule, machine()).values()
    spans = [(s.name, *_span(schedule, i)) for i, s in enumerate(graph.sections)]
    return GraphAnalysis(
        name=record.name,
        **asdict(main),
        sections=tuple((name, max(plan.live[lo:hi], default=0)) for name, lo, hi in spans),
        layout=f"{plan.chosen} ({sum(p.how == SLAB for p in plan.places)} of {len(plan.places)} storages in slabs, "
        f"{plan.coverage:.0%} of all bytes)",
        holders=holders(schedule, plan),
        capture_seconds=record.capture_seconds,
        compile_seconds=record.compile_seconds,
        fallback=fallback,
        reasons=tuple(str(r) for r in schedule.reasons),
        moved_bytes=sum(e.nbytes for e in costs),
        operations=sum(e.operations for e in costs),
        estimated_seconds=sum(e.seconds for e in costs),
        coverage=planned.coverage,
        refused=(*planned.apart, *refusals(schedule, plan)),
        others=tuple(others),
    )


def _of_device(schedule: Schedule, plan: MemoryPlan, told: DeviceFigures) -> DeviceAnalysis:
    graph, nodes = schedule.graph, memory_graph(schedule).nodes
    here = [p for p in plan.places if graph.value[p.storage].layout.memory == told.device]
    at = told.peak_step
    at_peak = [p for p in here if p.first <= at < p.end and p.slab is None and p.over is None and not p.escapes]
    workspace = nodes[at].workspace if nodes and nodes[at].device == told.device else 0
    saved = {
        graph.value[a.name].storage
        for s in graph.sections
        for i in s.saved
        if isinstance(a := s.returns[i], Ref)
    }  # fmt: skip
    given = [s for s in sorted(graph.caller_owned) if graph.value[s].layout.memory == told.device]
    return DeviceAnalysis(
        device=told.device,
        argument_bytes=sum(graph.nbytes[s] for s in given),
        output_bytes=sum(p.nbytes for p in here if p.escapes),
        saved_bytes=sum(p.nbytes for p in here if p.storage in saved),
        temp_bytes=sum(s.nbytes for s in plan.slabs if s.device == told.device),
        callee_bytes=sum(p.nbytes for p in at_peak) + workspace,
        alias_bytes=sum(p.nbytes for p in here if p.over is not None),
        lower_bound_bytes=told.lower_bound,
        promised_peak_bytes=told.promised_nbytes,
        sum_bytes=told.sum_nbytes,
    )
