"""torch's own operator samples (OpInfo) under generated kernels: ``python -m benchmarks coverage``; writes docs/coverage.md.

Comes in: ``op_db`` of torch's test-suite: some 700 entries with samples that nobody here chose. Every sample is captured
by AOTAutograd (no Dynamo), planned and lowered as ``torch.compile`` would have it, run forward and, where it has a
gradient, backward, and compared with eager. The kernels of many samples are compiled together. Goes out: one line per
entry in ``build/coverage.jsonl``, which a later run completes (``--again NAME ...`` or ``--again all`` repeats), and the
page. Kernels are built with -O1, in a third of the time; what then takes the time is PyTorch's capture of each sample. A
group of entries runs in a process of its own; where that dies, its entries run one by one. Results of an earlier run
stay until there are new ones.

A sample passes within the tolerances of ``torch.testing.assert_close``, or where ours is as near to what eager gives in
float64 as eager itself is (twice as far at most).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._functorch.aot_autograd import aot_function
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_flatten, tree_unflatten

from lowtide.backend import build_at_run_time, build_planned
from lowtide.codegen.cpp import kernel
from lowtide.codegen.cpp_source import kernel_sources
from lowtide.core.errors import BuildError, LowtideError, Unsupported
from lowtide.core.options import Options
from lowtide.frontend.fx_import import import_graph
from lowtide.frontend.partition import partition
from lowtide.ir.lowered import LOOP, Lowered
from lowtide.lowering.lower import lower
from lowtide.pipeline import inline_within
from lowtide.runtime import kernels
from lowtide.runtime.probe import probe
from lowtide.runtime.records import Record
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.rules import CACHED
from lowtide.torch_compat import boxed

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "build" / "coverage.jsonl"
PAGE = ROOT / "docs" / "coverage.md"
# dtype, samples per entry, whether gradients are taken
PLAN = ((torch.float32, 3, True), (torch.bfloat16, 1, True), (torch.int64, 1, False), (torch.bool, 1, False))
GROUP = 36  # entries per process
UNSET = ("empty", "new_empty", "resize", "geqrf_uninitialised")  # what these give is not defined
OPTIONS = Options(kernels="loops", verify=True)


@dataclass
class Found:
    """What became of an entry's samples in one direction (``forward``, ``backward``)."""

    passed: int = 0
    lowered: int = 0  # of those passed: library calls, views and random draws aside, nothing is left to ATen
    library: int = 0  # of those lowered: there was nothing to lower
    fallbacks: dict[str, int] = field(default_factory=dict)
    unplanned: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """One entry. ``skipped``: samples that eager, or PyTorch's own capture, does not do."""

    name: str
    forward: Found = field(default_factory=Found)
    backward: Found = field(default_factory=Found)
    skipped: dict[str, int] = field(default_factory=dict)


class _Waiting(Exception):
    """Captured; the kernels are not there yet."""


class Case:
    """One sample: captured, then built, then run (short-lived)."""

    def __init__(self, name: str, function: Callable[..., Any], given: Any, grads: bool) -> None:
        self.name, self.record = name, Record(name)
        self.leaves, self.spec = tree_flatten(given)
        self.tensors = [k for k, x in enumerate(self.leaves) if isinstance(x, Tensor)]
        self.function, self.grads = function, grads
        self.calls: list[tuple[str, torch.fx.GraphModule]] = []
        self.kept: int | None = None
        self.lowered: Lowered | None = None
        self.targets: list[Callable[..., Any]] = []
        self.compiled = aot_function(
            self.flat, self.forward, self.backward, self.split, inference_compiler=self.inference,
            keep_inference_input_mutations=True,
        )  # fmt: skip

    def flat(self, *tensors: Tensor) -> list[Tensor]:
        """The function of tensors alone; its results flat."""
        leaves = list(self.leaves)
        for k, t in zip(self.tensors, tensors, strict=True):
            leaves[k] = t
        args, kwargs = tree_unflatten(leaves, self.spec)
        return [x for x in tree_flatten(self.function(*args, **kwargs))[0] if isinstance(x, Tensor)]

    def inputs(self, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Fresh twins of the sample's tensors, with their strides; floating ones in ``dtype``."""
        return [_twin(self.leaves[k], dtype) for k in self.tensors]

    # -- the compilers that AOTAutograd calls

    def split(self, joint: torch.fx.GraphModule, inputs: Any, **given: Any) -> tuple[Any, Any]:
        fw, bw = partition(joint, inputs, **given)
        self.calls, self.kept = [("forward", fw), ("backward", bw)], given["num_fwd_outputs"]
        return fw, bw

    def forward(self, gm: torch.fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        return self.when_built(gm, 0)

    def backward(self, gm: torch.fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        return self.when_built(gm, 1)

    def inference(self, gm: torch.fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        self.calls = [("inference", gm)]
        return self.when_built(gm, 0)

    def when_built(self, gm: torch.fx.GraphModule, index: int) -> Callable[..., Any]:
        def call(args: list[Any]) -> Any:
            if not self.targets:
                raise _Waiting
            return self.targets[index](args)

        return boxed(call)

    # -- the stages

    def capture(self) -> None:
        """Trace. Raises whatever PyTorch raises."""
        try:
            self.compiled(*self.inputs())
        except _Waiting:
            return

    def kernels(self) -> list[Any]:
        """The kernels that the pipeline will ask for."""
        try:
            graph, _ = import_graph(self.name, self.calls, kept=self.kept)
        except Unsupported:
            return []
        low = lower(graph)
        low, steps = inline_within(low, probe(low.graph), OPTIONS, CACHED)
        self.lowered = fuse_loops(low, steps, inplace=OPTIONS.inplace).lowered if OPTIONS.fuse else low
        return [kernel(loop) for loop in self.lowered.loops.values()]

    def build(self) -> None:
        """The callables, by the backend's own way."""
        dispatch = build_planned(self.record, OPTIONS, self.calls, self.kept)
        if dispatch is not None:
            self.targets = [dispatch.section(k) for k in range(len(self.calls))]
            return
        for _, gm in self.calls:
            found = build_at_run_time(self.record, OPTIONS, gm)
            self.targets.append((lambda f: lambda args: f(args))(found) if found is not None else _plain(gm))


def _plain(gm: torch.fx.GraphModule) -> Callable[[list[Any]], Any]:
    return lambda args: gm(*args)


def _twin(x: Any, dtype: torch.dtype | None) -> Any:
    if not isinstance(x, Tensor) or x.layout is not torch.strided:
        return x
    whole = x.detach()
    held = torch.empty(0, dtype=x.dtype).set_(whole.untyped_storage()).clone()
    out = held.as_strided(x.size(), x.stride(), x.storage_offset())
    if dtype is not None and x.is_floating_point():
        out = out.to(dtype)
    return out.requires_grad_(x.requires_grad)


def results(case: Case, function: Callable[..., list[Tensor]], dtype: torch.dtype | None = None) -> list[list[Any]]:
    """What a function gives for the sample, and its gradients."""
    inputs = case.inputs(dtype)
    torch.manual_seed(42)  # as samples of random operations seed themselves when they run eagerly
    out = function(*inputs)
    made = [[x.detach() for x in out]]
    if case.grads:
        wanted = [x for x in inputs if x.requires_grad]
        through = [x for x in out if x.requires_grad]
        if wanted and through:
            g = torch.Generator().manual_seed(3)
            given = [torch.randn(x.size(), generator=g).to(x.dtype) for x in through]
            made.append(list(torch.autograd.grad(through, wanted, given, allow_unused=True)))
    return made


def differs(ours: Sequence[Any], eager: Sequence[Any], exact: Callable[[], Sequence[Any] | None]) -> str:
    """The first difference that counts, or nothing. ``exact``: the same in float64, where eager can do that."""
    if len(ours) != len(eager):
        return f"{len(ours)} results for {len(eager)}"
    for k, (a, b) in enumerate(zip(ours, eager, strict=True)):
        if a is None or b is None:
            left = a if a is not None else b
            if left is not None and bool((left != 0).any()):
                return f"result {k} is missing on one side"
            continue
        try:
            torch.testing.assert_close(a, b, equal_nan=True, check_stride=False)
        except AssertionError as e:
            why = " ".join(str(e).split())
            best = exact() if a.shape == b.shape and a.dtype == b.dtype and a.is_floating_point() else None
            if best is None or not _as_near(a, b, best[k]):
                return f"result {k}: {why[:200]}"
    return ""


def _as_near(a: Tensor, b: Tensor, best: Tensor | None) -> bool:
    if best is None or best.shape != a.shape or not best.is_floating_point():
        return False
    special = ~torch.isfinite(best)
    if not torch.equal(torch.isfinite(a) | special, torch.ones_like(special)):
        return bool((torch.isfinite(a) == torch.isfinite(b)).all())
    ours, theirs = ((x.double() - best).abs().nan_to_num(0, 0, 0) for x in (a, b))
    step = torch.finfo(a.dtype).eps * best.abs().nan_to_num(0, 0, 0).max() if best.numel() else 0
    return bool(ours.max() <= 2 * theirs.max() + step)


def samples(op: Any, dtype: torch.dtype, most: int, grads: bool) -> Iterator[tuple[Any, Callable[..., Any]]]:
    """(arguments, function) of at most ``most`` samples, spread over what the entry has."""
    torch.manual_seed(0)
    held = list(itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=grads), 60))
    for k in sorted(random.Random(0).sample(range(len(held)), min(most, len(held)))):
        s = held[k]
        finish = s.output_process_fn_grad

        def function(*args: Any, _finish: Any = finish, **kwargs: Any) -> Any:
            return _finish(op.op(*args, **kwargs))

        yield ((s.input, *s.args), s.kwargs), function


def captured(op: Any, outcome: Outcome, scale: float) -> Iterator[Case]:
    """The samples of an entry that eager and capture can do."""
    for dtype, most, grads in PLAN:
        if dtype not in op.supported_dtypes("cpu"):
            continue
        grads = grads and op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
        try:
            held = list(samples(op, dtype, max(1, round(most * scale)), grads))
        except Exception as e:  # noqa: BLE001 - torch's own samples may need what is not installed
            _note(outcome.skipped, f"samples: {_first(e)}")
            continue
        for k, (given, function) in enumerate(held):
            case = Case(f"{op.full_name}-{str(dtype).removeprefix('torch.')}-{k}", function, given, grads)
            try:
                results(case, case.flat)
            except Exception as e:  # noqa: BLE001 - not ours
                _note(outcome.skipped, f"eager: {_first(e)}")
                continue
            try:
                case.capture()
            except LowtideError as e:
                outcome.forward.failed.append(f"{case.name}: {_first(e)}")
                continue
            except Exception as e:  # noqa: BLE001 - PyTorch cannot trace it
                _note(outcome.skipped, f"capture: {_first(e)}")
                continue
            if not case.calls:
                _note(outcome.skipped, "capture: needs no program")
                continue
            yield case


def _note(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1


def _first(e: BaseException) -> str:
    return f"{type(e).__name__} {' '.join(str(e).split())[:90]}"


def run_entries(ops: Sequence[Any], scale: float = 1.0) -> list[Outcome]:
    """Capture all samples of these entries, build their kernels together, run and compare."""
    outcomes = [Outcome(op.full_name) for op in ops]
    cases = [(o, op, c) for o, op in zip(outcomes, ops, strict=True) for c in captured(op, o, scale)]
    wanted: dict[str, Any] = {}
    for outcome, _, case in cases:
        try:
            wanted.update((k.name, k) for k in case.kernels())
        except Exception as e:  # noqa: BLE001 - counted as a failure of ours
            outcome.forward.failed.append(f"{case.name}: {_first(e)}")
            case.calls = []
    try:
        made = kernel_sources(list(wanted.values()), max(2, len(wanted) // 24))
        kernels.finish(
            kernels.start([replace(s, flags=tuple("-O1" if f == "-O3" else f for f in s.flags)) for s in made])
        )
    except BuildError as e:
        print(f"a kernel does not compile: {str(e)[:600]}", flush=True)  # each case then builds its own, and says so
    for outcome, op, case in cases:
        if case.calls:
            _judge(outcome, op, case)
    return outcomes


def _judge(outcome: Outcome, op: Any, case: Case) -> None:
    try:
        case.build()
        broken = [str(r) for p in case.record.planned for r in p.schedule.reasons if "could not be built" in r.because]
        ours = results(case, case.compiled) if not broken else []
        eager = results(case, case.flat)
    except Exception as e:  # noqa: BLE001 - counted
        outcome.forward.failed.append(f"{case.name}: {_first(e)}")
        return
    if not broken and len(ours) < len(eager):
        if case.lowered is None:  # it ran as PyTorch captured it
            _note(outcome.skipped, "capture: loses the gradient")
        else:
            outcome.backward.failed.append(f"{case.name}: gives no gradient")
        eager = eager[: len(ours)]
    if broken:
        outcome.forward.failed.append(f"{case.name}: {broken[0][:400]}")
        return

    def exact(side: int) -> Callable[[], Any]:
        def give() -> Any:
            try:
                return results(case, case.flat, torch.float64)[side]
            except Exception:  # noqa: BLE001 - eager cannot do it in float64
                return None

        return give

    for side, found in enumerate((outcome.forward, outcome.backward)[: len(eager)]):
        why = "" if op.name.startswith(UNSET) else differs(ours[side], eager[side], exact(side))
        if why:
            found.failed.append(f"{case.name}: {why}")
            continue
        found.passed += 1
        reason = case.record.fallback or case.record.because
        if case.lowered is None:
            _note(found.unplanned, f"{reason.what}: {reason.because}" if reason else "not imported")
            continue
        section = case.lowered.graph.sections[side] if side < len(case.lowered.graph.sections) else None
        names = {op.target for op in section.ops} if section is not None else set()
        left = {r.what.partition(" ")[0]: r.because for r in case.lowered.reasons}
        mine = {t: why for t, why in left.items() if t in names}
        for t, w in mine.items():
            _note(found.fallbacks, f"{t}: {w}")
        found.lowered += not mine
        found.library += not mine and LOOP not in names


# -- the command


def _lines() -> list[str]:
    return RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []


def read(begin: int = 0) -> dict[str, dict[str, Any]]:
    """Outcomes by entry, the last of each, from a line of the results on."""
    return {x["name"]: x for x in map(json.loads, _lines()[begin:])}


def by_groups(names: Sequence[str], size: int, workers: int) -> None:
    """Run entries in processes of their own, ``size`` to a process; those of one that dies again, one by one."""
    waiting = [list(names[k : k + size]) for k in range(0, len(names), size)]
    running: list[tuple[subprocess.Popen[bytes], list[str], float]] = []
    done, begin = 0, len(_lines())
    while waiting or running:
        while waiting and len(running) < workers:
            group = waiting.pop(0)
            command = [sys.executable, "-m", "benchmarks.coverage", "--only", *group]
            env = os.environ | {"LOWTIDE_CACHE_DIR": str(ROOT / "build" / "coverage-cache"), "OMP_NUM_THREADS": "1"}
            running.append((subprocess.Popen(command, cwd=ROOT, env=env), group, time.monotonic()))
        time.sleep(0.2)
        for job in list(running):
            process, group, since = job
            code = process.poll()
            if code is None and time.monotonic() - since < 900:
                continue
            running.remove(job)
            if code is None:
                process.kill()
                process.wait()
            missing = [n for n in group if n not in read(begin)] if code != 0 else []
            if len(group) > 1:
                waiting += [[n] for n in missing]
            elif missing:
                lost = Outcome(group[0])
                lost.forward.failed.append(f"{group[0]}: the process ended with {code}")
                append([lost])
            done += len(group) - (len(missing) if len(group) > 1 else 0)
            print(f"{done}/{len(names)} {group[0]} .. {time.monotonic() - since:.0f} s", flush=True)


def append(outcomes: Sequence[Outcome]) -> None:
    """Add to the file of results."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as f:
        f.writelines(json.dumps(asdict(o)) + "\n" for o in outcomes)


STATES = ("lowered", "library", "in part", "fallback", "unplanned", "failed")
MEANS = {
    "lowered": "every sample is computed by our own kernels (with library calls and views beside them)",
    "library": "nothing to lower: library calls, views and random draws",
    "in part": "some samples, or some operations of them, stay ATen calls inside the plan",
    "fallback": "every sample has an operation that stays an ATen call inside the plan",
    "unplanned": "sizes or dtypes that no plan is made for: planned as it runs, or as captured",
    "failed": "another result than eager's, or an error",
}


def state(found: dict[str, Any]) -> str | None:
    """One word for an entry in one direction; None: no sample was tried."""
    if found["failed"]:
        return "failed"
    if not found["passed"]:
        return None
    planned = found["passed"] - sum(found["unplanned"].values())
    if not planned:
        return "unplanned"
    if found["lowered"] == found["passed"]:
        return "library" if found["library"] == found["passed"] else "lowered"
    return "in part" if found["lowered"] else "fallback"


def grouped(found: dict[str, dict[str, Any]]) -> list[tuple[str, int, list[str]]]:
    """(reason, in how many entries, operations) of what was not lowered, the most frequent reason first. Names of values
    and numbers are no part of a reason."""
    entries: dict[str, set[str]] = {}
    targets: dict[str, set[str]] = {}
    for name, x in found.items():
        for w in {**x["forward"]["fallbacks"], **x["backward"]["fallbacks"]}:
            target, _, because = w.partition(": ")
            reason = re.sub(
                r"\b\d+\b", "N", re.sub(r"%\w+ is (c\d+) on cpu", r"takes or gives complex numbers (\1)", because)
            )
            entries.setdefault(reason, set()).add(name)
            targets.setdefault(reason, set()).add(target.removeprefix("aten."))
    return sorted(((r, len(e), sorted(targets[r])) for r, e in entries.items()), key=lambda t: (-t[1], t[0]))


def page(found: dict[str, dict[str, Any]]) -> str:
    """docs/coverage.md."""
    sides = ("forward", "backward")
    count = {s: Counter(state(x[s]) for x in found.values()) for s in sides}
    tried = {s: sum(x[s]["passed"] + len(x[s]["failed"]) for x in found.values()) for s in sides}
    lines = [
        "# Coverage",
        "",
        "Written by `python -m benchmarks coverage`: the samples of torch's operator database (OpInfo, torch "
        f'{torch.__version__.partition("+")[0]}), each captured, compiled with `kernels="loops"`, run beside eager. Of '
        "every entry up to "
        + ", ".join(f"{n} samples in {str(d).removeprefix('torch.')}" for d, n, _ in PLAN)
        + "; gradients in the floating ones.",
        "",
        f"{len(found)} of {len(op_db)} entries are in; {tried['forward']} samples forward, {tried['backward']} backward.",
        "",
        "| entries | forward | backward | meaning |",
        "|---|---|---|---|",
    ]
    lines += [f"| {s} | {count['forward'][s]} | {count['backward'][s]} | {MEANS[s]} |" for s in STATES]
    lines.append(
        f"| none tried | {count['forward'][None]} | {count['backward'][None]} | no such sample, or eager or capture refuses |"
    )
    lines += ["", "## What stays an ATen call", "", "| reason | entries | operations |", "|---|---|---|"]
    for reason, entries, targets in grouped(found):
        lines.append(f"| {reason.replace('|', '/')} | {entries} | {', '.join(f'`{t}`' for t in targets)} |")
    for s in STATES:
        if s == "lowered":
            continue
        for side in sides:
            names = sorted(n for n, x in found.items() if state(x[side]) == s)
            if names:
                lines += ["", f"## {s}, {side}", "", ", ".join(f"`{n}`" for n in names)]
    lines += ["", "## Samples not tried", "", "| why | samples |", "|---|---|"]
    skipped: Counter[str] = Counter()
    for x in found.values():
        for w, n in x["skipped"].items():
            skipped[" ".join(w.split()[:2])] += n
    lines += [f"| {w.replace('|', '/')} | {n} |" for w, n in skipped.most_common()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="run these entries in this process, and no more")
    parser.add_argument("--again", nargs="*", help="repeat these entries, or all")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    ops = {op.full_name: op for op in op_db}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if given.only:
        append(run_entries([ops[n] for n in given.only]))
        return
    known, again = read(), given.again or []
    begun = time.monotonic()
    by_groups([n for n in ops if n not in known or n in again or again == ["all"]], GROUP, given.workers)
    print(f"{time.monotonic() - begun:.0f} s", flush=True)
    found = read()
    RESULTS.write_text("".join(json.dumps(x) + "\n" for x in found.values()), encoding="utf-8")
    PAGE.write_text(page({n: found[n] for n in ops if n in found}), encoding="utf-8")
    for n, x in found.items():
        for side in ("forward", "backward"):
            for f in x[side]["failed"]:
                print("failed", side, n, f)


if __name__ == "__main__":
    main()
