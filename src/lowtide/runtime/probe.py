"""What an operation really does on its actual layouts: measured once, before the first step, and cached.

Comes in: a static Graph. Goes out: ``OpFacts`` by operation name. Each distinct (operator, layouts, arguments, threads)
is run once on tensors of its own under the counter of its device's allocator: how many bytes it allocates beyond its
results, whether its ``out=`` form truly writes into given memory, whether its results have the strides that the graph
expects and memory of their own. Promised: the caller's tensors and random state are untouched; an operation that cannot
be tried alone keeps safe facts and a Reason. Peak statistics of devices other than the CPU are reset; measurements of ours
that run meanwhile (``runtime.measure``) keep theirs.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lowtide.core.folders import cache_folder
from lowtide.core.reason import Reason
from lowtide.ir.graph import WAIT, Atom, Graph, Layout, Op, Ref
from lowtide.ir.lowered import LOOP
from lowtide.ir.strides import same_places
from lowtide.plan.plan import alignment_of
from lowtide.runtime.calls import REFUSALS, Trial, empty, overload, results_of, trial
from lowtide.runtime.measure import peak_of
from lowtide.schedule.schedule import OF_NEW, OpFacts, begun_into, runs_on


def probe(graph: Graph) -> dict[str, OpFacts]:
    """Facts for every operation that is not a view."""
    known = _Known()

    def try_all() -> dict[str, OpFacts]:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return {op.name: known.of(graph, op) for op in graph.ops if _to_be_tried(op)}

    # On a thread of its own, where no fake tensors, autocast, profiler or other mode of the caller's is in force.
    with ThreadPoolExecutor(1) as thread:
        facts = thread.submit(try_all).result()
    known.store()
    return facts


def _to_be_tried(op: Op) -> bool:
    """Not what is no call of a library, nor what may go on when the call is over and its operands are gone."""
    return not op.view and op.target not in (LOOP, WAIT) and not begun_into(op)


def signature(graph: Graph, op: Op) -> str:
    """Text that two operations share exactly when they behave alike: operator, arguments, layouts, which are the same
    tensor, and which results are used."""
    seen: dict[str, int] = {}

    def show(arg: Any) -> str:
        if isinstance(arg, Ref):
            number = seen.setdefault(arg.name, len(seen))
            return f"#{number}{_layout(graph.value[arg.name].layout)}"
        if isinstance(arg, tuple):
            return f"[{','.join(map(show, arg))}]"
        return str(arg) if isinstance(arg, Atom) else repr(arg)

    args = ";".join((*map(show, op.args), *(f"{k}={show(a)}" for k, a in op.kwargs)))
    results = ",".join(_layout(graph.value[o].layout) if o else "-" for o in op.outputs)
    return f"{op.target}({args})->{results}"


def _layout(x: Layout) -> str:
    return f"{x.dtype}{list(x.size)}{list(x.stride)}{x.device}{' pinned' if x.pinned else ''}"


_STORED = 20_000  # the file keeps the newest: sizes that vary would make it grow for ever

_UNKNOWN: Mapping[str, Any] = {
    "out": None, "out_name": "out", "workspace": 0, "out_workspace": 0, "overwrite": None, "pointwise": False,
    "restride": [], "note": None,
}  # fmt: skip


class _Known:
    """Facts by signature: this process's, and those of a file in the cache folder (short-lived)."""

    def __init__(self) -> None:
        machine = f"{torch.__version__}-{torch.get_num_threads()}-{torch.backends.cpu.get_cpu_capability()}"
        self.path = cache_folder() / f"facts-5-{machine.replace(' ', '_')}.jsonl"
        self.stored = _read(self.path)
        self.fresh: dict[str, dict[str, Any]] = {}
        self.elsewhere: dict[str, dict[str, Any]] = {}  # of other devices, of which the file's name says nothing

    def of(self, graph: Graph, op: Op) -> OpFacts:
        key = signature(graph, op)
        record = self.stored.get(key) or self.fresh.get(key) or self.elsewhere.get(key)
        if record is None:
            record = _try(graph, op)
            known = self.fresh if runs_on(graph, op) == "cpu" else self.elsewhere
            known[key] = record
        return _facts(op, record)

    def store(self) -> None:
        """Add what is new to the file, at its end, so that it costs no more where much is known; a file grown too long is
        written anew.

        What could not be tried is not stored: the next process may have more luck (or memory).
        """
        fresh = {key: record for key, record in self.fresh.items() if record["note"] is None}
        if not fresh:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = _read(self.path) | fresh
            if len(known) > _STORED:
                known = dict(itertools.islice(known.items(), len(known) - _STORED // 2, None))
                _write(self.path, known)
            else:
                fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                with os.fdopen(fd, "wb") as f:
                    f.write(_lines(fresh))
            _remembered[self.path] = _state(self.path), known
        except OSError:
            return  # a cache that cannot be written is no cache: everything is measured again next time


# What a file held when it was read last, and its state then: what follows shape by shape does not read it again.
_remembered: dict[Path, tuple[tuple[int, int] | None, dict[str, dict[str, Any]]]] = {}


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _lines(records: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A line each; a line that another process left unfinished stays one of its own."""
    return "".join(f"\n{json.dumps({key: record})}" for key, record in records.items()).encode()


def _write(path: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    fd, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(_lines(records))
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    state = _state(path)
    if path in _remembered and _remembered[path][0] == state:
        return _remembered[path][1]
    found: dict[str, dict[str, Any]] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        found |= _parsed(line)
    _remembered[path] = state, found
    return found


def _parsed(line: str) -> dict[str, dict[str, Any]]:
    """What a line holds; nothing where it is damaged."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return {k: r for k, r in found.items() if _whole(r)} if isinstance(found, dict) else {}


def _whole(record: Any) -> bool:
    """Whether what a file holds can be a record."""
    if not isinstance(record, dict) or set(record) != set(_UNKNOWN):
        return False
    if not isinstance(record["restride"], list) or not isinstance(record["pointwise"], bool):
        return False
    names = [record["out_name"], *(record[k] or "" for k in ("out", "overwrite", "note"))]
    counts = [record["workspace"], record["out_workspace"], *record["restride"]]
    return all(isinstance(n, str) for n in names) and all(type(n) is int and n >= 0 for n in counts)


def _facts(op: Op, record: Mapping[str, Any]) -> OpFacts:
    note = record["note"]
    return OpFacts(
        out=record["out"],
        out_name=record["out_name"],
        workspace=record["workspace"],
        out_workspace=record["out_workspace"],
        overwrite=record["overwrite"],
        pointwise=record["pointwise"],
        restride=tuple(record["restride"]),
        note=Reason(f"{op.target} ({op.origin})", note) if note else None,
    )


def _try(graph: Graph, op: Op) -> dict[str, Any]:
    record: dict[str, Any] = dict(_UNKNOWN, restride=[])
    alone = trial(graph, op)
    if isinstance(alone, str):
        record["note"] = f"{alone}; its workspace is taken as 0 bytes"
        return record
    device = runs_on(graph, op)
    record["pointwise"] = torch.Tag.pointwise in alone.call.tags or _row_by_row(graph, op)
    try:
        results, peak = peak_of(alone, device)
    except REFUSALS as e:
        record["note"] = f"could not be tried alone ({str(e).splitlines()[0][:120]}); its workspace is taken as 0 bytes"
        return record
    if op.mutates or op.returns == "none":
        record["workspace"] = peak
        return record
    flat = results_of(op, results)
    used = [(i, graph.value[o].layout, flat[i]) for i, o in enumerate(op.outputs) if o is not None]
    record["restride"] = [i for i, layout, t in used if not _as_expected(layout, t, alone.tensors.values())]
    counted = [(i, layout.extent) for i, layout, _ in used if not layout.pinned]
    nbytes = sum(n for _, n in counted)
    again = sum(n for i, n in counted if i in record["restride"])
    record["workspace"] = max(0, peak - nbytes) + again
    del results, flat, used
    _try_out(graph, op, record, alone)
    return record


# Each row of the last dimension is read whole before it is written, so that a result may overwrite an operand.
_ROW_WISE = {
    "aten._softmax.default": 1,
    "aten._log_softmax.default": 1,
    "aten._softmax_backward_data.default": 2,
    "aten._log_softmax_backward_data.default": 2,
}


def _row_by_row(graph: Graph, op: Op) -> bool:
    position = _ROW_WISE.get(op.target)
    if position is None or not isinstance(op.args[0], Ref):
        return False
    rank = len(graph.value[op.args[0].name].layout.size)
    return rank > 0 and op.args[position] in (-1, rank - 1)


def _as_expected(layout: Layout, t: torch.Tensor, operands: Any) -> bool:
    """Strides as the graph says (dimensions of one element or less aside), and memory of its own, no more than it needs
    (``binary_cross_entropy`` returns its mean in the storage of all elements' losses)."""
    strides = tuple(t.shape) == layout.size and same_places(layout.size, t.stride(), layout.stride)
    own = all(t.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() for x in operands) or layout.extent == 0
    return strides and own and t.untyped_storage().nbytes() <= layout.extent


def _try_out(graph: Graph, op: Op, record: dict[str, Any], alone: Trial) -> None:
    """Find the overload that writes into given tensors, and keep it if it allocates no more than the plain call."""
    if record["restride"] or op.paths or any(o is None or graph.value[o].layout.pinned for o in op.outputs):
        return  # what is pinned, the call itself has to allocate
    device = runs_on(graph, op)
    record["overwrite"] = _overwriting(op, alone, device)
    found = _out_overload(op.target, len(op.outputs), bool(op.reads))
    if found is None:
        return
    target, names = found
    into = [empty(graph.value[o].layout) for o in op.outputs if o is not None]
    told = alone.kwargs if op.reads else {k: a for k, a in alone.kwargs.items() if k not in OF_NEW}
    written = replace(alone, call=overload(target), kwargs=told | dict(zip(names, into, strict=True)))
    try:
        _, peak = peak_of(written, device)
    except REFUSALS:
        return
    if peak <= record["workspace"]:
        record.update(out=target, out_name=names[0], out_workspace=peak)


def _overwriting(op: Op, alone: Trial, device: str) -> str | None:
    """Name of the overload that overwrites its first argument (``relu_`` for ``relu``), if it does so without memory."""
    namespace, name, which = op.target.split(".", 2)
    packet = getattr(getattr(torch.ops, namespace), f"{name}_", None)
    args, kwargs = alone.args, alone.kwargs
    if packet is None or which not in packet.overloads() or not args or not isinstance(args[0], torch.Tensor):
        return None
    target = f"{namespace}.{name}_.{which}"
    try:
        _, peak = peak_of(lambda: overload(target)(args[0].clone(), *args[1:], **kwargs), device)
    except REFUSALS:
        return None
    return target if peak <= args[0].nbytes + alignment_of(device) else None  # the clone, rounded


@functools.cache
def _out_overload(target: str, results: int, reads: bool) -> tuple[str, list[str]] | None:
    """Name and out-argument names of the overload with the same inputs whose ``results`` are all given by the caller. Other
    sizes of an operation have the same one, and reading schemas takes as long as a small call. ``reads``: whether it reads
    tensors."""
    namespace, name, _ = target.split(".", 2)
    packet = getattr(getattr(torch.ops, namespace), name)
    wanted = [(a.name, str(a.type)) for a in overload(target)._schema.arguments]
    factory = [w for w in wanted if w[0] not in OF_NEW]
    for candidate in packet.overloads():
        given = getattr(packet, candidate)._schema.arguments
        outs = [a.name for a in given if a.is_out]
        inputs = [(a.name, str(a.type)) for a in given if not a.is_out]
        told = [i for i in inputs if i[0] not in OF_NEW]
        if len(outs) == results and (inputs == wanted or (told == factory and not reads)):
            return f"{namespace}.{name}.{candidate}", outs
    return None
