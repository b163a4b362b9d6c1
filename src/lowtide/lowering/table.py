"""The table of lowering rules: one record per ATen overload.

Comes in: records that the files by kind register when they are imported (``lowering.rules``). Goes out: the record of a
target. Promised: a target has one record; a rule that cannot do a case says so by ``Refused``.

A rule is called with a Site and the operation's arguments as the Graph has them, by the names of the operator's schema.
A pointwise rule is called with scalars instead of tensors and gives the scalar of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, Signature, signature
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from lowtide.core.errors import BugError
from lowtide.ir.graph import ITEMSIZE, OBJECT, Arg, Op, Ref
from lowtide.lowering.scalars import FLOATS, Number, Scalar, computed_in
from lowtide.lowering.site import Refused, Site

Rule = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Record:
    """How one overload is lowered. ``kind`` is the file's: pointwise, reduction, ... ``takes``: the function whose
    parameters, behind those of its own, are the operation's arguments."""

    target: str
    kind: str
    rule: Rule
    takes: Callable[..., Any]

    def misfit(self, op: Op) -> str | None:
        """Why the rule cannot be called as the operation is, or None: an argument too many or too few, or of another kind
        than the rule says."""
        parameters = _parameters(self.takes)
        try:
            given = parameters.bind(*op.args, **dict(op.kwargs)).arguments
        except TypeError as e:
            return f"is called otherwise than its rule: {e}"
        for name, a in given.items():
            p = parameters.parameters[name]
            if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) and not _fits(a, p.annotation):
                return f"takes {a!r} as {name}, which its rule does not"
        return None


@cache
def _parameters(function: Callable[..., Any]) -> Signature:
    """Parameters that are arguments of an operation, with their kinds: without the Site that rules are given first."""
    whole = signature(function, eval_str=True)
    return whole.replace(parameters=[p for p in whole.parameters.values() if p.name != "site"])


_PLAIN: dict[Any, tuple[type, ...]] = {
    int: (int,), float: (int, float), bool: (bool,), str: (str,), NoneType: (NoneType,), Scalar: (Ref,)
}  # fmt: skip


def _fits(a: Arg, kind: Any) -> bool:
    """Whether an argument is of a parameter's kind. One that is more than numbers, texts, scalars of tensors, tuples and
    None says nothing."""
    wanted: list[type] = []
    for k in get_args(kind) if isinstance(kind, UnionType) else (kind,):
        if get_origin(k) is not tuple and k not in _PLAIN:
            return True
        wanted += [tuple] if get_origin(k) is tuple else _PLAIN[k]
    return isinstance(a, tuple(wanted))


RECORDS: dict[str, Record] = {}
# What rules are written for: real numbers of at least the width that processors compute in.
DTYPES = frozenset(ITEMSIZE) - {"c32", "c64", "c128", "f8e4m3", "f8e5m2", OBJECT}


def register(kind: str, *targets: str, takes: Callable[..., Any] | None = None) -> Callable[[Rule], Rule]:
    """Decorator: this function lowers those overloads (``gelu.default``, without ``aten.``). ``takes``: what it hands the
    arguments to, where that says which there may be."""

    def add(rule: Rule) -> Rule:
        for t in targets:
            name = f"aten.{t}"
            if name in RECORDS:
                raise BugError(f"{name} has two lowering rules")
            RECORDS[name] = Record(name, kind, rule, takes or rule)
        return rule

    return add


def pointwise(
    function: Callable[..., Scalar], *targets: str, computed: str = "result", conditions: Sequence[int] = ()
) -> None:
    """Register a function of scalars. ``computed``: the dtype in which tensors are given to it: of the ``result`` (half
    types in f32), what the operands are ``promoted`` to, or ``own``: each as it is. ``conditions``: positions of
    operands that are given as truth values."""

    def rule(site: Site, *args: Arg, **kwargs: Arg) -> None:
        out = site.output()
        if out is None:
            return
        nest = site.loop()
        index = nest.stage(*site.size(out))
        common = site.dtype(out) if computed == "result" else promoted(site, args) if computed == "promoted" else ""

        def given(a: Arg, k: int = -1) -> Any:
            if not isinstance(a, Ref):
                return a
            x = nest.spread(a, index)
            to = "bool" if k in conditions else common or x.dtype
            return x.to(to).to(computed_in(to))

        values = [given(a, k) for k, a in enumerate(args)]
        if not any(isinstance(v, Scalar) for v in values):
            raise Refused("has no tensor operand")
        nest.store(out, index, function(*values, **{k: given(a) for k, a in kwargs.items()}))
        nest.done()

    register("pointwise", *targets, takes=function)(rule)


_ORDER = ("bool", "u8", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64")


def promoted(site: Site, args: Sequence[Arg]) -> str:
    """What torch computes a mix of operands in: tensors with dimensions before those without, before Python numbers,
    and of those the highest category and the widest dtype."""
    tensors = [a for a in args if isinstance(a, Ref)]
    groups: list[list[str]] = [
        [site.dtype(a) for a in tensors if site.size(a)],
        [site.dtype(a) for a in tensors if not site.size(a)],
        [_default(a) for a in args if isinstance(a, bool | int | float)],
    ]
    best: str | None = None
    for group in groups:
        here = None
        for d in group:
            here = d if here is None else _joined(here, d)
        if here is not None and (best is None or _category(here) > _category(best)):
            best = here
    if best is None:
        raise Refused("has no operand with a dtype")
    return best


def _default(a: Number) -> str:
    return "bool" if isinstance(a, bool) else "i64" if isinstance(a, int) else "f32"


def _category(dtype: str) -> int:
    return 0 if dtype == "bool" else 2 if dtype in FLOATS else 1


def _joined(a: str, b: str) -> str:
    if a not in _ORDER or b not in _ORDER:
        raise Refused(f"mixes {a} and {b}")
    if {a, b} == {"f16", "bf16"}:
        return "f32"
    if {a, b} == {"u8", "i8"}:
        return "i16"
    return max(a, b, key=_ORDER.index)


def plain_dtypes(site: Site, dtypes: Set[str]) -> None:
    """Refuse tensors of other ``dtypes``, tensors elsewhere, results in pinned memory, and unknown sizes."""
    for name in (*site.op.reads, *(o for o in site.op.outputs if o)):
        y = site.graph.value[name].layout
        if y.dtype not in dtypes or y.device != site.device:
            raise Refused(f"%{name} is {y.dtype} on {y.device}")
        if y.pinned and name in site.op.outputs and site.graph.value[name].storage == name:
            raise Refused(f"%{name} is pinned, which the framework's own allocator sees to")
        if not y.static:
            raise Refused(f"a size of %{name} is not known")
