"""All lowering rules: importing this fills the table."""

from lowtide.lowering import activation, indexing, loss, movement, normalization, pointwise, reduction
from lowtide.lowering.table import RECORDS

KINDS = (activation, indexing, loss, movement, normalization, pointwise, reduction)
__all__ = ["KINDS", "RECORDS"]
