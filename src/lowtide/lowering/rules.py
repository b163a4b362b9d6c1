"""All lowering rules: importing this fills the table."""

from lowtide.lowering import (
    activation,
    indexing,
    loss,
    movement,
    normalization,
    pointwise,
    pooling,
    rearranging,
    reduction,
    scatter,
)
from lowtide.lowering.table import RECORDS

KINDS = (activation, indexing, loss, movement, normalization, pointwise, pooling, rearranging, reduction, scatter)
__all__ = ["KINDS", "RECORDS"]
