"""The buffers of a schedule: who makes each, under which names it is used and by whom, who changes it, whose it is.

Comes in: a Schedule. Goes out: a frozen ``ScheduledBuffer`` per storage, found by any name that stands on it. Promised: users
are in the order of the steps, each once, a kernel for all operations in it; the last of them is ``OUTPUT`` where somebody
outside can see the bytes afterwards: they are returned, are put under a tensor of the caller's, or are the caller's or a
constant and changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lowtide.core.units import format_bytes
from lowtide.schedule.depend import accesses
from lowtide.schedule.schedule import Schedule, handed_on, kept_by_caller

OUTPUT = "OUTPUT"  # stands among the users for whoever takes what the program leaves
OURS, CALLER, CONSTANT = "ours", "the caller's", "a constant"


@dataclass(frozen=True, slots=True)
class ScheduledBuffer:
    """A storage; two are the same if their names are.

    nbytes: how far it reaches. owner: ``OURS``, ``CALLER`` or ``CONSTANT``. maker: the step that makes it, None for what is
    given. users: steps that read or change it, without the maker. changed_by: those that change it. names: all values that
    stand on it, as they are defined; newest: the last of them that a change has made, the first where none has. donated:
    ours, and held for a later section alone, which may end it or write over it.
    """

    name: str
    nbytes: int = field(compare=False)
    device: str = field(compare=False)
    owner: str = field(compare=False)
    maker: str | None = field(compare=False)
    users: tuple[str, ...] = field(compare=False)
    changed_by: tuple[str, ...] = field(compare=False)
    names: tuple[str, ...] = field(compare=False)
    newest: str = field(compare=False)
    donated: bool = field(compare=False)

    @property
    def uses(self) -> str:
        """Who makes, changes and uses it, for people."""
        parts = [f"made by {self.maker}" if self.maker is not None else self.owner]
        parts += [f"changed by {', '.join(self.changed_by)}"] if self.changed_by else []
        parts += [f"used by {', '.join(self.users)}"] if self.users else ["used by nobody"]
        return "; ".join(parts)

    def __str__(self) -> str:
        lines = [f"%{self.name}: {format_bytes(self.nbytes)} ({self.nbytes} bytes) on {self.device}", self.uses]
        lines += [f"also called {', '.join(f'%{n}' for n in self.names[1:])}"] if len(self.names) > 1 else []
        lines += [f"newest version %{self.newest}"] if self.newest != self.name else []
        lines += ["donated to a later section"] if self.donated else []
        return "\n  ".join(lines)


def buffers(schedule: Schedule) -> Mapping[str, ScheduledBuffer]:
    """By the name of any value that stands on it."""
    graph = schedule.graph
    storage = {v.name: v.storage for v in graph.values}
    users: dict[str, dict[str, None]] = {s: {} for s in storage.values()}
    changed: dict[str, dict[str, None]] = {s: {} for s in users}
    maker: dict[str, str] = {}
    newest = {s: s for s in users}
    for step in schedule.steps:
        read, written, made = accesses(step.op, storage)
        for s in read:
            users[s][step.op.name] = None
        for s in written:
            changed[s][step.op.name] = None
        maker |= dict.fromkeys(made, step.op.name)
        newest |= {storage[o]: o for o in step.op.outputs if o is not None and storage[o] in written}
    kept, given = kept_by_caller(graph), graph.caller_owned
    for s in users:
        if s in kept or (s in given and changed[s]):
            users[s][OUTPUT] = None
    donated = {s for k in range(len(graph.sections)) for s in handed_on(graph, k)} - kept
    names: dict[str, list[str]] = {}
    for v in graph.values:
        names.setdefault(v.storage, []).append(v.name)
    constants = {storage[c] for c in graph.constants}
    found = {
        s: ScheduledBuffer(
            s, graph.nbytes[s], graph.value[s].layout.memory,
            CONSTANT if s in constants else CALLER if s in given else OURS,
            maker.get(s), tuple(users[s]), tuple(changed[s]), tuple(names[s]), newest[s], s in donated,
        )
        for s in users
    }  # fmt: skip
    return {n: found[s] for n, s in storage.items()}


def print_buffers(schedule: Schedule) -> str:
    """Every buffer once, in order of definition."""
    return "".join(f"{b}\n" for n, b in buffers(schedule).items() if n == b.name)
