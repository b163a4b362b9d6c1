"""The pipeline on one screen: from a captured Graph to a Program, one frozen type per stage.

    capture    PyTorch program        -> Graph        frontend (backend.py and aot.py call it)
    lower      Graph                  -> Lowered      what we compute ourselves as loops
    join       Lowered + facts        -> Lowered      small loops in their readers, fused loops, what is stored twice once
    schedule   Lowered + facts        -> Schedule     steps, in program order
    order      Schedule               -> Schedule     of least peak
    plan       Schedule               -> MemoryPlan   bytes at offsets, the promised peak
    emit       Schedule + MemoryPlan  -> Program      host code
    load       Program                -> callables    runtime

Nothing here imports torch; what needs it (facts about operations, loading) is passed in or done by the callers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lowtide.codegen.host import emit
from lowtide.codegen.targets import target_of
from lowtide.core import native
from lowtide.core.codec import dumps
from lowtide.core.errors import BuildError, OverBudget
from lowtide.core.observe import Observers, from_environment
from lowtide.core.options import Options
from lowtide.core.reason import Reason
from lowtide.core.units import format_bytes
from lowtide.ir.graph import Graph
from lowtide.ir.lowered import Coverage, Lowered, check_lowered, print_lowered
from lowtide.ir.text import print_graph
from lowtide.ir.verify import verify
from lowtide.lowering.coverage import coverage
from lowtide.lowering.lower import lower
from lowtide.lowering.wholes import in_their_places
from lowtide.memory import json as memory_json
from lowtide.memory.estimate import lifts_others
from lowtide.memory.lifetime import lifetimes, timeline
from lowtide.order.engine import OrderResult, reorder
from lowtide.plan.beside import work_beside_copies
from lowtide.plan.choose import main_device, plan_memory
from lowtide.plan.disjoint import check_plan
from lowtide.plan.follow import follow, in_order
from lowtide.plan.holders import holders
from lowtide.plan.plan import DeviceFigures, MemoryPlan
from lowtide.plan.refine import refine
from lowtide.plan.refused import refusals
from lowtide.plan.replay import replay
from lowtide.program import Program, Source
from lowtide.report.steps import dump_steps
from lowtide.report.steps import page as picture
from lowtide.runtime import kernels
from lowtide.schedule.buffers import print_buffers
from lowtide.schedule.cost import Machine
from lowtide.schedule.estimate import estimates
from lowtide.schedule.fusion import fuse_again
from lowtide.schedule.inline import inline, lengthened
from lowtide.schedule.open_layouts import Decided, decide_layouts
from lowtide.schedule.rules import Rules
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, reordered, schedule
from lowtide.schedule.text import print_schedule
from lowtide.schedule.unsplit import fuse_wholes, in_one
from lowtide.target import Target

PROGRAM = "program"
_ALIKE = 4  # factor of bytes within which decisions are taken over,
_SHARE = 1.1  # unless the peak is then a larger share of all bytes by this factor
_ROUNDS = 6  # in which more and more is stored that would lift the peak if it were not
Facts = Callable[[Graph], Mapping[str, OpFacts]]


@dataclass(frozen=True)
class Joined:
    """How loops were put together, in names that sizes do not change: ``stored``: loops that were not put into their readers;
    ``whole``: reductions in one loop that would be in two; ``order``: the operations then, in the order that fusion started from;
    ``pairs``: what it made one, one after the other;
    ``apart``: why other pairs stay two, with the bytes of the sizes at which that was decided; ``placed``: whether calls write
    parts of concatenations where they belong."""

    stored: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    apart: tuple[Reason, ...] = ()
    placed: bool = False


@dataclass(frozen=True)
class Compiled:
    """All stages of one program, for the report, the checkers and the runtime.

    coverage: of loops; None where library calls compute everything. apart: why pairs of loops stay two kernels (where
    followed: at the sizes before), and storages of the same elements stay two. nbytes: of all that the captured program
    makes. followed: whether loops, order and way of slabs are those of the program at other sizes.
    """

    schedule: Schedule
    plan: MemoryPlan
    program: Program
    order: OrderResult | None = None
    coverage: Coverage | None = None
    apart: tuple[Reason, ...] = ()
    joined: Joined = Joined()
    nbytes: int = 0
    followed: bool = False


def alike(programs: Sequence[Compiled], graph: Graph) -> Compiled | None:
    """Of one program at several sizes the one with most nearly as many bytes as ``graph`` makes; None where even that has
    over four times as many or as few, so that what was decided for it may be far from what is best."""
    wanted = made_nbytes(graph)

    def factor(c: Compiled) -> float:
        return max(c.nbytes + 1, wanted + 1) / min(c.nbytes + 1, wanted + 1)

    nearest = min(programs, key=factor, default=None)
    return nearest if nearest is not None and factor(nearest) <= _ALIKE else None


def made_nbytes(graph: Graph) -> int:
    """Bytes of all storages that a static graph makes."""
    return sum(nbytes for storage, nbytes in graph.nbytes.items() if storage not in graph.caller_owned)


def compile_graph(
    graph: Graph,
    facts: Facts,
    options: Options,
    observers: Observers | None = None,
    before: Compiled | None = None,
    *,
    machine: Machine = Machine(),  # noqa: B008
    target: Target | None = None,
) -> Compiled:
    """Run the stages on a static graph, watched by ``observers`` (None: as the environment says). ``machine``: what fusion
    and estimates go by. ``target``: what kernels are generated for, by default as ``target_of`` says. ``before``: the
    same program at other sizes, whose loops, order and way of slabs are taken over, as far as that holds, fits the budget and
    does not need much more of all bytes at once.

    Raises:
        Unsupported: no target computes where the graph's values lie.
        OverBudget: the promised peak on some device is above ``options.budget``.
        VerifyError: the plan is not one that may be used; or, with ``options.verify``, a checker finds a stage's result wrong.
    """
    see = _Stopwatch((observers or from_environment()).of_graph(graph.name))
    see("capture", lambda: print_graph(graph))
    at = _Setting(options, facts, machine, target or target_of(graph))
    apart = lower_graph(graph, options, at.target)
    known, nbytes = at.facts(apart.graph), made_nbytes(graph)
    made = take_over(graph, apart, known, at, see, before, nbytes) if before is not None else None
    made = made or decide(graph, apart, known, at, see)
    lowered, ordered, plan = made.lowered, made.ordered, made.plan
    see("buffers", lambda: print_buffers(ordered))
    see("plan", lambda: dumps(plan.to_json(), indent=1), plan.promised_nbytes)
    check_plan(ordered, plan)
    see("refused", lambda: "".join(f"{reason}\n" for reason in refusals(ordered, plan)))
    see("steps", lambda: dump_steps(ordered, plan))
    see("picture", lambda: picture(ordered, plan, estimates(ordered, machine)))
    if options.verify:
        verify(graph)
        verify(lowered.graph)
        check_lowered(lowered)
        replay(ordered, plan)
    program = emit(ordered, plan, made.sources, at.target.kernel)
    see("program", program.source)
    covered = coverage(graph, lowered) if lowered.loops else None
    see("summary", lambda: _summary(ordered, plan, covered))
    _hold_to_budget(ordered, plan, options)
    return Compiled(
        ordered, plan, program, made.found, covered, lowered.apart, made.joined, nbytes, followed=made.followed
    )


@dataclass(frozen=True, slots=True)
class _Setting:
    """What the stages between capture and emit go by."""

    options: Options
    facts: Facts
    machine: Machine
    target: Target


@dataclass(frozen=True)
class _Planned:
    """What these stages made: the loops, the sources of their kernels, which a compiler has begun to build, and how they were
    put together; the schedule in its final order, its plan, and what the search for the order found."""

    lowered: Lowered
    sources: tuple[Source, ...]
    joined: Joined
    ordered: Schedule
    plan: MemoryPlan
    found: OrderResult | None = None
    followed: bool = False


def lower_graph(graph: Graph, options: Options, target: Target) -> Lowered:
    """The graph with what ``target`` computes as loops, each operation by itself; without loops where ATen is to compute
    everything, or has to."""
    if options.kernels == "aten" or not target.dtypes:
        return Lowered(graph, {})
    if native.compiler() is None:
        why = Reason("kernels of our own", "there is no C++ compiler, so ATen computes everything", "install g++")
        return Lowered(graph, {}, (why,))
    return lower(graph, target.device, target.dtypes)


def parts_in_places(
    graph: Graph, apart: Lowered, known: Mapping[str, OpFacts], at: _Setting
) -> tuple[Lowered, Mapping[str, OpFacts]] | None:
    """The loops, and what is known of the calls, of ``graph`` with calls that write parts of concatenations where they belong;
    None where there is none."""
    placed = in_their_places(graph, apart, known)
    if placed is graph:
        return None
    other = lower(placed, at.target.device, at.target.dtypes)
    return other, at.facts(other.graph)


@dataclass(frozen=True)
class _Inlined:
    """Small loops in their readers, the steps in the order that fusion starts from, what is known of the calls, and how it was
    put together."""

    lowered: Lowered
    steps: Schedule
    known: Mapping[str, OpFacts]
    joined: Joined


def inlined_in_places(graph: Graph, apart: Lowered, known: Mapping[str, OpFacts], at: _Setting) -> _Inlined:
    """Small loops in their readers, with parts of concatenations in their places, if that peaks lower, or as high and takes less
    time."""

    def inlined(apart: Lowered, known: Mapping[str, OpFacts], placed: bool) -> _Inlined:
        found, steps = inline_within(apart, known, at.options, at.target.rules)
        stored = frozenset(apart.loops.keys() & found.loops.keys())
        return _Inlined(found, steps, known, Joined(stored, order=_names(steps), placed=placed))

    def costs(x: _Inlined) -> tuple[int, float]:
        return timeline(memory_graph(x.steps)).peak, sum(e.seconds for e in estimates(x.steps, at.machine).values())

    first = inlined(apart, known, False)
    other = parts_in_places(graph, apart, known, at)
    return first if other is None else min(first, inlined(*other, True), key=costs)


def decide(graph: Graph, apart: Lowered, known: Mapping[str, OpFacts], at: _Setting, see: _Stopwatch) -> _Planned:
    """Everything searched for: which loops are one, the order of steps, the way of slabs. Kernels are built meanwhile."""
    lowered, joined, text = apart, Joined(), ""
    if apart.loops:
        small = inlined_in_places(graph, apart, known, at)
        lowered, joined, text = join_loops(small, at)
        known = small.known
    lowered, known, spared = laid_out(lowered, known, at)
    if lowered.loops:
        see("fusion", text)
        see("layouts", spared)
    sources = _begun(lowered, at.target)
    scheduled = _scheduled(lowered, known, at.options)
    _tell_scheduled(see, lowered, sources, scheduled)
    ordered, found = order_steps(scheduled, at.options)
    bound = found.lower_bound if found is not None else None
    ordered, plan = refine(ordered, plan_memory(ordered, at.options, bound), at.options, bound)
    ordered, plan = work_beside_copies(ordered, plan, at.options, bound)
    see("order", lambda: _order_text(ordered, found))
    return _Planned(lowered, sources, joined, ordered, plan, found)


def take_over(
    graph: Graph,
    apart: Lowered,
    known: Mapping[str, OpFacts],
    at: _Setting,
    see: _Stopwatch,
    before: Compiled,
    nbytes: int,
) -> _Planned | None:
    """Everything as it was decided at other sizes; None, and nothing was built or told, where that does not hold at these, is
    over the budget, or holds a much larger share of all ``nbytes`` at once."""
    if before.joined.placed:
        found = parts_in_places(graph, apart, known, at)
        if found is None:
            return None
        apart, known = found
    lowered = join_again(apart, known, at, before.joined)
    if lowered is None:
        return None
    lowered, known, spared = laid_out(lowered, known, at)
    scheduled = _scheduled(lowered, known, at.options)
    followed = follow(scheduled, before.schedule, before.plan, at.options)
    if followed is None:
        return None
    ordered, plan = followed
    larger = plan.promised_nbytes * before.nbytes > _SHARE * before.plan.promised_nbytes * nbytes
    if larger or _over(plan, at.options) is not None:
        return None
    if lowered.loops:
        see("fusion", "as at the sizes before\n" + "".join(f"{a} + {b}\n" for a, b in before.joined.pairs))
        see("layouts", spared)
    sources = _begun(lowered, at.target)
    _tell_scheduled(see, lowered, sources, scheduled)
    see("order", lambda: f"as at the sizes before\n{print_schedule(ordered)}")
    return _Planned(lowered, sources, before.joined, ordered, plan, followed=True)


def _scheduled(lowered: Lowered, known: Mapping[str, OpFacts], options: Options) -> Schedule:
    """Steps in program order."""
    made = schedule(lowered.graph, known, inplace=options.inplace, loops=lowered.loops, reasons=lowered.reasons)
    return replace(made, members=lowered.members)


def _begun(lowered: Lowered, target: Target) -> tuple[Source, ...]:
    """The sources of the loops' kernels, which a compiler begins to build."""
    made = target.sources([target.kernel(loop) for loop in lowered.loops.values()], 2) if lowered.loops else ()
    kernels.start(made)
    return made


def _tell_scheduled(see: _Stopwatch, lowered: Lowered, sources: Sequence[Source], scheduled: Schedule) -> None:
    if lowered.loops:
        see("lower", lambda: print_lowered(lowered))
        see("kernels", lambda: "\n".join(s.text for s in sources))
    see("schedule", lambda: print_schedule(scheduled))
    see.observers.see("memory", lambda: memory_json.dumps(memory_graph(scheduled)))


def join_loops(small: _Inlined, at: _Setting) -> tuple[Lowered, Joined, str]:
    """What pays to be one loop as one; how, in names and in words."""
    if not at.options.fuse:
        return small.lowered, small.joined, "nothing is fused, as asked\n"
    found = fuse_wholes(
        small.lowered, small.steps, inplace=at.options.inplace, machine=at.machine, rules=at.target.rules
    )
    fused, whole = found.fused, frozenset(w.name for w in found.undone.wholes)
    joined = replace(small.joined, whole=whole, order=_names(found.steps), pairs=fused.pairs, apart=fused.refused)
    return replace(fused.lowered, apart=fused.refused), joined, found.undone.text() + fused.text()


def _names(steps: Schedule) -> tuple[str, ...]:
    return tuple(s.op.name for s in steps.steps)


def join_again(lowered: Lowered, known: Mapping[str, OpFacts], at: _Setting, before: Joined) -> Lowered | None:
    """The loops put together as at other sizes; None where that does not hold at these."""
    if not lowered.loops:
        return lowered
    inplace, rules = at.options.inplace, at.target.rules
    inlined = in_one(inline(lowered, before.stored, rules), before.whole)
    steps = in_order(schedule(inlined.graph, known, inplace=inplace, loops=inlined.loops), before.order)
    if steps is None or not at.options.fuse:
        return None if steps is None else inlined
    fused = fuse_again(inlined, steps, before.pairs, inplace=inplace, machine=at.machine, rules=rules)
    return None if fused is None else replace(fused.lowered, apart=before.apart)


def laid_out(
    lowered: Lowered, known: Mapping[str, OpFacts], at: _Setting
) -> tuple[Lowered, Mapping[str, OpFacts], str]:
    """The loops with all layouts decided, what is known of the calls, which may be given other strides then, and what changed;
    all as it was where nothing is to be fused. Calls are served that copy what they are given, where that makes them copy less
    and lifts no peak."""
    if not at.options.fuse:
        return lowered, known, ""

    def costs(x: Decided, facts: Mapping[str, OpFacts]) -> tuple[int, int]:
        steps = schedule(x.lowered.graph, facts, inplace=at.options.inplace, loops=x.lowered.loops)
        memory = memory_graph(steps)
        return timeline(memory).peak, sum(n.workspace for n in memory.nodes)

    copying = frozenset(name for name, f in known.items() if f.workspace > 0)
    found = decide_layouts(lowered, copying, at.target.padding)
    facts = at.facts(found.lowered.graph) if found.notes else known
    if found.served:
        plain = decide_layouts(lowered, padding=at.target.padding)
        plain_facts = at.facts(plain.lowered.graph) if plain.notes else known
        (peak, copied), (least, most) = costs(found, facts), costs(plain, plain_facts)
        if peak > least or copied >= most:
            why = (
                f"calls would take {format_bytes(copied)} instead of {format_bytes(most)}, "
                f"at a peak of {format_bytes(peak)} instead of {format_bytes(least)}"
            )
            again = Reason(f"{found.served} values laid as library calls ask", why)
            found, facts = replace(plain, refused=(*plain.refused, again)), plain_facts
    told = replace(found.lowered, apart=(*lowered.apart, *found.refused))
    return told, facts, found.text()


def inline_within(
    lowered: Lowered, known: Mapping[str, OpFacts], options: Options, rules: Rules
) -> tuple[Lowered, Schedule]:
    """The graph with small loops in their readers, and its order of least peak, which is not above that of the graph as it
    came. Fusion starts from that order: what does not lift the peak there does not lift it in the end."""

    def ordered(x: Lowered) -> tuple[Schedule, int]:
        steps, _ = order_steps(schedule(x.graph, known, inplace=options.inplace, loops=x.loops), options)
        return steps, timeline(memory_graph(steps)).peak

    apart, most = ordered(lowered)
    stored: frozenset[str] = frozenset()
    for _ in range(_ROUNDS):
        found = inline(lowered, stored, rules)
        steps, peak = ordered(found)
        if peak <= most:
            return found, steps
        more = lengthened(lowered, steps) - stored
        if not more:
            break
        stored |= more
    return lowered, apart


def compile_built(
    graph: Graph,
    facts: Facts,
    options: Options,
    before: Compiled | None = None,
    *,
    machine: Machine = Machine(),  # noqa: B008
) -> Compiled:
    """``compile_graph``, and its kernels are built; where the compiler fails, ATen computes what they would have, with a
    Reason that quotes it.

    Raises: as ``compile_graph``.
    """
    compiled = compile_graph(graph, facts, options, before=before, machine=machine)
    try:
        kernels.finish(kernels.start(compiled.program.kernels))
    except BuildError as e:
        again = compile_graph(graph, facts, replace(options, kernels="aten"), machine=machine)
        why = Reason("kernels of our own", f"could not be built, so ATen computes everything: {e}")
        return replace(again, schedule=replace(again.schedule, reasons=(why, *again.schedule.reasons)))
    return compiled


class _Stopwatch:
    """Tells the observers what each stage made and how long it took since the one before."""

    def __init__(self, observers: Observers) -> None:
        self.observers, self.since = observers, time.perf_counter()

    def __call__(self, stage: str, text: str | Callable[[], str], nbytes: int | None = None) -> None:
        self.observers.see(stage, text, time.perf_counter() - self.since, nbytes)
        self.since = time.perf_counter()


def _order_text(ordered: Schedule, found: OrderResult | None) -> str:
    if found is None:
        return "program order, as asked\n"
    tried = "".join(f"  {name:<12}{format_bytes(nbytes)}\n" for name, nbytes in found.candidates.items())
    bound = (
        f"{found.status}: peak {format_bytes(found.peak)}, bound {format_bytes(found.lower_bound)} ({found.bound_name})"
    )
    return f"{bound}\n{tried}{print_schedule(ordered)}"


def _summary(ordered: Schedule, plan: MemoryPlan, covered: Coverage | None) -> str:
    peak, total = format_bytes(plan.promised_nbytes), format_bytes(plan.sum_nbytes)
    bound = format_bytes(plan.lower_bound)
    what = f"{len(ordered.steps)} steps, {total} of tensors in a peak of {peak} (bound {bound}), slabs: {plan.chosen}"
    return what if covered is None else f"{what}; {covered}"


def order_steps(scheduled: Schedule, options: Options) -> tuple[Schedule, OrderResult | None]:
    """The schedule in an order of least peak on the device that most bytes are on; as it is, where program order is no worse,
    where another device would need more, or ``options.reorder`` is off."""
    if not options.reorder:
        return scheduled, None
    graph = memory_graph(scheduled)
    device = main_device(lifetimes(graph))
    found = reorder(graph, device=device)
    if found.peak >= found.candidates[PROGRAM] or lifts_others(graph, found.order, device):
        return scheduled, found
    return reordered(scheduled, found.order), found


def _over(plan: MemoryPlan, options: Options) -> DeviceFigures | None:
    """The first device on which the plan needs more than the budget."""
    budget = options.budget
    return None if budget is None else next((d for d in plan.devices if d.promised_nbytes > budget), None)


def _hold_to_budget(ordered: Schedule, plan: MemoryPlan, options: Options) -> None:
    over = _over(plan, options)
    if over is None or options.budget is None:
        return
    needed = over.promised_nbytes
    least = min((nbytes for _, nbytes in over.candidates), default=needed)
    held = f" At the peak: {'; '.join(map(str, holders(ordered, plan, 3)))}" if over.device == plan.device else ""
    raise OverBudget(
        f"graph {ordered.graph.name} needs {format_bytes(needed)} ({needed} bytes) on {over.device}, the budget is "
        f"{format_bytes(options.budget)}; the smallest peak known is {format_bytes(least)} ({least} bytes).{held}",
        budget_nbytes=options.budget,
        promised_nbytes=needed,
    )
