"""Cases of searches: among many boundaries, among those that do not ascend, and by a sorter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from samples import F32, F64, I64, Call, t


def calls() -> Iterator[Call]:
    """Overload, arguments, keyword arguments."""
    for d in (F32, F64, I64):
        many, few = t(2, 301, dtype=d), t(2, 9, dtype=d)
        values = torch.cat([t(2, 40, dtype=d, edge=True), many[:, ::60]], 1)
        for right in (False, True):
            yield "aten.searchsorted.Tensor", (many.sort().values, values), {"right": right}
            yield "aten.searchsorted.Tensor", (many, values), {"right": right, "sorter": many.argsort()}
            yield "aten.bucketize.Tensor", (values, many[0].sort().values), {"right": right}
        yield "aten.searchsorted.Tensor", (few, values), {"sorter": few.argsort(), "out_int32": True}
        yield "aten.bucketize.Tensor", (values, t(300, dtype=d)), {}  # which do not ascend
