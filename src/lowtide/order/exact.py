"""From a good order to the best one, with proof: decisions at chosen limits until the bounds meet or the steps end.

Comes in: Flat, a start order, what is known of the lower bound, a number of steps. Goes out: the best order found, the
lower bound then proved, the steps used. Deterministic. Any-time: the result is never worse than the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lowtide.core.errors import BugError
from lowtide.memory.flat import Flat, peak_bytes
from lowtide.order.compiled import Tell, being_built, compiled
from lowtide.order.contract import contracted
from lowtide.order.descent import Decision
from lowtide.order.implied import implied
from lowtide.order.masks import Masks, masks_of, worth

_FIRST_SLICE = 500
_LEAST = 2_000
_SHARES = (0, 8, 4)  # eighths of the way from the bound to the peak
_HARD = 400  # steps per node that a decision takes before the orderings that its limit implies are looked for,
_EFFORT = 6  # and for how many times the steps that it took


def go_on(_steps: int, _peak: int, _bound: int) -> bool:
    """Never ends a search."""
    return True


@dataclass(slots=True)
class Bracket:
    """What is known: an order with its peak, and a bound that no order is below (bytes).

    steps: used; most: allowed. stride: how far above the bound the limit is that stands for the bound itself; it grows
    while these are refuted. drop: how far below the peak a better order is asked for; it grows while they are found.
    tight: per limit the masks with the orderings that it implies, and what that rested on.
    """

    order: list[int]
    peak: int
    bound: int
    steps: int = 0
    most: int = 0
    decisions: dict[int, Decision] = field(default_factory=dict[int, Decision])
    tight: dict[int, Masks] = field(default_factory=dict[int, Masks])
    stride: int = 0
    drop: int = 0
    tight_over: dict[int, int] = field(default_factory=dict[int, int])
    failed: tuple[set[int], set[int]] = field(default_factory=lambda: (set[int](), set[int]()))

    @property
    def closed(self) -> bool:
        """Whether the order is proved to be the best."""
        return self.peak <= self.bound


def close(flat: Flat, order: list[int], bound: int, steps: int, tell: Tell = go_on) -> Bracket:
    """Narrow the bracket around the least peak for at most about ``steps`` steps.

    ``tell(steps, peak, bound)`` is asked now and then whether to go on. Compiled where there is a compiler; while the
    library is being built its twin searches, and what it has not ended by then is begun again.
    """
    smaller = contracted(masks_of(flat))
    inner = smaller.contract(order)

    def in_python(tell: Tell) -> Bracket:
        return narrow(masks_of(smaller.flat), list(inner), bound, steps, tell)

    def meanwhile(steps: int, peak: int, bound: int) -> bool:
        return tell(steps, peak, bound) and being_built()

    state = in_python(meanwhile) if being_built() else None
    if state is None or not (state.closed or state.steps >= steps):
        ready = compiled(smaller.flat)
        if ready is not None:
            state = Bracket(*ready.close(inner, bound, steps, tell))
        elif state is None:
            state = in_python(tell)
    state.order = smaller.expand(state.order)
    if peak_bytes(flat, state.order) > state.peak:
        raise BugError("an order of the contracted graph has a higher peak in the original")
    return state


def narrow(masks: Masks, order: list[int], bound: int, most: int, tell: Tell = go_on) -> Bracket:
    """The twin in Python of ``lowtide_close`` in exact.cpp.

    In turns of growing length decisions are asked for at the bound itself (tight bounds are often reached), just below
    the peak (whose refutation ends the search) and between (refutations far below the optimum are cheap).
    """
    state = Bracket(order, worth(masks, order), bound, 0, most)
    turn = _FIRST_SLICE
    while not state.closed and state.steps < most and tell(state.steps, state.peak, state.bound):
        for share in _SHARES:
            if state.closed or state.steps >= most:
                break
            _ask(masks, state, share, min(turn, most - state.steps))
        turn *= 2
    return state


def _ask(masks: Masks, state: Bracket, share: int, steps: int) -> None:
    """Ask whether the limit at ``share`` eighths of the bracket can be kept, again while answers come in ``steps``."""
    while not state.closed and steps > 0:
        limit = _limit(state, share)
        decision: Decision | None = state.decisions.get(limit)
        if decision is None:
            # Sets that failed at a higher limit fail at this one too; those of the lower ones do not carry over.
            failed = state.failed if limit == state.peak - 1 else None
            decision = Decision(masks, limit, failed, _ranks(state.order) if share == 8 else ())
            state.decisions[limit] = decision
        elif limit not in state.tight and decision.steps > _HARD * masks.n:
            decision = _tightened(masks, state, limit, decision)
            state.decisions[limit] = decision
        before = decision.steps
        known = decision.run(steps)
        used = decision.steps - before
        state.steps += used
        steps -= used
        if not known:
            state.drop //= 2 if share == 8 else 1
            return
        if decision.order is not None:
            state.order = decision.order
            state.peak = worth(masks, state.order)
            state.stride = 0
            if share == 8:
                state.drop = min(max(2 * state.drop, (state.peak - state.bound) // 64), (state.peak - state.bound) // 4)
        else:
            state.drop = 0
            state.bound = max(state.bound, min(decision.over, state.peak))
            if share == 0:
                state.stride = min(
                    max(2 * state.stride, (state.peak - state.bound) // 256), (state.peak - state.bound) // 8
                )
        state.decisions = {x: d for x, d in state.decisions.items() if state.bound <= x < state.peak}


def _ranks(order: list[int]) -> list[int]:
    """Where the best order has each node: a better order is looked for near it."""
    out = [0] * len(order)
    for t, v in enumerate(order):
        out[v] = t
    return out


def _limit(state: Bracket, share: int) -> int:
    """The limit to ask for: one that is being worked on already, where it is near the one wanted."""
    width = state.peak - state.bound
    if share == 8:
        return state.peak - 1 - min(state.drop, width - 1)
    wanted = state.bound + (width * share // 8 if share else min(state.stride, width - 1))
    near = [x for x in state.decisions if abs(x - wanted) <= width // 16 and x < state.peak - 1]
    return min(near, key=lambda x: (abs(x - wanted), x), default=wanted)


def _tightened(masks: Masks, state: Bracket, limit: int, hard: Decision) -> Decision:
    """A new decision at ``limit`` in the place of ``hard``, among the orders that keep to what the limit implies."""
    # What a higher limit implies, a lower one implies too.
    start = min((x for x in state.tight if x > limit), default=limit)
    steps = max(_LEAST, min((state.most - state.steps) // 3, _EFFORT * hard.steps))
    found = implied(state.tight.get(start, masks), limit, steps)
    state.steps += found.steps
    decision = Decision(found.masks or masks, limit, hard.failed, hard.guide)
    decision.over = min(found.over, state.tight_over.get(start, found.over))
    decision.finished = found.masks is None
    state.tight[limit] = decision.masks
    state.tight_over[limit] = decision.over
    return decision
