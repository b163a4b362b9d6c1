"""What all instances of a program share: per block its code, its lives, and the learned sizes per shape signature.

Comes in: a Block. Goes out: ``BlockPlan``. Promised: until a block ran once it has only its plain code; if building fails, or
a placement turns out to be wrong (each is checked before it is used), it keeps that, with the reason; several threads may use
one plan; an instance changes nothing here but learned sizes, under a lock. Placements are kept for the most recent signatures.
"""

from __future__ import annotations

import itertools
import linecache
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lowtide.core.errors import LowtideError, VerifyError
from lowtide.core.reason import Reason
from lowtide.executor.block import Block
from lowtide.executor.capture import NUMBERS
from lowtide.executor.emit import Code, Slot, Spelling, emit
from lowtide.executor.groups import Life
from lowtide.executor.learned import WINDOW, Learned
from lowtide.executor.lives import Lives, foldable, lives_of, managed_outputs, nested_slabs, staying
from lowtide.executor.ordered import ordered
from lowtide.executor.placing import Placement, Strategy, nowhere, on_each_device
from lowtide.executor.shaping import Geometry, Shapes, Where, where
from lowtide.executor.spelling import callable_of, spellings
from lowtide.ir.graph import Atom
from lowtide.runtime.calls import atom, leaves, overload, python_of
from lowtide.runtime.load import exact
from lowtide.torch_compat import Constants

log = logging.getLogger(__name__)
_numbers = itertools.count()
CODE_NAME = "lowtide block"  # begins the name of the file in which generated code says to be


@dataclass(frozen=True)
class Policy:
    """How a program is run.

    out_variants: off, nothing is managed. strategy: lives -> strategy, called once per device with the lives there.
    recent: signatures whose placement is kept.
    window: runs after which a size that was not seen again is forgotten (at the latest after twice as many). verify:
    poison and check. manage_outputs: results in a slab of their own. retain: bytes that idle instances may hold.
    tight: a slab is never larger than the plan for the sizes at hand. reorder: off keeps program order.
    """

    strategy: Callable[[Sequence[Life]], Strategy]
    out_variants: bool = True
    recent: int = 64
    window: int = WINDOW
    verify: bool = False
    manage_outputs: bool = False
    retain: int = 1 << 30
    tight: bool = False
    reorder: bool = True


@dataclass(frozen=True)
class Loaded:
    """Code that can be called. ``geometry``: per segment; ``slots`` and ``by_segment`` say which headers it shapes."""

    code: Code
    function: Callable[..., list[Any]]
    geometry: tuple[Geometry, ...]
    by_segment: tuple[tuple[int, ...], ...]
    names: dict[str, Any] = field(repr=False)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Headers in order."""
        return self.code.slots


class Entry:
    """One shape signature (``key``): what was learned of it (None: it was seen once, with sizes ``first``), where its
    buffers lie (None: to be found anew), and when it was used last."""

    __slots__ = ("first", "key", "learned", "results", "used", "version", "where")

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        self.learned: Learned | None = None
        self.first: tuple[int, ...] | None = None
        self.where: Where | None = None
        self.results: Learned | None = None
        self.version = self.used = 0


class Built:
    """A block's planned code and everything that was learned for it. ``buffer``: per header; ``slabs``: per line that has
    blocks, by device the buffer of their slab there."""

    def __init__(
        self,
        loaded: Loaded,
        lives: Lives,
        policy: Policy,
        slabs: Sequence[Mapping[str, int]],
        place: Strategy,
    ) -> None:
        self.loaded, self.lives, self.policy, self.slabs = loaded, lives, policy, slabs
        self.buffer = [lives.buffer[s.storage] for s in loaded.slots]
        count = len(lives.lives)
        code = loaded.code
        self.shapes = Shapes(
            loaded.slots, self.buffer, loaded.by_segment, code.symbols, loaded.geometry, code.arithmetic,
            [x.device for x in lives.lives],
        )  # fmt: skip
        self.place = place
        self.entries: dict[tuple[Any, ...], Entry] = {}
        self.everywhere = Learned([0] * count, policy.window)
        self.moment = itertools.count(1).__next__
        self.placements = 0
        self.lock = threading.Lock()
        first = {self.buffer[i] for i in loaded.by_segment[0]} if loaded.by_segment else set()
        self.exact = first == set(range(count))  # the signature says all sizes: there is nothing to learn

    def sizes(self, segment: int, key: tuple[Any, ...], into: list[int]) -> list[int]:
        """Bytes per buffer of what a segment shapes, written into ``into``."""
        loaded = self.loaded
        layouts = loaded.geometry[segment](key)
        for i in loaded.by_segment[segment]:
            into[self.buffer[i]] = layouts[loaded.slots[i].where]
        return into

    def meet(self, key: tuple[Any, ...]) -> Entry:
        """The entry of a signature, made where there is none; the one that was used least recently goes at need."""
        with self.lock:
            found = self.entries.get(key)
            if found is None:
                if len(self.entries) >= max(self.policy.recent, 1):
                    del self.entries[min(self.entries.values(), key=lambda e: e.used).key]
                found = self.entries[key] = Entry(key)
                found.used = self.moment()
            return found

    def placed(self, entry: Entry) -> Where:
        """Where the buffers lie for a signature's learned sizes. One of which nothing was learned begins with what its sizes
        say exactly, and for the rest with the largest sizes seen at any signature."""
        with self.lock:
            if entry.learned is None:
                start = self.sizes(0, entry.key, list(self.everywhere.sizes))
                entry.learned = Learned(start, self.policy.window)
                if entry.first is not None:
                    entry.learned.see(entry.first)
            if entry.where is None:
                entry.where = where(self.place(entry.learned.sizes), entry.learned.now, entry.version)
                self.placements += 1
            return entry.where

    def learn_results(self, entry: Entry, sizes: Sequence[int]) -> None:
        """Take note of the bytes of the results of a run, one per managed result."""
        with self.lock:
            if entry.results is None:
                entry.results = Learned(sizes, self.policy.window)
            entry.results.see(sizes)

    def learn(self, entry: Entry, sizes: Sequence[int]) -> None:
        """Take note of a run's sizes."""
        with self.lock:
            self.everywhere.see(sizes)
            if entry.learned is None:
                entry.first = tuple(sizes)
            elif entry.learned.see(sizes):
                entry.where, entry.version = None, entry.version + 1
            elif entry.where is not None:
                entry.where = where(entry.where.placement, entry.learned.now, entry.version)


class BlockPlan:
    """The shared part of one block. ``inner``: plans of the blocks inside, by line and arm, in the order of the lines; a
    region that is called several times has one plan (``regions``: those there are, by the id of their block). ``stays``: which
    results somebody copies as soon as the block ended: of a loop's body, its last block, rows, and what the block around it
    has bytes for."""

    def __init__(
        self,
        block: Block,
        policy: Policy,
        constants: Constants,
        regions: dict[int, BlockPlan] | None = None,
        stays: Sequence[bool] = (),
    ) -> None:
        regions = {} if regions is None else regions
        regions[id(block)] = self
        self.block, self.policy, self.constants, self.stays = block, policy, constants, stays
        self.lock = threading.RLock()
        self.copied: frozenset[str] = frozenset()
        self.reason: Reason | None = None
        self.built: Built | None = None
        self.turns: dict[int, int] = {}  # by line that has blocks, of a loop that stacks: how many the latest run made
        self.first: Mapping[str, Placement] = {}  # by device, for the sizes of the run before it was built
        kept = staying(block)
        self.inner = [
            [
                regions.get(id(b))
                or BlockPlan(b, policy, constants, regions, kept.get(x.op.name, ()) if k == len(x.blocks) - 1 else ())
                for k, b in enumerate(x.blocks)
            ]
            for x in block.lines
            if x.blocks
        ]
        self.plain = self._load(emit(block, None, {}))
        self.given_up = not policy.out_variants

    def build(self, bindings: Mapping[str, Any]) -> None:
        """Make planned code from what a plain run saw; where that fails, stay with the plain code and say why."""
        with self.lock:
            if self.built is not None or self.given_up:
                return
            try:
                built = self._build(bindings)
                self.built = None if self.given_up else built
            except (LowtideError, RuntimeError) as e:
                if self.policy.verify and isinstance(e, VerifyError):
                    raise
                self.reason = Reason(f"{self.block.name} stays unplanned", str(e).splitlines()[0] if str(e) else "?")
                self.given_up = True

    def _build(self, bindings: Mapping[str, Any]) -> Built:
        sizes = {s: b for s, b in bindings.items() if isinstance(b, int)}
        folded = foldable(self.block)
        spelled = spellings(self.block, sizes, self.copied)
        facts = {n: s.facts for n, s in spelled.items()}
        slabs_of = [nested_slabs(line) for line in self.block.lines if line.blocks]
        inside = {
            n: max(arm.first[d].nbytes if d in arm.first else 0 for arm in arms)
            for names, arms in zip(slabs_of, self.inner, strict=True)
            for d, n in names.items()
        }
        block = self.block
        if self.policy.reorder:
            block = ordered(block, facts, self.copied, sizes, inside, self.stays)
        lives = lives_of(block, facts, self.copied, sizes, self.stays)
        results = managed_outputs(block, facts, self.copied) if self.policy.manage_outputs else ()
        loaded = self._load(
            emit(block, lives, spelled, verify=self.policy.verify, results=results, folded=tuple(folded))
        )
        slabs = [{d: lives.buffer[n] for d, n in names.items()} for names in slabs_of]
        built = Built(loaded, lives, self.policy, slabs, self._place(lives.lives))
        seen = [0] * len(lives.lives)
        for k, names in enumerate(loaded.code.symbols):
            built.sizes(k, tuple(bindings[n] for n in names), seen)
        for n, nbytes in inside.items():
            seen[lives.buffer[n]] = nbytes
        built.everywhere.see(seen)
        self.first = built.place(seen).parts
        return built

    def _place(self, lives: Sequence[Life]) -> Strategy:
        """The policy's placements, as far as they are right. One that is wrong ends planning: what asked for it runs with every
        value in ordinary memory, and from then on the block is unplanned."""
        place = on_each_device(self.policy.strategy, lives)

        def right(sizes: Sequence[int]) -> Placement:
            try:
                return place(sizes)
            except VerifyError as e:
                if self.policy.verify:
                    raise
                with self.lock:
                    self.built, self.given_up = None, True
                    self.reason = Reason(
                        f"{self.block.name} stays unplanned", f"its placement is wrong ({e}), please report it"
                    )
                log.warning("%s", self.reason)
                return nowhere(len(lives))

        return right

    def remember(self, op: str) -> None:
        """An operation returned bytes that were not its own: copy its results from now on."""
        with self.lock:
            self.copied |= {op}
            self.built = None
            self.plain = self._load(emit(self.block, None, {name: Spelling(copied=True) for name in self.copied}))

    # -- loading -----------------------------------------------------------------------------------------------------

    def _load(self, code: Code) -> Loaded:
        names: dict[str, Any] = {}
        for name, what in code.bound.items():
            kind, _, text = what.partition(":")
            if kind == "op":
                names[name] = overload(text)
            elif kind == "torch":
                names[name] = callable_of(text)
            elif kind == "constant":
                names[name] = self.constants[f"{self.block.name}:{text}"]
            elif kind == "number":
                names[name] = _hold if text == "assert" else NUMBERS[text]
            elif kind == "folded":
                names[name] = self._once(text)
            elif kind == "exact":
                names[name] = exact
            elif kind == "leaves":
                names[name] = leaves
            else:
                names[name] = atom(Atom(kind, text))
        filename = f"<{CODE_NAME} {next(_numbers)} {self.block.name}>"
        linecache.cache[filename] = (len(code.source), None, code.source.splitlines(keepends=True), filename)
        exec(compile(code.source, filename, "exec"), names)
        geometry = tuple(names[f"geometry{k}"] for k in range(len(code.symbols)))
        by_segment = tuple(
            tuple(i for i, s in enumerate(code.slots) if s.segment == k) for k in range(len(code.symbols))
        )
        return Loaded(code, names["block"], geometry, by_segment, names)

    def _once(self, value: str) -> torch.Tensor:
        """A value that depends on nothing. It is there when this returns, since any stream may read it later."""
        op = next(line.op for line in self.block.lines if value in line.op.outputs)
        args = [python_of(a, self.constants.__getitem__) for a in op.args]
        kwargs = {k: python_of(a, self.constants.__getitem__) for k, a in op.kwargs}
        with torch.inference_mode(False), torch.no_grad():
            made: torch.Tensor = overload(op.target)(*args, **kwargs)
        if made.device.type != "cpu":
            torch.accelerator.current_stream(made.device).synchronize()
        return made


def _hold(what: Any, message: str) -> None:
    """A run-time assertion of the captured program."""
    if not what:
        raise RuntimeError(message)
