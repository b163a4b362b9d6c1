"""Block -> the values that hold no negative number, whatever the data: as indices these count from the front alone.

Comes in: a Block. Goes out: names of integer values. Promised: no torch; sound, not complete: where nothing is known of an
operation, nothing is said of its result; what is written after it was made is left out.
"""

from __future__ import annotations

from lowtide.executor.block import VIEW, Block
from lowtide.ir.graph import Op, Ref

# Results that are positions or counts, by operator.
_POSITIONS = {
    "aten.nonzero.default": (0,), "aten.argmax.default": (0,), "aten.argmin.default": (0,), "aten.argsort.default": (0,),
    "aten.argsort.stable": (0,), "aten.searchsorted.Tensor": (0,), "aten.bucketize.Tensor": (0,),
    "aten.bincount.default": (0,), "aten.topk.default": (1,), "aten.sort.default": (1,), "aten.sort.stable": (1,),
    "aten.kthvalue.default": (1,), "aten.max.dim": (1,), "aten.min.dim": (1,), "aten._unique2.default": (1, 2),
    "aten.unique_consecutive.default": (1, 2), "aten.unique_dim.default": (1, 2),
}  # fmt: skip
_DIVISIONS = ("aten.floor_divide.default", "aten.floor_divide.Scalar", "aten.div.Tensor_mode", "aten.div.Scalar_mode")
_REMAINDERS = ("aten.remainder.Scalar",)
_WHOLE = ("i64", "i32")


def nonnegative(block: Block) -> frozenset[str]:
    """Names of the integer values without negative elements."""
    value = block.graph.value
    written = {value[m].storage for line in block.lines for m in line.op.mutates}
    out: set[str] = set()
    for line in block.lines:
        op = line.op
        made = [o for i, o in enumerate(op.outputs) if o is not None and (line.kind == VIEW or _says(op, i, out))]
        if line.kind == VIEW and not (op.reads and all(r in out for r in op.reads)):
            continue
        out.update(o for o in made if value[o].layout.dtype in _WHOLE and value[o].storage not in written)
    return frozenset(out)


def _says(op: Op, position: int, known: set[str]) -> bool:
    """Whether an operation that makes bytes of its own promises it of a result."""
    if op.target in _POSITIONS:
        return position in _POSITIONS[op.target]
    first, second = (*op.args, None, None)[:2]
    by = second if isinstance(second, int) and not isinstance(second, bool) else 0
    if op.target in _REMAINDERS:
        return by > 0
    return op.target in _DIVISIONS and by > 0 and isinstance(first, Ref) and first.name in known
