"""The usual call of a program as one function: arguments are held against the export, the block runs, its end is looked at.

Comes in: an Executor with planned code, and how arguments are checked. Goes out: a function that takes the tuple of arguments and
gives the results, or ``ELSE``. Promised: ``ELSE`` is said before anything ran, wherever something is not as usual (an
argument of another form, no idle instance, an instance with other code): the caller then goes the long way, which does the
same. Between two calls the operations fill the caches, so that every Python function on the way costs several times what it
costs in a loop; hence one function and no calls in it, beside those for the current streams where there are
other devices.
"""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowtide.executor.plans import CODE_NAME, Built
from lowtide.executor.run import LOOK, Executor

ELSE = object()
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Checks:
    """``lines`` of code that ``return ELSE`` unless the arguments ``names`` are just what the program takes; they bind the
    size ``k_s`` of each symbol in ``known``. ``bound``: what the lines mention."""

    names: tuple[str, ...]
    lines: tuple[str, ...]
    known: frozenset[str]
    bound: Mapping[str, Any]


def entry(
    executor: Executor, built: Built, front: Sequence[Any], checks: Checks, form: str
) -> Callable[[tuple[Any, ...]], Any] | None:
    """The function for the planned code ``built``; None where a run needs more than it does: blocks inside, results in a slab
    of their own, verification. front: what the block takes before the arguments. form: how the results are returned, with
    ``{}`` for all of them, separated by commas.
    """
    if executor.policy.verify or executor.plan.inner or built.loaded.code.results:
        return None
    code = built.loaded.code
    mine = dict(zip(checks.names, code.inputs[len(front) :], strict=True))
    before = [f"{', '.join(code.inputs[: len(front)])}, = _front"] if front else []
    renamed = [f"{ours} = {theirs}" for theirs, ours in mine.items() if theirs != ours]
    body = [*before, *renamed, *(x for s, x in code.given.items() if s not in checks.known), *code.body]
    lines = [
        *([f"{', '.join(checks.names)}, = args"] if checks.names else []),
        *checks.lines,
        "if _plan.built is not _built: return ELSE",
        "try: run = _take()",
        "except IndexError: return ELSE",
        "if run.built is not _built:",
        "    _leave(run)",
        "    return ELSE",
        "try:",
        *(f"    {x}" for x in body),
        f"    results = {form.format(', '.join(code.returned))}",
        "except BaseException:",
        "    _executor.failed(run)",
        "    raise",
        "run.runs = runs = run.runs + 1",
        "if run.stirred: run.settle()",
        "slab = run.slab",
        f"if runs & {LOOK} and not run.escapes and not run.copies and not _idle and "
        "(slab is None or (slab.nbytes <= _retain and slab.uses() == slab.calm)):",
        "    _executor.latest = run",
        "    _leave(run)",
        "else:",
        "    _executor.finish(run)",
        "return results",
    ]
    source = "def entry(args):\n" + "\n".join(f"    {x}" for x in lines) + "\n"
    names = {  # of its own: the plan must not hold what holds the plan
        **built.loaded.names, **checks.bound, "ELSE": ELSE, "_plan": executor.plan, "_built": built, "_idle": executor.idle,
        "_take": executor.take, "_leave": executor.leave, "_executor": executor, "_front": tuple(front),
        "_retain": executor.policy.retain,
    }  # fmt: skip
    filename = f"<{CODE_NAME} entry {next(_numbers)} {executor.plan.block.name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), names)
    return names["entry"]
