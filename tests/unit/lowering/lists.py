"""Cases of operations on lists of tensors."""

from __future__ import annotations

from collections.abc import Iterator

from samples import BF16, F32, Call, t

from lowtide.lowering.foreach import MEMBERS
from lowtide.runtime.calls import overload


def calls() -> Iterator[Call]:
    """Every operation on lists, on members of several sizes and, where the schema has a list of numbers, one number each."""
    sizes = ((3, 5), (7,), (0, 3), ())
    for listed in MEMBERS:
        for dtype in (F32, BF16):
            given: list[object] = []
            for a in overload(f"aten.{listed}")._schema.arguments:
                if a.has_default_value() or a.kwarg_only:
                    break
                values = {
                    "List[Tensor]": [t(*size, dtype=dtype, low=0.5) for size in sizes],
                    "Tensor": t(dtype=dtype),
                    "List[number]": [0.5, 1.5, 2.0, 3.0],
                    "number": 0.5,
                }
                given.append(values[str(a.type)])
            yield f"aten.{listed}", tuple(given), {}
    yield "aten._foreach_add.List", ([t(4), t(5)], [t(4), t(5)]), {"alpha": 3}
    yield "aten._foreach_addcdiv.Scalar", ([t(4), t(5)], [t(4), t(5)], [t(4, low=1), t(5, low=1)], -0.1), {}
    yield "aten._foreach_exp.default", ([t(6, 4).t(), t(8)[::2]],), {}
