"""From a good order to the best one, with proof: decisions at chosen limits until the bounds meet or the steps end.

Comes in: Masks, a start order, what is known of the lower bound, a number of steps. Goes out: the best order found, the
lower bound then proved, the steps used. Deterministic. Any-time: the result is never worse than the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lowtide.order.descent import Decision
from lowtide.order.implied import implied
from lowtide.order.masks import Masks, worth

_FIRST_SLICE = 500
_LEAST = 2_000
_HARD = 40  # steps per node after which the orderings that a limit implies are worth their price


@dataclass(slots=True)
class Bracket:
    """What is known: an order with its peak, and a bound that no order is below (bytes).

    most: steps allowed. tight: per limit the masks with the orderings that it implies, and what that rested on.
    """

    order: list[int]
    peak: int
    bound: int
    most: int
    steps: int = 0
    decisions: dict[int, Decision] = field(default_factory=dict[int, Decision])
    tight: dict[int, Masks] = field(default_factory=dict[int, Masks])
    tight_over: dict[int, int] = field(default_factory=dict[int, int])
    failed: tuple[set[int], set[int]] = field(default_factory=lambda: (set[int](), set[int]()))

    @property
    def closed(self) -> bool:
        """Whether the order is proved to be the best."""
        return self.peak <= self.bound


def close(masks: Masks, order: list[int], bound: int, steps: int, stop: Callable[[], bool] = lambda: False) -> Bracket:
    """Narrow the bracket around the least peak for at most about ``steps`` steps.

    In turns of growing length a decision is asked for at the bound itself (loose bounds fall fast, tight ones are
    often reached), just below the peak (whose proof or refutation is needed in any case), and half way.
    """
    state = Bracket(list(order), worth(masks, order), bound, steps)
    turn = _FIRST_SLICE
    while not state.closed and state.steps < steps and not stop():
        for ask in (0, 2, 1):
            if state.closed or state.steps >= steps:
                break
            limit = (state.bound, (state.bound + state.peak) // 2, state.peak - 1)[ask]
            _ask(masks, state, limit, min(turn, steps - state.steps))
        turn *= 2
    return state


def _ask(masks: Masks, state: Bracket, limit: int, steps: int) -> None:
    """Ask whether ``limit`` can be kept, and on from there while the answers come within ``steps``."""
    while not state.closed:
        decision = state.decisions.get(limit)
        if decision is None:
            # Sets that failed at a higher limit fail at this one too; those of the lower ones do not carry over.
            decision = Decision(masks, limit, state.failed if limit == state.peak - 1 else None)
            state.decisions[limit] = decision
        elif limit not in state.tight and decision.steps > _HARD * masks.n:
            decision = _tightened(masks, state, limit, decision.failed)
            state.decisions[limit] = decision
        before = decision.steps
        known = decision.run(steps)
        used = decision.steps - before
        state.steps += used
        steps -= used
        if not known:
            return
        if decision.order is not None:
            state.order = decision.order
            state.peak = worth(masks, state.order)
            again = state.peak - 1
        else:
            state.bound = max(state.bound, min(decision.over, state.peak))
            again = state.bound
        state.decisions = {x: d for x, d in state.decisions.items() if state.bound <= x < state.peak}
        if steps <= 0 or limit == again:
            return
        limit = again


def _tightened(masks: Masks, state: Bracket, limit: int, failed: tuple[set[int], set[int]]) -> Decision:
    """A new decision at ``limit`` among the orders that keep to what the limit implies."""
    # What a higher limit implies, a lower one implies too.
    start = min((x for x in state.tight if x > limit), default=limit)
    found = implied(state.tight.get(start, masks), limit, max(_LEAST, (state.most - state.steps) // 3))
    state.steps += found.steps
    decision = Decision(found.masks or masks, limit, failed)
    decision.over = min(found.over, state.tight_over.get(start, found.over))
    decision.finished = found.masks is None
    state.tight[limit] = decision.masks
    state.tight_over[limit] = decision.over
    return decision
