"""Executor: a captured program as a callable that learns sizes and runs from a planned slab.

Comes in: a Block and its constants. Goes out: a callable that takes a list of arguments and empties it. Promised: the first
run allocates as PyTorch does; later ones carve what they can from one slab per device; the numbers are the same whatever
changes. Every call has an instance of its own, so calls may run side by side and inside each other; instances share the plan. A
call that raises leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lowtide.codegen.targets import target_of
from lowtide.core.units import format_bytes
from lowtide.executor.block import Block
from lowtide.executor.frame import Frame
from lowtide.executor.lives import Counts
from lowtide.executor.plans import CODE_NAME, BlockPlan, Policy
from lowtide.executor.streams import OnStreams
from lowtide.runtime.retainers import also_retains
from lowtide.torch_compat import Constants

_LEAST_SLAB = 1 << 16  # bytes; below, a larger slab than needed is not worth a new allocation
LOOK = 15  # of as many runs and one more, one looks at everything


@dataclass(frozen=True, slots=True)
class OnDevice:
    """The slab on one device. ``bound_nbytes``: no placement needs less. ``shared``: how many values share a region with an
    earlier one."""

    device: str
    slab_nbytes: int
    bound_nbytes: int
    shared: int


@dataclass(frozen=True, slots=True)
class Told:
    """What a program did so far. Bytes are those of the signature used last, per device, the one with the largest slab first;
    ``slab_nbytes``, ``bound_nbytes`` and ``shared`` are those of that one.

    escapes: values that got ordinary memory because they outgrew their place. leaks: runs after which somebody still held
    planned bytes. copies: results that were not new as their operation said. swaps: planned values whose storage an
    operation replaced. reason: why it runs unplanned, if it does.
    """

    runs: int
    instances: int
    signatures: int
    placements: int
    counts: Counts | None
    devices: tuple[OnDevice, ...]
    escapes: int
    leaks: int
    copies: int
    swaps: int
    reason: str | None

    @property
    def slab_nbytes(self) -> int:
        """The largest slab."""
        return self.devices[0].slab_nbytes if self.devices else 0

    @property
    def bound_nbytes(self) -> int:
        """What no placement in that slab can go below."""
        return self.devices[0].bound_nbytes if self.devices else 0

    @property
    def shared(self) -> int:
        """Values that share a region of that slab with an earlier one."""
        return self.devices[0].shared if self.devices else 0

    def __str__(self) -> str:
        if self.counts is None:
            return f"{self.runs} runs, unplanned" + (f": {self.reason}" if self.reason else "")
        slabs = " and ".join(
            f"a slab of {format_bytes(d.slab_nbytes)}{f' on {d.device}' if len(self.devices) > 1 else ''} "
            f"(bound {format_bytes(d.bound_nbytes)})"
            for d in self.devices
        )
        return (
            f"{self.runs} runs, {self.counts.managed} of {self.counts.managed + self.counts.unmanaged} values in "
            f"{slabs or 'no slab'}, {self.escapes} escapes, {self.leaks} leaks, {self.copies} copies"
        )


_all: weakref.WeakSet[Executor] = weakref.WeakSet()


class Executor:
    """One program, any number of calls.

    Raises:
        Unsupported: a value lies where no target computes.
    """

    def __init__(self, block: Block, constants: Constants, policy: Policy) -> None:
        for inside in block.nested():
            target_of(inside.graph)
        self.plan, self.policy = BlockPlan(block, policy, constants), policy
        self.idle: list[Frame] = []  # taken and left without the lock: both are one step of the interpreter
        elsewhere = tuple(d for d in block.devices if d != "cpu")
        streams = OnStreams(self.idle, elsewhere) if elsewhere else None
        self.take = streams.take if streams is not None else self.idle.pop
        self.leave = streams.leave if streams is not None else self.idle.append
        self.frames: weakref.WeakSet[Frame] = weakref.WeakSet()
        self.lock = threading.Lock()
        self.past = self.instances = self.escapes = self.leaks = self.copies = self.swaps = 0
        self.latest: Frame | None = None
        _all.add(self)

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run; empties ``args``."""
        try:
            frame = self.take()
        except IndexError:
            frame = None
        if frame is None or frame.built is not self.plan.built or self.policy.verify:
            frame = self._ready(frame)
        done = False
        try:
            results = frame.function(args, frame)
            done = True
        finally:
            if not done:
                clear_code(sys.exc_info()[2])
                self.failed(frame)
        frame.runs = runs = frame.runs + 1
        # What most runs come to: no blocks inside, nothing went wrong, and nobody but us on the slab.
        if frame.is_plain and runs & LOOK:
            if frame.stirred:
                frame.settle()
            slab = frame.slab
            if frame.escapes == frame.copies == 0 and (slab is None or slab.uses() == slab.calm):
                self.latest = frame
                if self.idle or (slab is not None and slab.nbytes > self.policy.retain):
                    self._keep(frame)
                else:
                    self.leave(frame)
                return results
        self.finish(frame)
        return results

    # -- instances ---------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> int:
        """Calls so far that ended."""
        with self.lock:
            return self.past + sum(f.runs for f in self.frames)

    @property
    def held(self) -> int:
        """Bytes in the slabs of idle instances."""
        slabs = [f.slab for f in self.idle[:]]  # a call may take an instance at any moment, and its slab from it
        return sum(s.nbytes for s in slabs if s is not None)

    def _ready(self, frame: Frame | None) -> Frame:
        """An instance with the code that there is by now."""
        if frame is None:
            frame = Frame(self.plan)
            with self.lock:
                self.instances += 1
                self.frames.add(frame)
        if frame.built is not self.plan.built:
            frame.renew()
        if self.policy.verify and frame.slab is not None:
            for slab in frame.slab.parts.values():
                slab.base.fill_(0xFF)
        return frame

    def _keep(self, frame: Frame) -> None:
        """An instance is idle from here on, with its slab if that is not too much."""
        slab = frame.slab
        if slab is not None and self.held + slab.nbytes > self.policy.retain:
            frame.forget()
        self.leave(frame)

    def finish(self, frame: Frame) -> None:
        """End of a run that went well, in this order: what was not managed is gone with the code's own names; sizes are
        learned; what escaped is let go; then the slab is kept or released. An instance of which somebody still holds a piece
        is left to them; the next call makes another one."""
        everyone = self._end(frame, True)
        for f in everyone:
            f.settle()
        slab = frame.slab
        if self._has_guests(frame, everyone):
            self.leaks += 1
            self._retire(frame)
            return
        if slab is not None and slab.nbytes > _LEAST_SLAB and not frame.runs & LOOK and self._too_large(frame):
            frame.forget()
        self.latest = frame
        self._keep(frame)

    def failed(self, frame: Frame) -> None:
        """End of a run that raised. The instance is left to whoever holds a piece of it."""
        frame.runs += 1
        self._end(frame, False)
        self._retire(frame)

    def _end(self, frame: Frame, done: bool) -> Sequence[Frame]:
        """What both ends have in common. Returns all frames of the instance."""
        if frame.result_slabs:
            frame.end_results(done)
        if frame.bindings is not None or frame.inner:
            self._build(frame, done)
        everyone = list(frame.everyone()) if frame.inner else (frame,)
        for f in everyone:
            if f.escapes or f.copies:
                with self.lock:
                    self.escapes, f.escapes = self.escapes + f.escapes, 0
                    self.copies, f.copies = self.copies + f.copies, 0
        return everyone

    def _retire(self, frame: Frame) -> None:
        """No run takes this instance again. Whoever still holds it, an exception for one, holds no bytes by that."""
        frame.end()
        with self.lock:
            self.past += frame.runs
            self.frames.discard(frame)

    def _build(self, frame: Frame, done: bool) -> None:
        for f in reversed(list(frame.everyone())):  # inner blocks first: their slabs are buffers of the outer ones
            if f.bindings is not None:
                if done:
                    f.plan.build(f.bindings)
                f.bindings = None

    def _too_large(self, frame: Frame) -> bool:
        """Whether all signatures used lately would do with half of the slab."""
        assert frame.slab is not None
        if frame.placement.nbytes * 2 > frame.slab.nbytes:
            return False
        if frame.built is None:
            return False
        with frame.built.lock:
            wanted = [e.where.placement.nbytes for e in frame.built.entries.values() if e.where is not None]
        return 2 * max(wanted, default=0) < frame.slab.nbytes

    def _has_guests(self, frame: Frame, everyone: Sequence[Frame]) -> bool:
        """Whether somebody stands on the slab beside our headers (or, when verifying, holds one of these). A header that an
        operation took off the slab is put back before the next run."""
        if self.policy.verify and any(f.held_outside() for f in everyone):
            return True
        slab = frame.slab
        if slab is None:
            return False
        found = slab.uses()
        if found == slab.calm:
            return False
        slab.calm = slab.alone + sum(slab.has(h) for f in everyone for h in f.headers)
        if found > slab.calm:
            return True
        self.swaps += sum(f.put_back() for f in everyone)
        return False

    # -- telling -----------------------------------------------------------------------------------------------------

    def release(self) -> int:
        """Drop the slabs of idle instances. Returns the number of bytes."""
        idle: list[Frame] = []
        with contextlib.suppress(IndexError):  # one by one: a call may take one at any moment
            while True:
                idle.append(self.idle.pop())
        freed = 0
        for frame in idle:
            freed += frame.slab.nbytes if frame.slab is not None else 0
            frame.forget()
        self.idle.extend(idle)
        return freed

    def is_managed(self, t: Any) -> bool:
        """Whether a tensor's storage is a slab of an idle instance. False before there is a plan."""
        slabs = [f.slab for f in self.idle[:]]
        return any(s is not None and s.holds(t) for s in slabs)

    def is_output_managed(self, t: Any) -> bool:
        """Whether a tensor lies in a slab of results of the latest run. False once that slab is gone, before there is a
        plan, and for what is no tensor or has no bytes."""
        if self.latest is None or not isinstance(t, torch.Tensor) or t.layout is not torch.strided:
            return False
        found = self.latest.latest_results.get(t.device)
        if found is None:
            return False
        slab, start, nbytes = found
        return not slab.expired() and start <= t.untyped_storage().data_ptr() < start + nbytes

    def told(self) -> Told:
        """What happened so far."""
        frame, plan = self.latest, self.plan
        built = plan.built
        parts = frame.placement.parts if frame is not None else {}
        devices = [OnDevice(d, p.nbytes, p.bound, p.shared) for d, p in parts.items()]
        return Told(
            self.runs, self.instances, len(built.entries) if built else 0, built.placements if built else 0,
            built.lives.counts if built is not None else None,
            tuple(sorted(devices, key=lambda d: -d.slab_nbytes)),
            self.escapes, self.leaks, self.copies, self.swaps, str(plan.reason) if plan.reason is not None else None,
        )  # fmt: skip


def clear_code(trace: Any) -> None:
    """Let go of what the code of ours held when it raised, though somebody keeps the exception."""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(f"<{CODE_NAME}"):
            trace.tb_frame.clear()
        trace = trace.tb_next


def _release_all() -> int:
    return sum(e.release() for e in list(_all))


def _held() -> int:
    return sum(e.held for e in list(_all))


also_retains(_release_all, _held)
