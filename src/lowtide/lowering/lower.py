"""Graph -> Lowered: every operation that has a lowering rule becomes loops, the others stay library calls.

Comes in: a static Graph. Goes out: the same program with loops. Promised: values that the sections take and return keep
their names and layouts; an operation that a rule refuses stays as it is, with a Reason, and so does one on other devices
or dtypes; operations that libraries do best (products, convolutions, attention) have no rule and need no reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

from lowtide.core.errors import BugError
from lowtide.core.reason import Reason
from lowtide.ir.graph import WAIT, Graph, Op, Ref, Section, Value, refs_in, renamed_after
from lowtide.ir.loops import Loop
from lowtide.ir.lowered import Lowered, Split, loop_op, pruned
from lowtide.ir.task import Task
from lowtide.lowering.foreach import LISTS
from lowtide.lowering.repeated import Repeats, key_of
from lowtide.lowering.rules import RECORDS
from lowtide.lowering.site import Made, Refused, Site, refused
from lowtide.lowering.table import DTYPES, plain_dtypes

# What libraries do best, and what computes nothing or only asserts.
_LIBRARY = frozenset(
    (
        "mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "convolution", "convolution_backward",
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward",
        "_trilinear", "_cdist_forward", "_cdist_backward", "cholesky", "cholesky_solve", "cholesky_inverse", "geqrf",
        "ormqr", "orgqr", "lu_unpack", "triangular_solve",
        "_embedding_bag", "_embedding_bag_backward", "_ctc_loss", "_ctc_loss_backward", "grid_sampler_2d",
        "grid_sampler_2d_backward", "grid_sampler_3d", "grid_sampler_3d_backward", "empty", "empty_like", "new_empty",
        "empty_strided", "new_empty_strided", "empty_permuted", "_assert_async",
    )
)  # fmt: skip
_LIBRARY_KINDS = ("linalg_", "_linalg_", "_fft_")
_OURS = ("aten.linalg_vector_norm.default", "aten.linalg_cross.default")


def is_library(target: str) -> bool:
    """Whether an operation is left to a library without a word: products, convolutions, attention, factorisations,
    Fourier transforms, samples at the points of a grid; memory that nobody fills, assertions, and waiting for a copy."""
    name = target.split(".")[1]
    return target == WAIT or (target not in _OURS and (name in _LIBRARY or name.startswith(_LIBRARY_KINDS)))


def lower(graph: Graph, device: str = "cpu", dtypes: Set[str] = DTYPES) -> Lowered:
    """Apply the table's rules to a static graph, as far as its tensors lie on ``device`` and hold ``dtypes``."""
    ours = dtypes & DTYPES
    values: dict[str, Value] = {v.name: v for v in graph.values}
    loops: dict[str, Loop] = {}
    reasons: list[Reason] = []
    together: list[tuple[str, ...]] = []
    splits: dict[str, Split] = {}
    sections: list[Section] = []
    repeats = Repeats()
    for s in graph.sections:
        roots = _roots(graph, s)
        used = {n for op in s.ops for n in op.reads} | {n for a in s.returns for n in refs_in(a)}
        alone = _read_once(graph, s)
        absorbed: set[str | None] = set()
        became: dict[str, tuple[str, ...]] = {}
        ops: list[Op] = []
        for op in s.ops:
            site = Site(graph, op, roots, {} if op.group else alone, device)
            reason = _apply(site, used, ours, repeats)
            if reason is not None or not site.made:
                ops.append(op)
                reasons += [reason] if reason is not None else []
                continue
            values.update((t.name, t) for t in site.temporaries)
            absorbed |= site.absorbed
            names = list(_names(site))
            made = dict(_operations(op, site.made, whole=not names))
            ops += made
            became[op.name] = tuple(new.name for new in made)
            loops |= {new.name: loop for new, loop in made.items()}
            if site.whole is not None:
                parts, last = became[op.name]
                splits[last] = Split(parts, Task(site.whole.loop, site.whole.given, site.whole.makes))
            if RECORDS[op.target].kind == LISTS:
                together.append(became[op.name])
            ops += [_alias(o, x, op) for o, x in names]
        ops = [op for op in ops if not _written(op) or not absorbed.issuperset(_written(op))]
        sections.append(replace(s, ops=renamed_after(ops, s.ops, became)))
    whole = replace(graph, values=tuple(values.values()), sections=tuple(sections))
    kept = {op.name for op in whole.ops}
    return Lowered(
        pruned(whole),
        {n: x for n, x in loops.items() if n in kept},
        tuple(reasons),
        together=tuple(together),
        splits={n: x for n, x in splits.items() if n in kept},
    )


def _apply(site: Site, used: Set[str], dtypes: Set[str], repeats: Repeats) -> Reason | None:
    """Run the rule of an operation, or take what it made of one alike; why there is none, or why it refuses. None with nothing
    made: needs no loop."""
    op = site.op
    if op.view or is_library(op.target):
        return None
    record = RECORDS.get(op.target)
    if record is None:
        return refused(op, "there is no lowering rule") if op.effect is None else None
    key = key_of(site, used)
    if repeats.taken(site, key):
        return None
    if (why := record.misfit(op)) is not None:
        return refused(op, why)
    try:
        plain_dtypes(site, dtypes)
        given: object = record.rule(site, *op.args, **dict(op.kwargs))
        if given is not None:
            raise BugError(f"the rule of {op.target} gives a {type(given).__name__}; what a rule makes are loops")
        _complete(site, used)
    except Refused as e:
        site.made.clear()
        return refused(op, str(e))
    repeats.keep(site, key)
    return None


def _written(op: Op) -> tuple[str | None, ...]:
    return (*op.outputs, *op.mutates)


def _names(site: Site) -> Iterator[tuple[str, str]]:
    """Results that are other names of what the operation changes, and what that is."""
    value = site.graph.value
    for o in site.op.outputs:
        changed = [x for x in site.op.mutates if o is not None and value[o].storage == value[x].storage]
        if o is not None and changed and value[o].layout == value[changed[0]].layout:
            yield o, changed[0]


def _alias(name: str, of: str, op: Op) -> Op:
    return Op(name, "aten.alias.default", (Ref(of),), (), (name,), view=True, origin=op.origin)


def _complete(site: Site, used: Set[str]) -> None:
    """Every result is made, or is another name of what is changed, and nothing else is written.

    Raises:
        Refused: a result is missing.
        BugError: the rule writes what the operation does not change.
    """
    ours = {site.roots.get(n, n) for n in site.op.mutates}
    for m in site.made:
        wrong = [n for n in m.changes if n not in ours]
        if wrong:
            raise BugError(f"the rule of {site.op.target} writes %{wrong[0]}, which the operation does not change")
        ours.update(m.makes)
    made = {n for m in site.made for n in m.makes} | {o for o, _ in _names(site)}
    wanted = [o for o in site.op.outputs if o is not None and (o in used or site.graph.value[o].storage == o)]
    missing = [o for o in wanted if o not in made]
    if missing:
        raise Refused(f"%{missing[0]} is not made by its rule")


def _operations(op: Op, made: list[Made], *, whole: bool) -> Iterator[tuple[Op, Loop]]:
    """``whole``: one loop has the operation's own name, which nothing else takes."""
    for k, m in enumerate(made):
        name = op.name if len(made) == 1 and whole else f"{op.name}_loop{k}"
        new = loop_op(m.given, m.makes, m.changes, op.origin, name)
        yield replace(new, after=op.after, group=op.group), m.loop


def _read_once(graph: Graph, section: Section) -> dict[str, Op]:
    """Value -> the operation that computes it, where one other operation reads it, nothing of what that is computed from
    changes, and nobody asks for its place."""
    reads = Counter(n for op in section.ops for n in op.reads)
    reads.update(n for a in section.returns for n in refs_in(a))
    changed = {graph.value[m].storage for op in section.ops for m in op.mutates}
    return {
        o: op
        for op in section.ops
        if not op.view
        and op.name not in graph.placed_by_hand
        and not changed.intersection(graph.value[n].storage for n in op.reads)
        for o in op.outputs
        if o is not None and reads[o] == 1
    }


def _roots(graph: Graph, section: Section) -> Mapping[str, str]:
    """View -> the value of this section on whose bytes it stands, through views of the same dtype. What a program says by its
    place in the storage of what is given is no part of that: where the latter begins is known at run time only."""
    out: dict[str, str] = {}
    given = {n for a in section.inputs for n in refs_in(a)}
    for op in section.ops:
        if not op.view:
            continue
        for o in op.outputs:
            if o is None:
                continue
            base = next(r for r in op.reads if graph.value[r].storage == graph.value[o].storage)
            root = out.get(base, base)
            placed = root in given and op.target == "aten.as_strided.default" and (len(op.args) > 3 or op.kwargs)
            if graph.value[root].layout.dtype == graph.value[o].layout.dtype and not placed:
                out[o] = root
    return out
