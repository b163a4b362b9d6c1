"""The entry point of ``torch.compile(model, backend="lowtide")``: options -> capture -> pipeline -> callables.

Comes in: a Dynamo graph and example inputs. Goes out: a callable for Dynamo. Promised: what cannot be compiled is
planned as it runs, or else runs as PyTorch captured it, with the reason in the log and in ``lowtide.memory_analysis``;
forward and backward are planned together, when the joint graph is split.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lowtide.codegen.targets import target_of
from lowtide.core import native
from lowtide.core.errors import BugError, OptionError, Unsupported, VerifyError
from lowtide.core.options import Options
from lowtide.core.reason import Reason
from lowtide.executor.capture import import_block
from lowtide.executor.placing import STRATEGIES
from lowtide.executor.plans import Policy
from lowtide.executor.run import Executor
from lowtide.frontend.batch_norm import unfold_batch_norm
from lowtide.frontend.convolution import channels_last
from lowtide.frontend.copies import drop_copies, own_storages
from lowtide.frontend.fx_import import import_graph, origin_of
from lowtide.frontend.loss import split_cross_entropy
from lowtide.frontend.moved import made_in_place
from lowtide.frontend.partition import partition
from lowtide.frontend.pinned import keep_pinned
from lowtide.ir.graph import Graph
from lowtide.ir.symbolic import Expr
from lowtide.order import compiled as order_search
from lowtide.pipeline import Compiled, alike, compile_built
from lowtide.plan import compiled as plan_search
from lowtide.runtime.dispatch import Dispatch
from lowtide.runtime.load import Captured, LoadedSection, load, release_retained
from lowtide.runtime.probe import probe
from lowtide.runtime.rates import machine
from lowtide.runtime.records import (
    Planned,
    Record,
    forget,
    note_captured,
    note_fallback,
    note_program,
    note_run_time,
    watch,
)
from lowtide.torch_compat import Constants, aot_backend, boxed, capture_pinning, is_plain_subclass, resizes_storage

log = logging.getLogger(__name__)
_numbers = itertools.count()
_PLAN = "lowtide"
_WRONG = "a stage of ours is wrong, please report it"
_DECIDED = 4  # programs per graph whose decisions others take over
_EXAMPLE = 'torch.compile(model, backend="lowtide", options={"budget": "2GiB"})'

# torch.compile(..., backend="lowtide") imports this module before anything is traced. With an empty cache folder the two
# searches take a few seconds of one core to build; here they are built while the model is captured.
native.build_beside(order_search.SEARCH, plan_search.SEARCH)
capture_pinning()


def lowtide(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, object] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile one Dynamo graph. ``mode``: only what ``torch.compile`` calls the default one.

    Raises:
        OptionError: an option is unknown or wrong, or there is a mode.
        OverBudget: the promised peak is above ``options["budget"]``.
    """
    if mode not in (None, "default"):
        raise OptionError(f"lowtide has no mode {mode!r}: say what you want with options=, for instance {_EXAMPLE}")
    unit = _Unit(f"graph{next(_numbers)}", Options.of(options))
    odd = next((x for x in example_inputs if is_plain_subclass(x)), None)
    if odd is not None:
        _unplanned(
            unit.record, Reason(f"an input of class {type(odd).__name__}", "subclasses of Tensor are left to eager")
        )
        return gm.forward
    resized = next((n for n in gm.graph.nodes if resizes_storage(n)), None)
    if resized is not None:  # what AOTAutograd makes of it reads storages after their bytes are gone (2.13)
        why = "a storage whose bytes come and go is left to eager"
        _unplanned(unit.record, Reason(f"resize_ of a storage ({origin_of(resized)})", why))
        return gm.forward
    compiled = aot_backend(
        fw_compiler=unit.forward,
        bw_compiler=unit.backward,
        inference_compiler=unit.inference,
        partition_fn=unit.partition,
    )(gm, example_inputs)
    unit.record.capture_seconds = time.perf_counter() - unit.started - unit.record.compile_seconds
    return compiled


def _reset() -> None:
    """``torch.compiler.reset()``: give back what is held and forget all programs."""
    release_retained()
    forget()


lowtide.reset = _reset  # type: ignore[attr-defined]


class _Unit:
    """The compilers that AOTAutograd calls for one Dynamo graph, and what they share (short-lived)."""

    def __init__(self, name: str, options: Options) -> None:
        self.name, self.options = name, options
        self.started = time.perf_counter()
        self.record = Record(name)
        self.parts: list[tuple[Dispatch, int, tuple[tuple[str, str], ...]]] = []

    def partition(self, joint: torch.fx.GraphModule, inputs: Any, **given: Any) -> tuple[Any, Any]:
        """Split the joint graph, and plan both halves as one program."""
        fw, bw = partition(joint, inputs, **given)
        calls = [("forward", fw), ("backward", bw)]
        dispatch = self._dispatch(calls, given["num_fwd_outputs"])
        for i, (_, module) in enumerate(calls):
            if dispatch is not None:
                module.meta[_PLAN] = len(self.parts)  # a number, since the meta of a graph may be copied deeply
                self.parts.append((dispatch, i, _fingerprint(module)))
        return fw, bw

    def forward(self, gm: torch.fx.GraphModule, _inputs: Sequence[Any]) -> Callable[..., Any]:
        """The forward call of the program that ``partition`` planned."""
        return self._planned(gm, "forward")

    def backward(self, gm: torch.fx.GraphModule, _inputs: Sequence[Any]) -> Callable[..., Any]:
        """The backward call of the program that ``partition`` planned."""
        return self._planned(gm, "backward")

    def inference(self, gm: torch.fx.GraphModule, _inputs: Sequence[Any]) -> Callable[..., Any]:
        """A call without a backward."""
        simplify(gm, self.options)
        return self._alone(gm, "inference")

    def _planned(self, gm: torch.fx.GraphModule, section: str) -> Callable[..., Any]:
        if _PLAN not in gm.meta:
            return self._as_it_runs(gm)
        dispatch, index, fingerprint = self.parts[gm.meta[_PLAN]]
        if fingerprint != _fingerprint(gm):
            return self._alone(gm, section)
        return boxed(dispatch.section(index))

    def _alone(self, gm: torch.fx.GraphModule, section: str) -> Callable[..., Any]:
        dispatch = self._dispatch([(section, gm)], None)
        return self._as_it_runs(gm) if dispatch is None else boxed(dispatch.section(0))

    def _as_it_runs(self, gm: torch.fx.GraphModule) -> Callable[..., Any]:
        found = build_at_run_time(self.record, self.options, gm)
        return _as_captured(gm) if found is None else boxed(lambda args: found(args))

    def _dispatch(self, calls: list[tuple[str, torch.fx.GraphModule]], kept: int | None) -> Dispatch | None:
        return build_planned(self.record, self.options, calls, kept)


def simplify(gm: torch.fx.GraphModule, options: Options) -> None:
    """Rewrite a graph without a backward, in place, to one with the same numbers that needs less."""
    split_cross_entropy(gm, loops=options.kernels == "loops" and native.compiler() is not None)
    channels_last(gm)
    unfold_batch_norm(gm)
    drop_copies(gm)
    own_storages(gm)


def build_planned(
    record: Record, options: Options, calls: list[tuple[str, torch.fx.GraphModule]], kept: int | None
) -> Dispatch | None:
    """Import and compile fx graphs that belong together; None, with the reason in ``record``, where it is
    not supported: sizes that depend on data and programs inside are for ``build_at_run_time``.

    ``kept``: of the first call's results, how many the caller gets; the others are saved for the second call.
    """
    started = time.perf_counter()
    try:
        for _, module in calls:
            keep_pinned(module)
        imported, held = import_graph(record.name, calls, kept=kept)
        target_of(imported)  # before anything is copied to a device that none computes on
        graph, constants = made_in_place(imported, held)
        build = functools.partial(_build, record, options, constants, {})
        later = functools.partial(_build_or_capture, record, options, dict(calls), build, graph)
        first = None if graph.symbols else build(graph)  # where this is wrong, the whole graph is left as it was
        dispatch = Dispatch(graph, later, options.recent_shapes, first)
    except Unsupported as e:
        record.fallback = e.reason
        return None
    except (VerifyError, BugError) as e:
        if options.verify:
            raise
        return _unplanned(record, Reason(_WRONG, str(e)))
    finally:
        record.compile_seconds += time.perf_counter() - started
    return dispatch


def build_at_run_time(record: Record, options: Options, gm: torch.fx.GraphModule) -> Executor | None:
    """A graph whose sizes are only known when it runs, or with programs inside, as what learns its plan as it runs; None,
    with the reason in ``record``, where that cannot be expressed either."""
    started = time.perf_counter()
    why = record.fallback or record.because
    policy = Policy(
        STRATEGIES["packed"],
        recent=options.recent_shapes,
        verify=options.verify,
        retain=options.retain,
        reorder=options.reorder,
    )
    try:
        keep_pinned(gm)
        found = Executor(*import_block(record.name, gm), policy)
    except Unsupported as e:
        return _unplanned(record, why or e.reason)
    except (VerifyError, BugError) as e:
        if options.verify:
            raise
        return _unplanned(record, Reason(_WRONG, str(e)))
    finally:
        record.compile_seconds += time.perf_counter() - started
    record.fallback = None
    note_run_time(record, why, found.told)
    log.info("%s is planned as it runs: %s", record.name, why)
    return found


def _unplanned(record: Record, reason: Reason) -> None:
    note_fallback(record, reason)
    log.warning("%s runs as captured, unplanned: %s", record.name, reason)


def _build(
    record: Record,
    options: Options,
    constants: Constants,
    decided: dict[str, list[Compiled]],
    graph: Graph,
) -> list[LoadedSection]:
    """Compile and load one variant. ``decided``: by name, the programs at the last sizes for which all was decided anew; others
    take over what was decided for the nearest of them."""
    before = decided.setdefault(graph.name, [])
    compiled = compile_built(graph, probe, options, alike(before, graph), machine=machine())
    if not compiled.followed:
        before.append(compiled)
        del before[:-_DECIDED]
    planned = Planned(compiled.schedule, compiled.plan, compiled.program, compiled.coverage, compiled.apart)
    note_program(record, planned, 2 * options.recent_shapes)  # a section run alone is a variant too
    return load(
        compiled.program,
        constants,
        retain=options.retain,
        poison=options.verify,
        watch=functools.partial(watch, planned),
    )


def _build_or_capture(
    record: Record,
    options: Options,
    calls: Mapping[str, torch.fx.GraphModule],
    build: Callable[[Graph], Sequence[LoadedSection]],
    whole: Graph,
    graph: Graph,
) -> Sequence[LoadedSection | Captured]:
    """One variant of ``whole``, when a call needs it: where a stage of ours is wrong, it runs as it was captured."""
    try:
        return build(graph)
    except (VerifyError, BugError) as e:
        if options.verify:
            raise
        sizes, reason = _which(whole, graph), Reason(_WRONG, str(e))
        note_captured(record, sizes, reason, 2 * options.recent_shapes)
        log.warning("%s at %s runs as captured, unplanned: %s", record.name, sizes, reason)
        return [Captured(calls[s.name]) for s in graph.sections]


def _which(whole: Graph, variant: Graph) -> str:
    """Which variant that is: its sizes, by their symbols in ``whole``, and the section where it is one alone."""
    found: dict[str, int] = {}
    for v in variant.values:
        for dim, n in zip(whole.value[v.name].layout.size, v.layout.size, strict=True):
            if isinstance(dim, Expr) and dim.op == "sym" and isinstance(n, int):
                found[str(dim.args[0])] = n
    sizes = ", ".join(f"{name}={found[name]}" for name in sorted(found)) or "its sizes"
    apart = len(variant.sections) < len(whole.sections)
    return f"{sizes} ({variant.sections[0].name} alone)" if apart else sizes


def _fingerprint(gm: torch.fx.GraphModule) -> tuple[tuple[str, str], ...]:
    """Tells whether a graph was changed after it was planned."""
    return tuple((n.name, str(n.target)) for n in gm.graph.nodes)


def _as_captured(gm: torch.fx.GraphModule) -> Callable[..., Any]:
    """Run the captured graph as it is."""

    def call(args: list[Any]) -> Any:
        given = list(args)
        args.clear()
        return gm(*given)

    return boxed(call)
