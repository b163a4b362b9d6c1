"""Compares what a backend computes with eager PyTorch, value by value, against a float64 run as the judge.

Comes in: a ``Case`` and a backend. Goes out: a ``Comparison`` that names every mismatch. Promised: every parameter's
gradient, every buffer, every result and (in ``step``) every parameter after the steps is looked at by itself; the case
that was given is left as it was; nothing is decided by a norm over several tensors.

A float tensor is right if its distance to the float64 run is at most four times eager's own plus 1e-4 of the float64
value's norm. A loss is right within 1e-5 of eager's, relatively. Whole numbers must be equal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from benchmarks.suite.entry import Case
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_map

Mode = Literal["train", "module", "infer", "sgd", "adamw"]
MODES: tuple[Mode, ...] = ("train", "module", "infer", "sgd", "adamw")

OWN_ERRORS, OF_NORM, OF_LOSS = 4.0, 1e-4, 1e-5
# Gradients that are zero in exact arithmetic are rounding noise in any other, measured by the largest gradient.
OF_LARGEST = 1e-8
OF_VALUE = 1e-7  # of a parameter after optimizer steps, besides 1e-4 of how far it was moved
_CALLS, _STEPS = 2, 3


@dataclass(frozen=True, slots=True)
class Fault:
    """One mismatch: ``what`` is off, and how."""

    what: str
    because: str

    def __str__(self) -> str:
        return f"{self.what}: {self.because}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All mismatches, how many values were compared, and the names of those on which rounding leaves no verdict."""

    faults: tuple[Fault, ...]
    compared: int
    undecided: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.compared} values compared, {len(self.faults)} wrong, {len(self.undecided)} lost in rounding"
        return "\n  ".join([head, *map(str, self.faults)])


@dataclass(slots=True)
class _Record:
    """What one run left behind; every value under a name that says what it is."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)
    overwritten: list[str] = field(default_factory=list)
    shared: list[tuple[str, str]] = field(default_factory=list)


Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


def compare(
    case: Case,
    backend: Any,
    mode: Mode,
    *,
    half: bool = False,
    input_gradients: bool = False,
    options: Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
    seed: int = 3,
) -> Comparison:
    """Run ``case`` under eager, under ``torch.compile(backend=backend)`` and in float64, and compare.

    ``train`` is two iterations of forward and backward with the loss inside what is compiled, ``module`` the same with
    only the module compiled and its results looked at, ``infer`` two calls under ``no_grad`` in evaluation mode,
    ``sgd`` and ``adamw`` three steps of that optimizer. All results are held until the end, so that a later call must
    not overwrite them. The second call sees other numbers than the first. ``half`` says that the model computes
    partly in 16 bits, so that its loss is judged as other values are.
    """
    given = {"options": dict(options)} if options else {}
    torch.compiler.reset()

    def compiled(f: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(f, backend=backend, dynamic=dynamic, **given)

    def run(wrap: Compile, double: bool) -> _Record:
        torch.manual_seed(seed)
        return _run(case, mode, wrap, double=double, input_gradients=input_gradients)

    eager = run(lambda f: f, False)
    exact = run(lambda f: f, True)
    got = run(compiled, False)
    return _judged(eager, exact, got, half=half)


def reproducible(case: Case, backend: Any, *, seed: int = 3) -> list[Fault]:
    """Whether training draws the same random numbers under the same seed and others under another one."""
    torch.compiler.reset()
    module = copy.deepcopy(case.module).train()
    function = torch.compile(lambda **given: case.loss(module(**given)), backend=backend)

    def run(seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(seed)
        module.zero_grad(set_to_none=True)
        loss = function(**case.inputs)
        loss.backward()
        return loss.detach(), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}

    first, again, other = run(seed), run(seed), run(seed + 1)
    faults = [Fault(f"gradient of {n}", "differs under the same seed") for n in first[1] if not _same(first, again, n)]
    if not torch.equal(first[0], again[0]):
        faults.append(Fault("loss", f"{first[0].item()} and {again[0].item()} under the same seed"))
    if torch.equal(first[0], other[0]):
        faults.append(Fault("loss", "the same under two seeds: no random numbers were drawn"))
    return faults


def _same(one: tuple[Tensor, dict[str, Tensor]], two: tuple[Tensor, dict[str, Tensor]], name: str) -> bool:
    return name in two[1] and torch.equal(one[1][name], two[1][name])


def _run(case: Case, mode: Mode, wrap: Compile, *, double: bool, input_gradients: bool) -> _Record:
    module = copy.deepcopy(case.module)
    module = (module.double() if double else module).train(mode != "infer")
    record = _Record()
    record.start = {f"parameter {n}": p.detach().clone() for n, p in module.named_parameters()}
    if mode == "infer":
        _infer(case, module, wrap, record, double)
    elif mode in ("train", "module"):
        _train(case, module, wrap, record, double, input_gradients, mode == "module")
    else:
        _step(case, module, wrap, record, double, mode)
    record.values |= {f"buffer {n}": b.clone() for n, b in module.named_buffers()}
    return record


def _infer(case: Case, module: nn.Module, wrap: Compile, record: _Record, double: bool) -> None:
    function = wrap(lambda **given: module(**given))
    for call in range(_CALLS):
        given = _inputs(case, call, double)
        before = tree_map(_copied, given)
        with torch.no_grad():
            out = function(**given)
        record.overwritten += [f"call {call} {n}" for n in _changed(before, given)]
        _note_results(record, call, given, out)


def _note_results(record: _Record, call: int, given: Mapping[str, Any], out: Any) -> None:
    named = {f"call {call} result {path}": leaf for path, leaf in _leaves(out)}
    record.shared += _sharing({**named, **{f"call {call} input {n}": v for n, v in given.items()}})
    record.values |= named


def _train(
    case: Case, module: nn.Module, wrap: Compile, record: _Record, double: bool, inputs_too: bool, module_only: bool
) -> None:
    whole = wrap(lambda **given: case.loss(module(**given)))
    alone = wrap(lambda **given: module(**given))
    for call in range(_CALLS):
        given = _inputs(case, call, double)
        if inputs_too:
            given = tree_map(_wanting, given)
        before = tree_map(_copied, given)
        if module_only:
            out = alone(**given)
            _note_results(record, call, given, out)
            loss = case.loss(out)
        else:
            loss = whole(**given)
        loss.backward()
        record.losses[f"call {call} loss"] = loss.detach()
        record.overwritten += [f"call {call} {n}" for n in _changed(before, given)]
        named = dict(module.named_parameters())
        named |= {f"input {path}": leaf for path, leaf in _leaves(given) if isinstance(leaf, Tensor)}
        for name, tensor in named.items():
            if tensor.grad is not None:
                record.gradients[f"call {call} gradient of {name}"] = tensor.grad
        module.zero_grad(set_to_none=True)


def _step(case: Case, module: nn.Module, wrap: Compile, record: _Record, double: bool, kind: str) -> None:
    wanted = [p for p in module.parameters() if p.requires_grad]
    if kind == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(wanted, lr=1e-3)
    else:
        optimizer = torch.optim.SGD(wanted, lr=1e-2, momentum=0.9)
    function = wrap(lambda **given: case.loss(module(**given)))
    for step in range(_STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = function(**_inputs(case, step, double))
        loss.backward()
        optimizer.step()
        record.losses[f"step {step} loss"] = loss.detach()
    record.values |= {f"parameter {n}": p.detach() for n, p in module.named_parameters()}


def _inputs(case: Case, call: int, double: bool) -> dict[str, Any]:
    """Fresh copies of the inputs; floating ones are a little larger at each call."""

    def own(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not value.is_floating_point():
            return value.clone()
        return (value.double() if double else value) * (1.0 + 0.125 * call)  # exact in binary

    return {name: tree_map(own, value) for name, value in case.inputs.items()}


def _wanting(value: Any) -> Any:
    return value.requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    try:
        found = [("".join(map(str, path)) or "itself", leaf) for path, leaf in tree_flatten_with_path(tree)[0]]
    except ValueError:  # a container that does not name its parts
        found = [(f"[{i}]", leaf) for i, leaf in enumerate(tree_leaves(tree))]
    yield from found


def _changed(before: Any, after: Any) -> list[str]:
    pairs = zip(_leaves(before), _leaves(after), strict=True)
    return [f"input {path}" for (path, a), (_, b) in pairs if isinstance(a, Tensor) and not torch.equal(a, b)]


def _sharing(named: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of tensors that stand on one storage."""
    tensors = [(n, t) for n, t in named.items() if isinstance(t, Tensor) and t.numel()]
    where = {n: t.untyped_storage().data_ptr() for n, t in tensors}
    names = list(where)
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if where[a] == where[b]]


def _judged(eager: _Record, exact: _Record, got: _Record, *, half: bool) -> Comparison:
    faults: list[Fault] = []
    undecided: list[str] = []
    faults += [Fault(n, "was overwritten") for n in got.overwritten if n not in eager.overwritten]
    faults += [Fault(n, "should have been written") for n in eager.overwritten if n not in got.overwritten]
    faults += [
        Fault(f"{a} and {b}", "share memory, unlike eager's") for a, b in got.shared if (a, b) not in eager.shared
    ]
    faults += [Fault(f"{a} and {b}", "should share memory") for a, b in eager.shared if (a, b) not in got.shared]
    for name, loss in eager.losses.items():
        faults += _loss_fault(name, loss, exact.losses[name], got.losses[name], half or "step" in name)
    largest = max((g.double().norm().item() for g in exact.gradients.values()), default=0.0)
    faults += _missing(eager.gradients, got.gradients) + _missing(eager.values, got.values)
    for kind, floor in (("gradients", OF_LARGEST * largest), ("values", 0.0)):
        ours, theirs, truth = getattr(got, kind), getattr(eager, kind), getattr(exact, kind)
        for name in theirs.keys() & ours.keys():
            slack = floor
            if name in eager.start and kind == "values":  # a parameter: what counts is how far it was moved
                moved = (truth[name] - exact.start[name]).norm().item()
                slack = OF_VALUE * truth[name].norm().item() + OF_NORM * moved
                faults += _value_fault(name, theirs[name], truth[name], ours[name], slack, 0.0, undecided)
            else:
                faults += _value_fault(name, theirs[name], truth[name], ours[name], slack, OF_NORM, undecided)
    compared = len(eager.losses) + len(eager.gradients) + len(eager.values)
    return Comparison(tuple(sorted(faults, key=str)), compared, tuple(sorted(undecided)))


def _missing(eager: Mapping[str, Any], got: Mapping[str, Any]) -> list[Fault]:
    return [Fault(n, "is not there") for n in eager.keys() - got.keys()] + [
        Fault(n, "is there, unlike eager's") for n in got.keys() - eager.keys()
    ]


def _loss_fault(name: str, eager: Tensor, exact: Tensor, got: Tensor, by_own_error: bool) -> list[Fault]:
    e, x, g = eager.double().item(), exact.double().item(), got.double().item()
    bound = OF_LOSS * abs(e)
    if by_own_error:
        bound += OWN_ERRORS * abs(e - x) + OF_LOSS * abs(x)
    if abs(g - (x if by_own_error else e)) <= bound:
        return []
    return [Fault(name, f"{g!r} where eager has {e!r} and float64 {x!r}")]


def _value_fault(
    name: str, eager: Any, exact: Any, got: Any, slack: float, of_norm: float, undecided: list[str]
) -> list[Fault]:
    if not isinstance(eager, Tensor):
        return [] if type(got) is type(eager) and got == eager else [Fault(name, f"{got!r} where eager has {eager!r}")]
    if not isinstance(got, Tensor):
        return [Fault(name, f"a {type(got).__name__} where eager has a tensor")]
    for what in ("dtype", "shape", "device", "requires_grad"):
        if getattr(got, what) != getattr(eager, what):
            return [Fault(name, f"{what} {getattr(got, what)} where eager has {getattr(eager, what)}")]
    if got.numel() and _strides(got) != _strides(eager):
        return [Fault(name, f"strides {got.stride()} where eager has {eager.stride()}")]
    if not (eager.is_floating_point() or eager.is_complex()):
        wrong = int((got != eager).sum())
        return [Fault(name, f"{wrong} of {got.numel()} whole numbers differ")] if wrong else []
    wide = torch.complex128 if eager.is_complex() else torch.float64
    g, e, x = got.detach().to(wide), eager.detach().to(wide), exact.detach().to(wide)
    special = ~torch.isfinite(e)
    if special.any():
        if not ((g == e) | (g.isnan() & e.isnan()))[special].all():
            return [Fault(name, "other NaNs or infinities than eager's")]
        g, e, x = g[~special], e[~special], x[~special]
    own, apart, norm = (e - x).norm().item(), (g - x).norm().item(), x.norm().item()
    bound = OWN_ERRORS * own + of_norm * norm + slack
    if norm and bound >= norm and of_norm:
        undecided.append(name)
    if apart <= bound:
        return []
    zero = " (it is all zero)" if not g.any() and x.any() else ""
    return [Fault(name, f"off by {apart:.3g} of {norm:.3g}, eager itself by {own:.3g}{zero}")]


def _strides(t: Tensor) -> list[int]:
    """Strides of the dimensions that are walked along."""
    return [s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1]
