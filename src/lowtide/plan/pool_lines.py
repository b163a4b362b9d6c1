"""A program of allocate, free and reuse lines, rewritten so that buffers are slices of pools.

Comes in: lines in their final order, and what is known about every buffer. Goes out: the lines with pools created, sliced
and destroyed. Promised: the list that came in is untouched; lines that are not about memory stay, in their order; lines
of names that are not ours stay as they are; a pool is created once, before its first slice, and destroyed at most once,
after everything in it died, unless an output lies in it; every name is defined before it is used. What stands between the
``enter`` and ``exit`` lines of a sub-program is planned by itself, with pools of its own. ``plan.memory_lines`` makes such
lines from a schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lowtide.core.errors import UserError, VerifyError
from lowtide.ir.symbolic import Dim, evaluate
from lowtide.plan.pools import Pool, plan_pools
from lowtide.plan.ranges import live_in
from lowtide.plan.tree import Request

ALLOCATE, FREE, REUSE, OTHER = "allocate", "free", "reuse", "other"  # what comes in
VIEW, DROP, NULL = "view", "drop", "null"  # another name for bytes; the end of an input; nothing any more
ENTER, EXIT = "enter", "exit"  # of a sub-program; its name is the text
SIZE, CREATE, SLICE, ALIAS, DESTROY = "size", "create", "slice", "alias", "destroy"  # what goes out beside it


@dataclass(frozen=True, slots=True)
class Line:
    """``names``: what it is about (reuse: new, old; view: new, base; alias: new, earlier; destroy: the pool, then all names
    in it).

    ``dim``: bytes (create), offset in bytes (slice, view) or value (size). ``layout``: dtype, shape and stride as text.
    ``text``: of a line that is not about memory, and of a sub-program.
    """

    kind: str
    names: tuple[str, ...] = ()
    dim: Dim = 0
    pool: str = ""
    layout: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Info:
    """A buffer that we allocate: bytes as an expression (hint: at example sizes, None where unknown until it begins), its
    layout as text, whether the caller keeps it or an alias of it, where it lies and whose memory it is."""

    nbytes: Dim
    hint: int | None
    layout: str = ""
    output: bool = False
    device: str = "cpu"
    allocator: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Names that share one storage, first the one that was allocated; live in steps ``[begin, end)`` of the clock."""

    names: tuple[str, ...]
    begin: int
    end: int
    output: bool


GUESS = 64  # bytes that a size which is not known counts in a pool's hint; nobody's place depends on it


def groups_of(lines: Sequence[Line], infos: Mapping[str, Info]) -> tuple[tuple[Group, ...], tuple[int, ...]]:
    """Storages with their live ranges, and the clock at every line.

    The clock counts maximal blocks of adjacent memory lines. A group lives from its first to its last line; to the end
    of the program if it is never freed, one tick longer if it is an output.

    Raises:
        UserError: a name is allocated, freed or reused twice.
    """
    clock, now, before = list[int](), 0, False
    for line in lines:
        memory = line.kind not in (OTHER, ENTER, EXIT)
        now += memory and not before
        before = memory
        clock.append(now)
    first: dict[str, int] = {}
    names: dict[str, list[str]] = {}
    root: dict[str, str] = {}
    freed: dict[str, int] = {}
    gone: set[str] = set()
    for line, at in zip(lines, clock, strict=True):
        if line.kind == ALLOCATE and line.names[0] in infos:
            _once(line.names[0], root)
            root[line.names[0]] = line.names[0]
            names[line.names[0]], first[line.names[0]] = [line.names[0]], at
        elif line.kind == REUSE and line.names[1] in root:
            new, old = line.names
            _once(new, root)
            _once(old, gone)
            gone.add(old)
            root[new] = root[old]
            names[root[old]].append(new)
        elif line.kind == FREE and line.names[0] in root:
            _once(line.names[0], gone)
            gone.add(line.names[0])
            freed[root[line.names[0]]] = at
    out: list[Group] = []
    for name, members in names.items():
        output = any(m in infos and infos[m].output for m in members)
        end = now + 2 if output else freed.get(name, now + 1)
        out.append(Group(tuple(members), first[name], end, output))
    return tuple(out), tuple(clock)


def _once(name: str, seen: Mapping[str, str] | set[str]) -> None:
    if name in seen:
        raise UserError(f"{name} is allocated, reused or freed twice")


def request_of(group: Group, info: Info) -> Request:
    """One request per storage; an unknown size gets a guess as its hint."""
    ranges = live_in([(group.begin, group.end)])
    hint = GUESS if info.hint is None else info.hint
    late = info.hint is None
    return Request(group.names[0], info.nbytes, hint, ranges, group.output, late, info.device, info.allocator)


def pooled(
    lines: Sequence[Line], infos: Mapping[str, Info], *, mode: str = "intermediates", alignment: int = 64,
    removed: frozenset[str] = frozenset(),
) -> tuple[tuple[Line, ...], tuple[Pool, ...]]:  # fmt: skip
    """The program with pools. ``removed``: names that no longer exist; their memory lines become ``null`` lines first.

    Raises:
        UserError: see ``groups_of``; or enter and exit lines do not match. OptionError: there is no such mode.
    """
    gone = [Line(NULL) if x.kind not in (OTHER, ENTER, EXIT) and removed.intersection(x.names) else x for x in lines]
    open_scopes: list[tuple[str, list[Line]]] = [("", [])]
    inner: dict[int, tuple[Line, ...]] = {}  # by the number that stands for it in the scope around it
    pools: list[Pool] = []
    for line in gone:
        if line.kind == ENTER:
            open_scopes.append((line.text, []))
        elif line.kind == EXIT:
            name, within = open_scopes.pop()
            if not open_scopes or name != line.text:
                raise UserError(f"the end of sub-program {line.text!r} stands where {name!r} is open")
            done, made = _pooled(within, infos, mode, alignment, f"p{len(inner)}_")
            pools += made
            stands = Line(OTHER, text=f"{ENTER} {len(inner)}")
            inner[len(inner)] = (Line(ENTER, text=name), *done, Line(EXIT, text=name))
            open_scopes[-1][1].append(stands)
        else:
            open_scopes[-1][1].append(line)
    if len(open_scopes) > 1:
        raise UserError(f"sub-program {open_scopes[-1][0]!r} does not end")
    done, made = _pooled(open_scopes[0][1], infos, mode, alignment, "")
    return _unfolded(done, inner), (*made, *pools)


def _unfolded(lines: Sequence[Line], inner: Mapping[int, tuple[Line, ...]]) -> tuple[Line, ...]:
    """The lines with sub-programs in the place of what stands for them."""
    out: list[Line] = []
    waiting = list(reversed(lines))
    while waiting:
        line = waiting.pop()
        word, _, number = line.text.partition(" ")
        if line.kind == OTHER and word == ENTER and number.isdigit() and not line.names and int(number) in inner:
            waiting.extend(reversed(inner[int(number)]))
        else:
            out.append(line)
    return tuple(out)


def _pooled(
    lines: Sequence[Line], infos: Mapping[str, Info], mode: str, alignment: int, prefix: str
) -> tuple[tuple[Line, ...], tuple[Pool, ...]]:
    """One scope, whose pools' names begin with ``prefix``."""
    groups, _ = groups_of(lines, infos)
    requests = [request_of(g, infos[g.names[0]]) for g in groups]
    pools = plan_pools(requests, mode=mode, alignment=alignment, prefix=prefix)
    home = {r.name: p for p in pools for r in p.members}
    root = {n: g.names[0] for g in groups for n in g.names}
    left = {p.name: sum(g.names[0] in p.offsets for g in groups) for p in pools}
    held: dict[str, list[str]] = {}
    slices: dict[tuple[str, Dim, str], str] = {}
    out: list[Line] = []
    for line in lines:
        name = line.names[0] if line.names else ""
        pool = home.get(root.get(name, ""))
        if line.kind in (OTHER, VIEW, DROP, NULL) or pool is None:
            out.append(line)
        elif line.kind == ALLOCATE:
            if pool.name not in held:
                held[pool.name] = []
                out += _creation(pool, infos)
            held[pool.name].append(name)
            out.append(_slice(name, pool, infos[name].layout, slices))
        elif line.kind == REUSE:
            held[pool.name].append(name)
            out.append(Line(ALIAS, line.names, pool=pool.name))
        else:
            left[pool.name] -= 1
            if not left[pool.name] and not pool.output:
                out.append(Line(DESTROY, (pool.name, *held[pool.name]), pool=pool.name))
    out += [
        Line(DESTROY, (p.name, *held[p.name]), pool=p.name) for p in pools if left[p.name] and not p.output
    ]  # what is never freed lives to the end
    return tuple(out), pools


def _creation(pool: Pool, infos: Mapping[str, Info]) -> list[Line]:
    """Sizes, then the allocation: with the layout of the one buffer that fills it, else flat bytes."""
    sizes = [Line(SIZE, (n,), d, pool.name) for n, d in pool.sizes]
    only = infos[pool.members[0].name].layout if len(pool.members) == 1 else ""
    return [*sizes, Line(CREATE, (pool.name,), pool.nbytes, pool.name, only)]


def _slice(name: str, pool: Pool, layout: str, slices: dict[tuple[str, Dim, str], str]) -> Line:
    """A slice, or an alias of an earlier name that is the same slice."""
    key = (pool.name, pool.offsets[name], layout)
    if layout and key in slices:
        return Line(ALIAS, (name, slices[key]), pool=pool.name)
    slices.setdefault(key, name)
    return Line(SLICE, (name,), pool.offsets[name], pool.name, layout)


def text_of(line: Line) -> str:
    """One line of Python over ``empty``, ``slice_of`` and the size names."""
    if line.kind == OTHER:
        return line.text
    first = line.names[0] if line.names else ""
    match line.kind:
        case "size":
            return f"{first} = {line.dim}"
        case "create":
            return f"{first} = empty({line.dim}{f', {line.layout}' if line.layout else ''})"
        case "slice":
            return f"{first} = slice_of({line.pool}, {line.dim}{f', {line.layout}' if line.layout else ''})"
        case "alias":
            return f"{first} = {line.names[1]}"
        case "destroy" | "drop":
            return f"del {', '.join(line.names)}"
        case "view":
            return f"{first} = view_of({line.names[1]}, {line.dim}{f', {line.layout}' if line.layout else ''})"
        case "null":
            return "# nothing"
        case "enter" | "exit":
            return f"# {line.kind} {line.text}"
        case _:
            return f"{line.kind} {', '.join(line.names)}"


def resolved(lines: Sequence[Line], bindings: Mapping[str, int]) -> tuple[Line, ...]:
    """The lines with numbers for expressions, at given sizes.

    Raises:
        VerifyError: ``symbol``, a size is used before it is bound.
    """
    known, out = dict(bindings), list[Line]()
    for line in lines:
        value = evaluate(line.dim, known)
        if line.kind == SIZE:
            if line.names[0] in known:
                raise VerifyError("symbol", f"{line.names[0]} is bound twice")
            known[line.names[0]] = value
        out.append(replace(line, dim=value))
    return tuple(out)
