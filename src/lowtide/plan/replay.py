"""The independent checker of plans: replays a schedule over byte ranges and refuses what would give a wrong number.

Comes in: a Schedule and a MemoryPlan. Goes out: nothing, or VerifyError with a clause. Promised: shares no code with
lifetimes, packers or the order engine, and is quadratic on purpose: for every step it looks at every storage.

Clauses: ``missing`` (a storage has no place), ``twice`` (or two), ``undefined`` (read before it is written), ``freed``
(read after its end), ``overwritten`` (its bytes belong to another storage by now), ``overlap`` (written over a live
storage), ``inplace`` (takes over a storage that is not its to take, or in a way that its operation cannot), ``bounds``
(outside its slab), ``misaligned``, ``whole`` (in a slab that is copied with it), ``callee`` (in a slab, but made by an
operation that allocates by itself), ``held`` (slab not held at the time, or kept for the next call with saved tensors in
it and not on the CPU), ``device``, ``allocator`` (in memory of another one than must give it), ``escape`` (the caller
would keep part of a slab, or keep what is freed), ``input`` (writes to what the caller owns), ``order`` (two operations
that touch the same mutated bytes, or share an effect, changed places, one runs before what it is said to come after, or others
stand between those of a group), ``section``, ``promise`` (the bytes held at some step differ from the plan's, or lie outside its
bounds).
"""

from __future__ import annotations

from dataclasses import dataclass

from lowtide.core.errors import VerifyError
from lowtide.ir.graph import ITEMSIZE, Graph, Layout, Op, Ref
from lowtide.ir.index import affine
from lowtide.ir.loops import Instr, Loop, Stage
from lowtide.plan.plan import DeviceFigures, MemoryPlan, Place
from lowtide.schedule.schedule import Schedule, Step, copied_whole


@dataclass(frozen=True, slots=True)
class _Moment:
    """One position: a step, or the border between two sections (no step)."""

    step: Step | None


def replay(schedule: Schedule, plan: MemoryPlan) -> None:
    """Raise VerifyError unless ``plan`` is right for ``schedule``."""
    graph = schedule.graph
    _check_order(schedule)
    moments = _moments(schedule)
    _check_places(graph, plan)
    _check_kept(plan, moments)
    for storage in copied_whole(schedule):
        if (place := plan.place.get(storage)) is not None and place.slab is not None:
            raise VerifyError(
                "whole", f"%{storage} lies in a slab, and an operation that reads it copies all of the slab"
            )
    _check_allocators(schedule, plan)
    last_read = _last_reads(graph, moments)
    owner: dict[str, tuple[object, int, int]] = {}  # storage -> container, from, to: what it wrote and still owns
    container_of: dict[str, object] = {}
    gone: dict[str, str] = {}
    for t, moment in enumerate(moments):
        if moment.step is None:
            continue
        op = moment.step.op
        for storage in _storages(graph, op.reads):
            _check_read(graph, plan, storage, t, op, owner, gone)
        for storage in _storages(graph, op.mutates):
            if storage not in graph.caller_owned and storage not in owner:
                raise VerifyError("undefined", f"{op.name} changes %{storage}, which nothing has written")
        for storage in _made(graph, op):
            place = plan.place.get(storage)
            if place is None:
                raise VerifyError("missing", f"%{storage}, made by {op.name}, has no place")
            _check_write(graph, plan, moment.step, place, t, owner, container_of, gone, last_read)
    for section in schedule.graph.sections:
        for i, arg in enumerate(section.returns):
            if isinstance(arg, Ref) and i not in section.saved:
                _check_returned(graph, plan, graph.value[arg.name].storage, owner, gone, len(moments))
    for figures in plan.devices:
        _check_promise(schedule, plan, figures, moments, container_of)
    counted = {f.device for f in plan.devices}
    for p in plan.places:
        if graph.value[p.storage].layout.memory not in counted:
            raise VerifyError("promise", f"no figure counts %{p.storage} on {graph.value[p.storage].layout.memory}")


def _moments(schedule: Schedule) -> list[_Moment]:
    out: list[_Moment] = []
    section = 0
    belongs = {op.name: i for i, s in enumerate(schedule.graph.sections) for op in s.ops}
    for step in schedule.steps:
        if step.section != belongs[step.op.name]:
            raise VerifyError("section", f"{step.op.name} belongs to section {belongs[step.op.name]}")
        if step.section < section:
            raise VerifyError("section", f"{step.op.name} of an earlier section runs after one of a later section")
        while section < step.section:
            out.append(_Moment(None))
            section += 1
        out.append(_Moment(step))
    out.extend(_Moment(None) for _ in range(section + 1, len(schedule.graph.sections)))
    return out


def _check_places(graph: Graph, plan: MemoryPlan) -> None:
    made = {storage for op in graph.ops for storage in _made(graph, op)}
    seen: set[str] = set()
    for p in plan.places:
        if p.storage in seen:
            raise VerifyError("twice", f"%{p.storage} has two places")
        if p.storage not in made:
            raise VerifyError("input", f"%{p.storage} has a place, but no operation makes it")
        seen.add(p.storage)


def _check_kept(plan: MemoryPlan, moments: list[_Moment]) -> None:
    """Only on the CPU can bytes be lent to saved tensors and be had back."""
    borders = [t for t, m in enumerate(moments) if m.step is None]
    for i, slab in enumerate(plan.slabs):
        if slab.kept and slab.device != "cpu" and any(slab.first < t < slab.end for t in borders):
            raise VerifyError("held", f"slab {i} is kept for the next call while saved tensors lie in it")


def _check_allocators(schedule: Schedule, plan: MemoryPlan) -> None:
    """What an allocator of its own must give, if that is any bytes, lies in its slabs alone, with nothing else, and is not handed
    on."""
    for p in (p for p in plan.places if p.nbytes):
        whose = schedule.allocators.get(p.storage, "")
        found = plan.slabs[p.slab].allocator if p.slab is not None else ""
        if found != whose:
            raise VerifyError(
                "allocator", f"%{p.storage} must come from {whose or 'the usual one'}, and is in {found!r}"
            )
        if p.over is not None and (whose or p.over in schedule.allocators):
            raise VerifyError("allocator", f"%{p.storage} takes over %{p.over}, and one has an allocator of its own")


def _storages(graph: Graph, names: tuple[str, ...]) -> list[str]:
    return sorted({graph.value[n].storage for n in names})


def _made(graph: Graph, op: Op) -> list[str]:
    return [o for o in op.outputs if o is not None and graph.value[o].storage == o]


def _runs_on(graph: Graph, op: Op) -> str:
    """The device whose bytes an operation uses as workspace: that of its first result, else of what it changes, else the only one
    beside the CPU of what it reads, or of all values where it touches none."""
    made = [*(o for o in op.outputs if o is not None), *op.mutates]
    if made:
        return graph.value[made[0]].layout.device
    seen = {graph.value[n].layout.device for n in op.reads or graph.value} - {"cpu"}
    return seen.pop() if len(seen) == 1 else "cpu"


def _last_reads(graph: Graph, moments: list[_Moment]) -> dict[str, int]:
    out: dict[str, int] = {}
    for t, m in enumerate(moments):
        if m.step is not None:
            for storage in _storages(graph, (*m.step.op.reads, *m.step.op.mutates)):
                out[storage] = t
    for section in graph.sections:
        for i, arg in enumerate(section.returns):
            if isinstance(arg, Ref) and i not in section.saved:
                out[graph.value[arg.name].storage] = len(moments)
    return out


def _check_read(
    graph: Graph, plan: MemoryPlan, storage: str, t: int, op: Op,
    owner: dict[str, tuple[object, int, int]], gone: dict[str, str],
) -> None:  # fmt: skip
    if storage in graph.caller_owned:
        return
    if storage in gone:
        raise VerifyError("overwritten", f"{op.name} ({op.origin}) reads %{storage}, but {gone[storage]} wrote over it")
    if storage not in owner:
        raise VerifyError("undefined", f"{op.name} reads %{storage} before it is written")
    if t >= plan.place[storage].end:
        raise VerifyError(
            "freed", f"{op.name} ({op.origin}) reads %{storage} in step {t}, freed after {plan.place[storage].end - 1}"
        )


def _check_write(
    graph: Graph, plan: MemoryPlan, step: Step, place: Place, t: int, owner: dict[str, tuple[object, int, int]],
    container_of: dict[str, object], gone: dict[str, str], last_read: dict[str, int],
) -> None:  # fmt: skip
    storage = place.storage
    if storage in graph.caller_owned:
        raise VerifyError("input", f"{step.op.name} writes %{storage}, which the caller owns")
    if place.first != t:
        raise VerifyError("undefined", f"%{storage} is written in step {t}, but its place begins in step {place.first}")
    if place.nbytes < graph.nbytes[storage]:
        raise VerifyError("bounds", f"%{storage} needs {graph.nbytes[storage]} bytes and has {place.nbytes}")
    if place.over is not None:
        if place.over in graph.caller_owned:
            raise VerifyError("input", f"%{storage} takes over %{place.over}, which the caller owns")
        allowed = (place.over, storage) in step.inplace and last_read.get(place.over, -1) == t and place.over in owner
        if not allowed or place.over in gone or not _can_take_over(graph, step, place.over, storage):
            raise VerifyError("inplace", f"%{storage} may not take over %{place.over} in step {t} ({step.op.origin})")
        container, low, top = owner[place.over]
        if low + place.nbytes < top and not isinstance(container, int):
            raise VerifyError("inplace", f"%{storage} takes part of %{place.over}, whose allocation ends as a whole")
    elif place.slab is not None:
        container, low = place.slab, place.offset
        if step.facts.out is None or step.facts.restride or (len(step.op.outputs) != 1 and step.loop is None):
            raise VerifyError("callee", f"%{storage} lies in a slab, but {step.op.name} allocates its results itself")
    else:
        container, low = f"own {storage}", 0
    high = low + place.nbytes
    if isinstance(container, int):
        slab = plan.slabs[container]
        if place.slab != container or place.offset != low or low < 0 or high > slab.nbytes:
            raise VerifyError("bounds", f"%{storage} at {low}..{high} of a slab of {slab.nbytes} bytes")
        if low % (64 if slab.device == "cpu" else 512):
            raise VerifyError("misaligned", f"%{storage} at {low} of a slab on {slab.device}")
        if slab.device != graph.value[storage].layout.memory:
            raise VerifyError("device", f"%{storage} is on {graph.value[storage].layout.memory}, its slab not")
        if not slab.first <= place.first < place.end <= slab.end:
            raise VerifyError(
                "held", f"%{storage} lives in steps {place.first}..{place.end} of a slab held {slab.first}..{slab.end}"
            )
        if place.escapes:
            raise VerifyError("escape", f"%{storage} is returned, but lies in a slab")
    if not place.first < place.end:
        raise VerifyError("held", f"%{storage} has no step of its own")
    for other, (where, lo, hi) in list(owner.items()):
        if where == container and lo < high and low < hi and other not in gone:
            if other != place.over and (last_read.get(other, -1) >= t or plan.place[other].end > t):
                raise VerifyError("overlap", f"%{storage} is written over %{other}, which is not over in step {t}")
            gone[other] = f"%{storage}"
    owner[storage] = (container, low, high)
    container_of[storage] = container


def _can_take_over(graph: Graph, step: Step, dying: str, storage: str) -> bool:
    """Element on element: one result, and an operation that can put it there: pointwise by ``out``, or the overwriting
    form whose first operand is the only one on the dying bytes (or which is pointwise). No operand stands differently
    on those bytes; what a smaller result leaves of them may be read in any way, where the call writes by ``out``."""
    op, facts = step.op, step.facts
    if step.loop is not None:
        return _loop_can_take_over(graph, op, step.loop, dying, storage)
    wanted = graph.value[storage].layout
    reads = [r for r in op.reads if graph.value[r].storage == dying]
    first = op.args[0].name if op.args and isinstance(op.args[0], Ref) else None
    writes = (facts.pointwise and facts.out is not None) or (
        facts.overwrite is not None and first in reads and (facts.pointwise or reads == [first])
    )
    if facts.restride or len(op.outputs) != 1 or op.mutates:
        return False
    if graph.nbytes[dying] == graph.nbytes[storage]:
        return writes and all(graph.value[r].layout == wanted for r in reads)
    below = [r for r in reads if _first_byte(graph, r) < graph.nbytes[storage]]
    alike = all(graph.value[r].layout == wanted for r in below)
    smaller = graph.nbytes[dying] > graph.nbytes[storage]
    return smaller and alike and facts.out is not None and (facts.pointwise or not below)


def _first_byte(graph: Graph, name: str) -> int:
    layout = graph.value[name].layout
    return int(str(layout.offset)) * ITEMSIZE[layout.dtype]


def _loop_can_take_over(graph: Graph, op: Op, loop: Loop, dying: str, storage: str) -> bool:
    """One store fills the result, and nothing else touches it up to the end of that stage; every load from the bytes that it
    lies on is of the element that its own point stores, over the same ranges, and stands before the store; both begin
    where their storage begins. (Outer points are independent, so later stages touch what their own point has stored.)"""
    operands = [a.name for a in op.args if isinstance(a, Ref)]
    buffers = [*operands, *(o for o in op.outputs if o is not None)]
    on = {k for k, n in enumerate(buffers) if graph.value[n].storage == dying}
    into = {k for k, n in enumerate(buffers) if n == storage}
    layout = graph.value[storage].layout
    if graph.nbytes[dying] < graph.nbytes[storage] or not on or len(into) != 1 or layout.offset != 0:
        return False
    if dying in (graph.value[m].storage for m in op.mutates):
        return False
    accesses = ("load", "store", "accumulate", "fold", "fold_max", "fold_min")
    touching = [(k, x) for k, s in enumerate(loop.stages) for x in s.body if x.op in accesses and x.attr in into]
    if not touching or touching[0][1].op != "store" or len(touching[0][1].args) != 1:
        return False
    at, store = touching[0]
    points = 1
    for n in (*loop.outer, *loop.stages[at].inner):
        points *= int(str(n))
    elements = 1
    for n in graph.value[storage].layout.size:
        elements *= int(str(n))
    if points != elements or any(k <= at for k, _ in touching[1:]):
        return False
    written = False
    for s in loop.stages:
        for x in s.body:
            written = written or x is store
            if x.op != "load" or x.attr not in on:
                continue
            read = graph.value[buffers[int(str(x.attr))]].layout
            if _first_read(loop, s, x, read) >= graph.nbytes[storage]:
                continue
            late = written or s.inner != loop.stages[at].inner or str(x.index) != str(store.index)
            if late or (read.dtype, read.offset) != (layout.dtype, 0):
                return False
    return True


def _first_read(loop: Loop, stage: Stage, load: Instr, layout: Layout) -> int:
    """The first byte of its storage that a load may touch, as far as its index is a sum of multiples of variables."""
    found = affine(load.index) if load.index is not None else None
    if found is None:
        return 0
    ranges = {f"i{k}": int(str(n)) for k, n in enumerate(loop.outer)}
    ranges |= {f"r{k}": int(str(n)) for k, n in enumerate(stage.inner)}
    low = found[1] + int(str(layout.offset))
    for name, factor in found[0].items():
        if name not in ranges:
            return 0
        low += min(0, factor * (ranges[name] - 1))
    return low * ITEMSIZE[layout.dtype]


def _check_returned(
    graph: Graph, plan: MemoryPlan, storage: str, owner: dict[str, tuple[object, int, int]], gone: dict[str, str],
    steps: int,
) -> None:  # fmt: skip
    if storage in graph.caller_owned:
        return
    if storage in gone or storage not in owner:
        raise VerifyError("overwritten", f"%{storage} is returned, but {gone.get(storage, 'nothing')} wrote it last")
    if isinstance(owner[storage][0], int) or not plan.place[storage].escapes or plan.place[storage].end < steps:
        raise VerifyError("escape", f"%{storage} is returned, but its place is not its own for good")


def _check_order(schedule: Schedule) -> None:
    """Program order wherever one of two operations changes what the other touches, or both have one effect; what is said to come
    after others does, and groups stand together."""
    graph = schedule.graph
    now = {s.op.name: t for t, s in enumerate(schedule.steps)}
    ops = [op for op in graph.ops if not op.view]
    if sorted(now) != sorted(op.name for op in ops):
        raise VerifyError("order", "the schedule's steps are not the graph's operations")
    for op in ops:
        if late := [a for a in op.after if now.get(a, len(now)) > now[op.name]]:
            raise VerifyError("order", f"{op.name} comes after {late[0]}, which runs later")
    for section in graph.sections:
        for group in dict.fromkeys(op.group for op in section.ops if op.group):
            places = [now[op.name] for op in section.ops if op.group == group]
            if max(places) - min(places) >= len(places):
                raise VerifyError("order", f"others run between those of the group {group}")
    special = [op for op in ops if op.mutates or op.effect is not None]
    at = {op.name: i for i, op in enumerate(ops)}
    for a in special:
        changed = set(_storages(graph, a.mutates))
        for b in ops:
            touched = set(_storages(graph, (*b.reads, *b.mutates)))
            bound = bool(changed & touched) or (a.effect is not None and a.effect == b.effect)
            if a is not b and bound and (at[a.name] < at[b.name]) != (now[a.name] < now[b.name]):
                raise VerifyError("order", f"{a.name} and {b.name} changed places")


def _check_promise(
    schedule: Schedule, plan: MemoryPlan, told: DeviceFigures, moments: list[_Moment], container_of: dict[str, object]
) -> None:
    if len(told.live) != len(moments):
        raise VerifyError("promise", f"the plan has {len(told.live)} steps, the schedule {len(moments)}")
    if not told.lower_bound <= told.promised_nbytes <= told.sum_nbytes:
        bounds = f"{told.lower_bound} <= {told.promised_nbytes} <= {told.sum_nbytes} on {told.device}"
        raise VerifyError("promise", f"lower bound, promise and sum of sizes are out of order: {bounds}")
    held = [0] * len(moments)
    on_device = {p.storage for p in plan.places if schedule.graph.value[p.storage].layout.memory == told.device}
    spans: dict[object, tuple[int, int, int]] = {}
    for p in plan.places:
        container = container_of.get(p.storage)
        if p.storage in on_device and container is not None and not isinstance(container, int):
            first, end, nbytes = spans.get(container, (p.first, p.end, 0))
            spans[container] = min(first, p.first), max(end, p.end), max(nbytes, p.nbytes)
    for slab in (s for s in plan.slabs if s.device == told.device):
        spans[object()] = (0, len(moments), slab.nbytes) if slab.kept else (slab.first, slab.end, slab.nbytes)
    for first, end, nbytes in spans.values():
        for t in range(first, end):
            held[t] += nbytes
    for t, moment in enumerate(moments):
        if moment.step is not None and _runs_on(schedule.graph, moment.step.op) == told.device:
            held[t] += max(moment.step.facts.workspace, moment.step.facts.out_workspace)
        if held[t] != told.live[t]:
            raise VerifyError(
                "promise", f"step {t} holds {held[t]} bytes of {told.device}, the plan says {told.live[t]}"
            )
