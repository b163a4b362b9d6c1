"""``torch.export`` programs: an ExportedProgram -> a callable with a promised peak.

Comes in: what ``torch.export.export`` returns. Goes out: a callable with the program's own signature that gives the same
numbers. Promised: parameters, buffers and constants stay where they are; buffers and arguments that the program changes
are changed; sizes may vary within what the export allows: each is planned when first seen. Arguments are held against
what was exported before anything runs, and copied where their strides differ.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from lowtide.backend import build_at_run_time, build_planned, lowtide, simplify
from lowtide.core.errors import Unsupported, UserError
from lowtide.core.options import Options
from lowtide.core.reason import Reason
from lowtide.executor.capture import import_block
from lowtide.executor.emit import dim_text
from lowtide.executor.entry import ELSE, Checks, entry
from lowtide.executor.groups import Life
from lowtide.executor.learned import WINDOW
from lowtide.executor.placing import Strategy, strategy_of
from lowtide.executor.plans import Built, Policy
from lowtide.executor.run import Executor, Told, clear_code
from lowtide.frontend.pinned import keep_pinned
from lowtide.frontend.sizes import dim_of
from lowtide.ir.strides import same_places
from lowtide.ir.symbolic import Dim, Expr, evaluate, symbols_of
from lowtide.runtime.load import exact
from lowtide.runtime.records import Record
from lowtide.torch_compat import join_next_reset, tree_flatten, tree_unflatten

_numbers = itertools.count()
_INPUTS = (InputKind.USER_INPUT, InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_MUTATIONS = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION, OutputKind.USER_INPUT_MUTATION)


def compile_exported(program: ExportedProgram, *, options: Mapping[str, object] | None = None) -> Callable[..., Any]:
    """Plan an exported program. The result is called like ``program.module()``, without gradients.

    A program whose sizes depend on data, or with conditionals and loops, is planned as it runs (``plan_at_run_time``).

    Raises:
        UserError: not an ExportedProgram; when called, arguments that the program was not exported for.
        OptionError, OverBudget: as for ``torch.compile``.
        Unsupported: the program does what we cannot express; the message says what and where.
    """
    chosen = Options.of(options)
    lowered = _lowered(program)
    simplify(lowered.graph_module, chosen)
    record = Record(f"export{next(_numbers)}")
    join_next_reset(lowtide)  # which would go past us where nothing but exported programs were compiled
    calls = [("inference", lowered.graph_module)]
    run = build_planned(record, chosen, calls, None)
    section = run.section(0) if run is not None else build_at_run_time(record, chosen, lowered.graph_module)
    if section is None:
        raise Unsupported(record.fallback or Reason("the program", "cannot be expressed"))
    return _Caller(program, lowered, section)


def plan_at_run_time(
    program: ExportedProgram,
    *,
    strategy: str | Callable[[Sequence[Life]], Strategy] = "packed",
    out_variants: bool = True,
    manage_outputs: bool = False,
    recent_shapes: int = 64,
    window: int = WINDOW,
    retain: int = 1 << 30,
    tight: bool = False,
    verify: bool = False,
    reorder: bool = True,
) -> RunTimePlanned:
    """Run an exported program from one slab per device whose layout is learned: the first run allocates as PyTorch does.

    strategy: ``packed`` (offsets by size and life), ``groups`` (storage groups without sizes), ``separate`` (no sharing), or
        a function from lives to a strategy, called once per device with the lives there. out_variants: off, nothing is managed.
        manage_outputs: results in a slab of their own, which ends with the last of them. recent_shapes: signatures
        that keep their plan. window: runs after which a size that was not seen again stops counting (at the latest
        after twice as many). retain: bytes that idle instances may hold. tight: the slab is exactly as large as the
        plan for the present sizes. verify: poison bytes and check every result. reorder: look for an order of
        operations that needs fewer bytes, at the sizes of the first run.

    Raises:
        UserError: not an ExportedProgram; when called, arguments that the program was not exported for.
        OptionError: no such strategy.
        Unsupported: the program does what we cannot express.
    """
    policy = Policy(
        strategy_of(strategy), out_variants, recent_shapes, window, verify, manage_outputs, retain, tight, reorder
    )  # fmt: skip
    lowered = _lowered(program)
    keep_pinned(lowered.graph_module)
    block, constants = import_block(f"export{next(_numbers)}", lowered.graph_module)
    executor = Executor(block, constants, policy)
    return RunTimePlanned(program, lowered, executor)


def _lowered(program: ExportedProgram) -> ExportedProgram:
    if not isinstance(program, ExportedProgram):
        raise UserError(f"an ExportedProgram is expected (from torch.export.export), not a {type(program).__name__}")
    lowered = program.run_decompositions({})
    _refuse_unknown_kinds(lowered.graph_signature.input_specs, lowered.graph_signature.output_specs)
    return lowered


class _Caller:
    """The program's own signature around a section that takes all inputs as one list. ``fitting``: forms of arguments that
    were accepted as they are, so that they are not looked at in detail again."""

    def __init__(self, program: ExportedProgram, lowered: ExportedProgram, section: Callable[[list[Any]], Any]) -> None:
        signature = lowered.graph_signature
        self.program, self.section, self.spec = program, section, lowered.call_spec
        ours = [s.kind is not InputKind.USER_INPUT for s in signature.input_specs]
        self.held = [
            _tensor(program, s.target) if own else None for s, own in zip(signature.input_specs, ours, strict=True)
        ]
        self.arguments = _arguments(lowered)
        self.flat = tree_unflatten(list(range(len(self.arguments))), lowered.call_spec.in_spec) == (
            tuple(range(len(self.arguments))), {},
        )  # fmt: skip
        self.written = [(i, s.kind, s.target) for i, s in enumerate(signature.output_specs) if s.kind in _MUTATIONS]
        self.kept = [i for i, s in enumerate(signature.output_specs) if s.kind is OutputKind.USER_OUTPUT]
        out: Any = lowered.call_spec.out_spec
        whole = tree_unflatten(list(range(len(self.kept))), out)
        self.form = (
            tuple if whole == tuple(range(len(self.kept))) else list if whole == list(range(len(self.kept))) else None
        )
        if whole == 0:
            self.form = _first
        self.all_kept = self.kept == list(range(len(signature.output_specs)))
        count = sum(ours)
        self.front = self.held[:count] if all(ours[:count]) else None
        self.checks = _checks(self.arguments) if self.flat else None
        self.fits = _fitting(self.checks) if self.checks is not None else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run once."""
        given: Sequence[Any] = args
        users: Sequence[Any] = args
        if kwargs or self.fits is None or len(args) != len(self.arguments) or not self.fits(*args):
            given, users = self._fitted(args, kwargs)
        if torch.is_grad_enabled():
            with torch.no_grad():
                results = self._run(given, users)
        else:
            results = self._run(given, users)
        return self.form(results) if self.form is not None else tree_unflatten(results, self.spec.out_spec)

    def _fitted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        users = _flat(self.spec.in_spec, args, kwargs)
        bound = _bound(self.arguments, users)
        return [a.fit(x, bound) for a, x in zip(self.arguments, users, strict=True)], users

    def _run(self, given: Sequence[Any], users: Sequence[Any]) -> list[Any]:
        front = self.front
        if front is not None:
            results = self.section([*front, *given])
        else:
            rest = iter(given)
            results = self.section([next(rest) if t is None else t for t in self.held])
        for i, kind, target in self.written:
            own = kind is not OutputKind.USER_INPUT_MUTATION
            names = [a.name for a in self.arguments]
            (_tensor(self.program, target) if own else users[names.index(str(target))]).copy_(results[i])
        return results if self.all_kept else [results[i] for i in self.kept]


class _Usual(NamedTuple):
    """The usual call of a program as one function, if there is one, and the code that it was made for."""

    built: Built | None
    call: Callable[[tuple[Any, ...]], Any] | None


class RunTimePlanned(_Caller):
    """An exported program that is planned as it runs: called like ``program.module()``, without gradients; safe from several
    threads."""

    def __init__(self, program: ExportedProgram, lowered: ExportedProgram, section: Executor) -> None:
        super().__init__(program, lowered, section)
        form = {tuple: "({},)", list: "[{}]", _first: "{}"}.get(self.form)  # type: ignore[call-overload]
        simple = self.front is not None and self.all_kept and not self.written and bool(self.kept)
        self.usual_form = form if simple else None
        self.known = _Usual(None, None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run once."""
        usual = self.known.call
        if usual is not None and not kwargs and len(args) == len(self.arguments) and not torch.is_grad_enabled():
            done = False
            try:
                results = usual(args)
                done = True
            finally:
                if not done:
                    clear_code(sys.exc_info()[2])
            if results is not ELSE:
                return results
        results = super().__call__(*args, **kwargs)
        if self.known.built is not self.executor.plan.built:
            self.known = self._renewed(self.executor.plan.built)
        return results

    def _renewed(self, built: Built | None) -> _Usual:
        """The usual call for other code than before. Both are taken up in one step: another thread may do the same for newer
        code meanwhile, and whichever is left in the end says itself what it was made for."""
        call = None
        if built is not None and self.usual_form is not None and self.checks is not None and self.front is not None:
            call = entry(self.executor, built, self.front, self.checks, self.usual_form)
        return _Usual(built, call)

    @property
    def executor(self) -> Executor:
        """What runs it."""
        return self.section  # type: ignore[return-value]

    def told(self) -> Told:
        """Runs, values, bytes, escapes so far."""
        return self.executor.told()

    def is_output_managed(self, t: Any) -> bool:
        """Whether a tensor lies in the slab of results of the latest run (only with ``manage_outputs``)."""
        return self.executor.is_output_managed(t)


_PLAIN = (torch.Tensor, torch.nn.Parameter)
_CPU = torch.device("cpu")


def _first(kept: Sequence[Any]) -> Any:
    return kept[0]


def _checks(arguments: Sequence[_Argument]) -> Checks | None:
    """Whether arguments are just what the program takes, as code. Where it says no they may still do: after a closer look, or
    as copies. None: a size can only be solved for."""
    names = [f"_a{i}" for i in range(len(arguments))]
    bound: dict[str, Any] = {"_plain": _PLAIN, "_strided": torch.strided}
    known: set[str] = set()
    late: list[str] = []
    lines: list[str] = []
    for i, (name, a) in enumerate(zip(names, arguments, strict=True)):
        sizes = [f"_n{i}_{d}" for d in range(len(a.size))]
        if isinstance(a.value, torch.Tensor):
            device = a.value.device
            bound[f"_dtype{i}"], bound[f"_device{i}"] = a.value.dtype, device
            here = f"{name}.is_cpu" if device == _CPU else f"{name}.device == _device{i}"
            lines += [
                f"if type({name}) not in _plain or {name}.dtype is not _dtype{i} or not {here} "
                f"or {name}.layout is not _strided: return ELSE",
                f"_shape = {name}.shape",
                f"if len(_shape) != {len(sizes)}: return ELSE",
                *([f"{', '.join(sizes)}, = _shape"] if sizes else []),
            ]
        elif isinstance(a.value, torch.SymInt):
            lines += [f"if type({name}) is not int: return ELSE", f"{sizes[0]} = {name}"]
        else:
            bound[f"_value{i}"] = a.value
            lines.append(f"if type({name}) is not type(_value{i}) or {name} != _value{i}: return ELSE")
        for n, d in zip(sizes, a.size, strict=True):
            symbol = str(d.args[0]) if isinstance(d, Expr) and d.op == "sym" else None
            if symbol is not None and symbol not in known:
                known.add(symbol)
                low, high = a.limits.get(symbol, (0, math.inf))
                above = "" if math.isinf(high) else f" <= {int(high)}"
                lines += [f"if not {low} <= {n}{above}: return ELSE", f"k_{symbol} = {n}"]
            else:
                late.append(f"if {n} != {dim_text(d)}: return ELSE")
        if isinstance(a.value, torch.Tensor):
            late.append(f"if {name}.stride() != ({''.join(f'{dim_text(d)}, ' for d in a.stride)}): return ELSE")
    used = {s for a in arguments for d in (*a.size, *a.stride) for s in symbols_of(d)}
    return None if used - known else Checks(tuple(names), (*lines, *late), frozenset(known), bound)


def _fitting(checks: Checks) -> Callable[..., bool]:
    """The same as a function of its own."""
    names = {**checks.bound, "ELSE": False}
    body = "\n    ".join([*checks.lines, "return True"])
    exec(f"def fits({', '.join(checks.names)}):\n    {body}\n", names)
    return names["fits"]


@dataclass(frozen=True, slots=True)
class _Argument:
    """What the caller must pass at one place: a tensor of that layout (``value`` is an example of it), a size, or exactly
    ``value``. limits: smallest and largest value of each symbol."""

    name: str
    value: Any
    size: tuple[Dim, ...]
    stride: tuple[Dim, ...]
    limits: Mapping[str, tuple[int, float]]

    def bind(self, given: Any, bound: dict[str, int]) -> None:
        """Refuse what does not fit, and learn sizes from what does.

        Raises:
            UserError: with the argument and what is wrong about it.
        """
        if isinstance(self.value, torch.SymInt):
            self._learn(self.size[0], given, bound, "")
        elif not isinstance(self.value, torch.Tensor):
            if type(given) is not type(self.value) or given != self.value:
                raise UserError(f"argument {self.name} was {self.value!r} at export and is {given!r} now")
        else:
            if not isinstance(given, torch.Tensor):
                raise UserError(f"argument {self.name} is a tensor, not a {type(given).__name__}")
            wanted = (self.value.dtype, self.value.device, len(self.size))
            found = (given.dtype, given.device, given.dim())
            if wanted != found or given.layout is not torch.strided:
                raise UserError(f"argument {self.name}: (dtype, device, rank) are {wanted} in the program, not {found}")
            for i, (dim, n) in enumerate(zip(self.size, given.shape, strict=True)):
                self._learn(dim, n, bound, f" dimension {i}")

    def _learn(self, dim: Dim, n: Any, bound: dict[str, int], where: str) -> None:
        name = str(dim.args[0]) if isinstance(dim, Expr) and dim.op == "sym" else None
        if type(n) is not int:
            raise UserError(f"argument {self.name} is a size, not {n!r}")
        if name is not None and name not in bound:
            low, high = self.limits.get(name, (0, math.inf))
            if not low <= n <= high:
                raise UserError(
                    f"argument {self.name}{where}: {n} is outside {low}..{high:g}, for which it was exported"
                )
            bound[name] = n
        elif isinstance(dim, int) or symbols_of(dim) <= bound.keys():
            wanted = evaluate(dim, bound)
            if wanted != n:
                raise UserError(f"argument {self.name}{where}: {wanted} is expected, not {n}")

    def fit(self, given: Any, bound: Mapping[str, int]) -> Any:
        """The argument with the strides for which the program was planned: itself, or a copy."""
        if not isinstance(self.value, torch.Tensor):
            return given
        stride = tuple(evaluate(d, bound) for d in self.stride)
        return given if same_places(given.shape, given.stride(), stride) else exact(given, given.shape, stride)


def _arguments(program: ExportedProgram) -> list[_Argument]:
    """What the caller passes, in order, read off the placeholders."""
    limits = {str(s): (_whole(r.lower), float(r.upper)) for s, r in program.range_constraints.items()}
    nodes = {n.name: n for n in program.graph.find_nodes(op="placeholder")}
    out: list[_Argument] = []
    for s in program.graph_signature.input_specs:
        if s.kind is InputKind.USER_INPUT:
            constant = isinstance(s.arg, ConstantArgument)
            value = s.arg.value if constant else nodes[s.arg.name].meta["val"]
            size: tuple[Dim, ...] = ()
            stride: tuple[Dim, ...] = ()
            if isinstance(value, torch.Tensor):
                size, stride = tuple(map(dim_of, value.size())), tuple(map(dim_of, value.stride()))
            elif isinstance(value, torch.SymInt):
                size = (dim_of(value),)
            out.append(_Argument(s.arg.name, value, size, stride, limits))
    return out


def _whole(limit: Any) -> int:
    """The lower limit of a size; numbers that are no sizes have none."""
    return 0 if math.isinf(float(limit)) else int(limit)


def _flat(spec: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The leaves of the arguments, keyword arguments in the program's order."""
    _, named = tree_unflatten(list(range(spec.num_leaves)), spec)
    if named.keys() == kwargs.keys():
        kwargs = {k: kwargs[k] for k in named}
    flat, found = tree_flatten((args, kwargs))
    if found != spec:
        raise UserError(f"the exported program takes arguments of the form {spec}, not {found}")
    return flat


def _bound(arguments: list[_Argument], users: list[Any]) -> dict[str, int]:
    """Symbol -> size, from arguments that all fit. Twice over them: an expression may come before its symbols."""
    bound: dict[str, int] = {}
    for _ in range(2):
        for a, given in zip(arguments, users, strict=True):
            a.bind(given, bound)
    return bound


def _refuse_unknown_kinds(inputs: list[Any], outputs: list[Any]) -> None:
    for s in [*(s for s in inputs if s.kind not in _INPUTS), *(s for s in outputs if s.kind not in _MUTATIONS)]:
        if s.kind is not OutputKind.USER_OUTPUT:
            raise Unsupported(Reason(f"{s.arg}", f"inputs and outputs of kind {s.kind.name} are not planned"))


def _tensor(program: ExportedProgram, target: str | None) -> torch.Tensor:
    """The tensor of a parameter, buffer or constant by its name in the module."""
    state: Mapping[str, Any] = program.state_dict
    return state[str(target)] if str(target) in state else program.constants[str(target)]
