"""Cases of searches: among many boundaries, among those that do not ascend or are NaN, of mixed dtypes, and by a sorter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from samples import BF16, F16, F32, F64, I64, Call, t


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
        yield "aten.bucketize.Tensor", (values, few[0]), {}
        yield "aten.bucketize.Tensor", (values, t(4, dtype=d).sort(descending=True).values), {"right": True}
    for d in (F32, BF16):
        ends = torch.cat([t(6, dtype=d).sort().values, torch.full((3,), torch.nan, dtype=d)])
        for right in (False, True):
            yield "aten.bucketize.Tensor", (t(40, dtype=d, edge=True), ends), {"right": right}
            yield "aten.searchsorted.Tensor", (ends, t(40, dtype=d)), {"right": right}
    whole = torch.arange(2040, 2060)
    for right in (False, True):  # what is compared is rounded to the dtype that both become
        yield "aten.bucketize.Tensor", (whole, torch.tensor([2048, 2050], dtype=F16)), {"right": right}
        yield "aten.searchsorted.Tensor", (whole, torch.tensor([2045, 2049, 2050], dtype=F16)), {"right": right}
