"""torch's symbolic sizes -> our expressions. No guard is ever installed: only sympy trees are read."""

from __future__ import annotations

from typing import Any

import sympy
import torch

from lowtide.core.errors import Unsupported
from lowtide.core.reason import Reason
from lowtide.ir.symbolic import Dim, Expr, symbol
from lowtide.torch_compat import sym_expr

_NAMED = {
    "FloorDiv": "//", "CleanDiv": "//", "Mod": "%", "PythonMod": "%", "ModularIndexing": "",
    "Max": "max", "Min": "min", "CeilDiv": "ceildiv", "PowByNatural": "pow",
}  # fmt: skip


def dim_of(value: Any) -> Dim:
    """Our expression for a size (int or SymInt).

    Raises:
        Unsupported: the expression uses something we do not evaluate.
    """
    return value if type(value) is int else _convert(sym_expr(value))


def strided(t: torch.Tensor) -> tuple[tuple[Dim, ...], tuple[Dim, ...]] | None:
    """Size and strides of a tensor, in elements; None where one of them uses something that we do not evaluate."""
    try:
        return tuple(map(dim_of, t.shape)), tuple(map(dim_of, t.stride()))
    except Unsupported:
        return None


def _convert(e: Any) -> Dim:
    if isinstance(e, int):
        return int(e)
    if isinstance(e, sympy.Integer):
        return int(e)
    if isinstance(e, sympy.Symbol):
        return symbol(e.name)
    args = tuple(_convert(a) for a in e.args)
    if isinstance(e, sympy.Add):
        return Expr("+", args)
    if isinstance(e, sympy.Mul):
        return Expr("*", args)
    if isinstance(e, sympy.Pow) and isinstance(args[1], int) and args[1] >= 0:
        return Expr("pow", args)
    name = type(e).__name__
    if name == "ModularIndexing":
        return Expr("%", (Expr("//", (args[0], args[1])), args[2]))
    if _NAMED.get(name):
        return Expr(_NAMED[name], args)
    raise Unsupported(Reason(f"size {e}", f"{name} has no counterpart among our size expressions"))
