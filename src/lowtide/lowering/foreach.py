"""Operations on lists of tensors, such as an optimizer's: each member becomes what the operation on one tensor becomes.

Members whose results nobody uses are left out. That the others came in one list is kept (``Lowered.together``), for fusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lowtide.core.errors import BugError
from lowtide.ir.graph import Arg
from lowtide.lowering.site import Refused, Site
from lowtide.lowering.table import RECORDS, Rule, register

LISTS = "foreach"  # the kind of these rules
_UNARY = (
    "abs", "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfc", "exp", "expm1", "floor", "frac", "log", "log10",
    "log1p", "log2", "neg", "reciprocal", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "tan", "tanh",
    "trunc", "zero",
)  # fmt: skip
# Overload on lists -> overload on one tensor, both without ``aten.``.
MEMBERS: Mapping[str, str] = {
    **{f"_foreach_{name}.default": f"{name}.default" for name in _UNARY},
    **{
        f"_foreach_{name}.{which}": f"{name}.{'Tensor' if which == 'List' else 'Scalar'}"
        for name in ("add", "sub", "mul", "div")
        for which in ("List", "Scalar", "ScalarList")
    },
    **{f"_foreach_{name}.Tensor": f"{name}.Tensor" for name in ("add", "mul", "div")},
    **{
        f"_foreach_{name}.{which}": f"{name}.default"
        for name in ("addcmul", "addcdiv")
        for which in ("Scalar", "ScalarList")
    },
    **{
        f"_foreach_{name}.{which}": f"{name}.default"
        for name in ("clamp_min", "clamp_max")
        for which in ("Scalar", "ScalarList")
    },
    **{f"_foreach_{name}.List": f"{name}.Tensor" for name in ("clamp_min", "clamp_max")},
    "_foreach_maximum.List": "maximum.default",
    "_foreach_minimum.List": "minimum.default",
    "_foreach_lerp.List": "lerp.Tensor",
    "_foreach_lerp.Scalar": "lerp.Scalar",
    "_foreach_lerp.ScalarList": "lerp.Scalar",
    "_foreach_pow.List": "pow.Tensor_Tensor",
    "_foreach_pow.Scalar": "pow.Tensor_Scalar",
    "_foreach_pow.ScalarList": "pow.Tensor_Scalar",
}


def _each(member: str) -> Rule:
    """Every list among the arguments gives the k-th member its k-th element; the rest is for all."""

    def rule(site: Site, *args: Arg, **kwargs: Arg) -> None:
        for k, out in enumerate(site.op.outputs):
            if out is None:
                continue

            def of(a: Arg, k: int = k) -> Arg:
                return a[k] if isinstance(a, tuple) else a

            given, named = tuple(map(of, args)), {n: of(a) for n, a in kwargs.items()}
            op = replace(site.op, args=given, kwargs=tuple(named.items()), outputs=(out,), returns="one")
            record, one = RECORDS[f"aten.{member}"], Site(site.graph, op, site.roots, device=site.device)
            if (why := record.misfit(op)) is not None:
                raise Refused(why)
            record.rule(one, *given, **named)
            if one.temporaries:
                raise BugError(f"the rule of aten.{member} keeps values in between, which a list has no names for")
            site.made += one.made

    return rule


for _name, _member in MEMBERS.items():
    register(LISTS, _name)(_each(_member))
