"""All lowering rules: importing this fills the table."""

from lowtide.lowering import (
    activation,
    foreach,
    indexing,
    loss,
    movement,
    normalization,
    pointwise,
    pooling,
    rearranging,
    reduction,
    resampling,
    scatter,
    sorting,
    special,
)
from lowtide.lowering.table import RECORDS

KINDS = (
    activation, foreach, indexing, loss, movement, normalization, pointwise, pooling, rearranging, reduction, resampling, scatter,
    sorting, special,
)  # fmt: skip
__all__ = ["KINDS", "RECORDS"]
