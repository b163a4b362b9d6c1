"""OR-tools CP-SAT as a packer: a cross-check of ours and a competitor. Needs the extra ``solvers``.

Comes in: a plain ``PackProblem`` (several intervals, alignment, fixed places; no windows). Goes out: a ``PackResult``.
Promised: the model says nothing but the rules of ``plan.problem``: offsets are variables, and what is alive together
does not overlap (``AddNoOverlap2D`` over time and bytes).
"""

from __future__ import annotations

import importlib
import time
from typing import Any

from lowtide.core.errors import UserError
from lowtide.plan.flat import flatten, lower_bound
from lowtide.plan.greedy import height_of, orders, place
from lowtide.plan.problem import FEASIBLE, INFEASIBLE, OPTIMAL, UNKNOWN, PackProblem, PackResult
from lowtide.plan.reduce import linearise

_MISSING = "CP-SAT is not installed: pip install 'lowtide[solvers]'"


def pack_cpsat(problem: PackProblem, *, seconds: float = 10.0, workers: int = 1) -> PackResult:
    """Place within the capacity, or in the fewest bytes, with CP-SAT.

    Raises:
        UserError: OR-tools is missing, or the problem has windows or exclusions, which this model does not know.
    """
    try:
        cp: Any = importlib.import_module("ortools.sat.python.cp_model")
    except ImportError:
        raise UserError(_MISSING) from None
    started = time.perf_counter()
    flat = flatten(linearise(problem))
    if not flat.plain:
        raise UserError("the CP-SAT model knows no windows and no exclusions")
    bound = lower_bound(flat)
    start = place(flat, orders(flat)["size"])
    most = problem.capacity if problem.capacity is not None else height_of(flat, start)
    model = cp.CpModel()
    offsets, spans, times = list[Any](), list[Any](), list[Any]()
    height = model.NewIntVar(min(bound, most), max(most, 0), "height")
    alive = [i for i in range(flat.count) if flat.segment_of[i] < flat.segment_of[i + 1]]
    if any(flat.size[i] > most for i in alive):
        return PackResult({}, 0, bound, "cp-sat", INFEASIBLE, time.perf_counter() - started)
    for i in alive:
        step = flat.alignment[i]
        slot = model.NewIntVar(0, (most - flat.size[i]) // step, f"slot{i}")
        if flat.fixed[i] >= 0:
            model.Add(slot * step == flat.fixed[i])
        offsets.append(slot * step)
        model.Add(height >= slot * step + flat.size[i])
        for s in range(flat.segment_of[i], flat.segment_of[i + 1]):
            spans.append(model.NewIntervalVar(slot * step, flat.size[i], slot * step + flat.size[i], f"b{s}"))
            times.append(model.NewFixedSizeIntervalVar(flat.first[s], flat.end[s] - flat.first[s], f"t{s}"))
    model.AddNoOverlap2D(times, spans)
    if problem.capacity is None:
        model.Minimize(height)
    solver = cp.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = workers
    answer = solver.Solve(model)
    found = list(flat.fixed)
    if answer in (cp.OPTIMAL, cp.FEASIBLE):
        for i, expression in zip(alive, offsets, strict=True):
            found[i] = int(solver.Value(expression))
    taken = [max(x, 0) for x in found]
    reached = height_of(flat, taken) if answer in (cp.OPTIMAL, cp.FEASIBLE) else 0
    proved = answer == cp.OPTIMAL and (problem.capacity is None or reached == bound)
    status = OPTIMAL if proved else FEASIBLE if reached or answer in (cp.OPTIMAL, cp.FEASIBLE) else UNKNOWN
    if answer == cp.INFEASIBLE:
        status = INFEASIBLE
    named = {b.id: x for b, x in zip(problem.buffers, taken, strict=True)} if status in (OPTIMAL, FEASIBLE) else {}
    seconds_taken = time.perf_counter() - started
    return PackResult(named, reached, bound, "cp-sat", status, seconds_taken, (("cp-sat", reached),) if named else ())
