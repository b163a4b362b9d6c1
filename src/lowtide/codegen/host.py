"""Schedule + MemoryPlan -> Program: the host code, short to read, one line per operation.

Comes in: a static schedule in its final order and the plan of its storages. Goes out: Python source with a function per
section. Promised: a name is bound before it is used and deleted after its last use, so that Python's reference counts
free every allocation exactly where the plan says; views are made right before their first use; a slab is taken where
its first storage begins and given back where its last one ends.

    def forward(args, run):
        x, w = args                             # the list is emptied: inputs can die early
        h0 = run.take(0); t1, t2 = h0           # headers over slab 0
        addmm_out(b, x, w, out=t1)              # model.py:41 layers.0.fc1
        gelu_out(t1, out=t1); g = t1; del t1
        ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lowtide.codegen import cpp
from lowtide.core.errors import BugError, Unsupported
from lowtide.core.reason import Reason
from lowtide.ir.graph import (
    ITEMSIZE,
    OBJECT,
    TRUSTED,
    WAIT,
    Arg,
    Atom,
    Expr,
    Graph,
    Op,
    Ref,
    Section,
    Value,
    int_of,
    refs_in,
)
from lowtide.ir.loops import Loop
from lowtide.plan.plan import OVER, MemoryPlan, Place
from lowtide.program import Consumed, Entry, Header, Program, SlabUse, Source, usable
from lowtide.schedule.schedule import CALL, Schedule, Step, kwargs_into, memory_graph
from lowtide.target import Kernel


class _Names:
    """Identifiers of a program: values keep their names, everything bound from outside gets one of its own."""

    def __init__(self, graph: Graph) -> None:
        self.taken = {v.name for v in graph.values} | {re.sub(r"\W", "_", s.name) for s in graph.sections}
        unfit = [name for name in sorted(self.taken) if not usable(name)]
        if unfit:
            raise BugError(f"code cannot name a value {unfit[0]!r}")
        self.bound: dict[str, str] = {}
        self.known: dict[str, str] = {}

    def of(self, kind: str, what: str) -> str:
        key = f"{kind}:{what}"
        if key not in self.known:
            base = re.sub(r"\W", "_", what.split(".", 1)[1] if kind == "op" else what).removesuffix("_default")
            name, n = f"{kind}_{base}" if kind != "op" else base, 1
            while name in self.taken or not usable(name):
                n += 1
                name = f"op_{base}_{n}" if kind == "op" else f"{kind}_{base}_{n}"
            self.taken.add(name)
            self.known[key] = name
            self.bound[name] = key
        return self.known[key]

    def local(self, base: str) -> str:
        """A name of the code's own for what is no value."""
        while base in self.taken or not usable(base):
            base += "_"
        self.taken.add(base)
        return base


def emit(
    schedule: Schedule,
    plan: MemoryPlan,
    kernels: tuple[Source, ...] = (),
    kernel: Callable[[Loop], Kernel] = cpp.kernel,
) -> Program:
    """The program of a schedule under a plan. ``kernels``: sources that define the functions of its loops, each of which is
    called as ``kernel`` says."""
    names = _Names(schedule.graph)
    entries: list[Entry] = []
    source: list[str] = []
    for i, section in enumerate(schedule.graph.sections):
        writer = _Section(schedule, plan, i, section, names, kernel)
        source.extend([*writer.lines(), "", ""])
        entries.append(Entry(writer.function, tuple(writer.uses), writer.consumed(), writer.strides()))
    for c in schedule.graph.constants:
        names.bound[c] = f"constant:{c}"
    return Program("\n".join(source).rstrip() + "\n", tuple(entries), names.bound, kernels)


class _Section:
    """Writes one function; short-lived."""

    def __init__(
        self, schedule: Schedule, plan: MemoryPlan, index: int, section: Section, names: _Names,
        kernel: Callable[[Loop], Kernel],
    ) -> None:  # fmt: skip
        self.graph, self.plan, self.section, self.names, self.kernel = schedule.graph, plan, section, names, kernel
        self.function = re.sub(r"\W", "_", section.name)
        nodes = memory_graph(schedule).nodes
        at = {n.name: t for t, n in enumerate(nodes)}
        self.steps = [(at[s.op.name], s) for s in schedule.steps if s.section == index]
        borders = [t for t, n in enumerate(nodes) if n.name.startswith(CALL)]
        self.span = ([0, *borders][index], [*borders, len(nodes)][index])
        self.inputs = [i.name for i in section.inputs if isinstance(i, Ref)]
        self.views = {o: op for op in self._reachable_views() for o in op.outputs if o is not None}
        self.sequence = self._sequence()
        self.last = self._last_uses()
        self.uses: list[SlabUse] = []
        self.slab_values: dict[str, int] = {}
        self.begun = {
            s.op.reads[0]: names.local(f"begun_{s.op.reads[0]}") for _, s in self.steps if s.op.target == WAIT
        }

    # -- what runs, views included, in order -------------------------------------------------------------------------

    def _reachable_views(self) -> list[Op]:
        return [op for op in self.section.ops if op.view]

    def _in_slab(self, value: Value) -> Place | None:
        place = self.plan.place.get(value.storage)
        return place if place is not None and place.slab is not None else None

    def _sequence(self) -> list[tuple[int, Op, Step | None]]:
        """(position, op, its step or None for a view): each view right before the first operation that reads it."""
        out: list[tuple[int, Op, Step | None]] = []
        done: set[str] = set()

        def need(names: Sequence[str], t: int) -> None:
            stack = list(reversed(names))
            while stack:
                name = stack[-1]
                op = self.views.get(name)
                if name in done or op is None or self._in_slab(self.graph.value[name]):
                    stack.pop()
                    continue
                missing = [r for r in op.reads if r not in done and r in self.views]
                missing = [r for r in missing if not self._in_slab(self.graph.value[r])]
                if missing:
                    stack.extend(reversed(missing))
                    continue
                stack.pop()
                done.update(o for o in op.outputs if o is not None)
                out.append((t, op, None))

        for t, step in self.steps:
            need(step.op.reads, t)
            out.append((t, step.op, step))
        end = self.span[1]
        need([n for a in self.section.returns for n in refs_in(a)], end)
        return out

    def _last_uses(self) -> dict[str, int]:
        """Name -> index into ``sequence`` of its last use; what is returned has none."""
        last: dict[str, int] = {}
        for i, (_, op, _) in enumerate(self.sequence):
            for n in (*op.reads, *(o for o in op.outputs if o is not None)):
                last[n] = i
        for n in (*self.graph.constants, *(n for a in self.section.returns for n in refs_in(a))):
            last.pop(n, None)
        return last

    # -- slabs -------------------------------------------------------------------------------------------------------

    def _slab_uses(self) -> None:
        """Which slabs this section touches, and the headers it needs in each."""
        lo, hi = self.span
        touched = [n for _, op, _ in self.sequence for n in (*op.reads, *(o for o in op.outputs if o is not None))]
        touched += [n for a in self.section.returns for n in refs_in(a)]
        wanted: dict[int, dict[str, Header]] = {}
        given = set(self.inputs)
        for n in touched:
            place = self._in_slab(self.graph.value[n]) if n in self.graph.value else None
            if place is not None and place.slab is not None and n not in given:
                wanted.setdefault(place.slab, {})[n] = _header(self.graph.value[n], place)
        for k, headers in sorted(wanted.items()):
            slab = self.plan.slabs[k]
            if slab.allocator:
                raise Unsupported(
                    Reason(f"allocator {slab.allocator}", "is planned for, but no run time has its memory")
                )
            found_by = None
            if slab.first < lo:
                found_by = self._found_by(k)
            leaves = slab.end > hi
            self.slab_values.update(dict.fromkeys(headers, len(self.uses)))
            self.uses.append(SlabUse(k, slab.nbytes, slab.device, tuple(headers.values()), slab.kept, found_by, leaves))

    def _found_by(self, k: int) -> tuple[int, int]:
        for i, given in enumerate(self.section.inputs):
            if isinstance(given, Ref):
                value = self.graph.value[given.name]
                place = self._in_slab(value)
                if place is not None and place.slab == k:
                    return i, _header(value, place).offset
        raise BugError(f"slab {k} reaches section {self.section.name}, but none of its inputs lies in it")

    def consumed(self) -> tuple[Consumed, ...]:
        """The storages of inputs that this section overwrites or reuses."""
        taken = {p.over for p in self.plan.places if self.span[0] <= p.first < self.span[1]}
        slabs: dict[int, list[tuple[int, int]]] = {}
        alone: dict[str, list[int]] = {}
        for i, given in enumerate(self.section.inputs):
            value = self.graph.value[given.name] if isinstance(given, Ref) else None
            if value is None or value.storage in self.graph.caller_owned:
                continue
            place = self.plan.place[value.storage]
            if place.slab is not None:
                slabs.setdefault(place.slab, []).append((i, _header(value, place).offset))
            elif value.storage in taken:
                alone.setdefault(value.storage, []).append(i)
        return (
            *(
                Consumed(tuple(i for i, _ in inside), tuple(at for _, at in inside), self.plan.slabs[k].nbytes)
                for k, inside in slabs.items()
            ),
            *(Consumed(tuple(positions)) for positions in alone.values()),
        )

    def strides(self) -> tuple[tuple[int, ...] | None, ...]:
        """Of the inputs, as the code expects them; None for what is no tensor."""
        layouts = (self.graph.value[g.name].layout if isinstance(g, Ref) else None for g in self.section.inputs)
        return tuple(None if y is None or y.dtype == OBJECT else tuple(map(int_of, y.stride)) for y in layouts)

    # -- text --------------------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """The function's source."""
        self._slab_uses()
        parameters = [self._parameter(i, a) for i, a in enumerate(self.section.inputs)]
        out = [f"def {self.function}(args, run):"]
        if parameters:
            out.append(f"    {', '.join(parameters)}{',' if len(parameters) == 1 else ''} = args")
        out.append("    args.clear()")
        first, final = self._slab_spans()
        out.extend(self._take(u) for u in first.pop(-1, ()))
        bound = {*self.last, *self.graph.constants}  # of these, none is unread
        dead = [n for n in dict.fromkeys(self.inputs) if n not in bound and not self._returned(n)]
        dead += [p for p in parameters if p.startswith("_unused")]
        if dead:
            out.append(f"    del {', '.join(dead)}")
        for i, (_, op, step) in enumerate(self.sequence):
            for u in first.get(i, ()):
                out.append(self._take(u))
            out.extend(f"    {line}" for line in self._call(op, step, i))
            for u in final.get(i, ()):
                out.append(f"    run.give({u}, h{u}); del h{u}")
        for u in first.get(len(self.sequence), ()):
            out.append(self._take(u))
        out.append(f"    return [{', '.join(self._text(a) for a in self.section.returns)}]")
        return out

    def _take(self, u: int) -> str:
        names = ", ".join(h.name for h in self.uses[u].headers)
        comma = "," if len(self.uses[u].headers) == 1 else ""
        use = self.uses[u]
        found = self._parameter(use.found_by[0], self.section.inputs[use.found_by[0]]) if use.found_by else "None"
        return f"    h{u} = run.take({u}, {found}); {names}{comma} = h{u}"

    def _parameter(self, i: int, given: Ref | Expr | None) -> str:
        return given.name if isinstance(given, Ref) else f"_unused{i}"

    def _returned(self, name: str) -> bool:
        return any(name in refs_in(a) for a in self.section.returns)

    def _slab_spans(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """Index into ``sequence`` before which a slab is taken (-1: at once), and after which it is given back."""
        first: dict[int, list[int]] = {}
        final: dict[int, list[int]] = {}
        begins: dict[int, int] = {}
        ends: dict[int, int] = {}
        for i, (_, op, _) in enumerate(self.sequence):
            for u in {self.slab_values[n] for n in (*op.reads, *op.outputs) if n in self.slab_values}:
                begins.setdefault(u, i)
                ends[u] = i
        for u, use in enumerate(self.uses):
            begin = -1 if use.found_by is not None else begins.get(u, len(self.sequence))
            first.setdefault(begin, []).append(u)
            if u in ends and not use.leaves:
                final.setdefault(ends[u], []).append(u)
        return first, final

    def _call(self, op: Op, step: Step | None, i: int) -> list[str]:
        args = [self._text(a) for a in op.args]
        args += [f"{k}={self._text(a)}" for k, a in op.kwargs]
        origin = str(op.origin)
        note = f"  # {origin}" if origin and origin.isprintable() else ""
        deaths = [n for n in dict.fromkeys((*op.reads, *(o for o in op.outputs if o))) if self.last.get(n) == i]
        line = self._assignment(op, step, args)
        deaths += ["_"] if None in op.outputs and any(op.outputs) else []  # results that nobody uses end here
        drop = [f"del {', '.join(deaths)}"] if deaths else []
        return [f"{'; '.join([line, *drop])}{note}"]

    def _assignment(self, op: Op, step: Step | None, args: list[str]) -> str:
        if step is not None and step.loop is not None:
            return self._loop(op, step.loop)
        if op.target == WAIT:
            begun = self.begun[args[0]]
            return f"{begun}.wait(); del {begun}"
        if step is not None and step.begins in self.begun:
            return f"{self.begun[step.begins]} = Begun({args[0]}, {args[1]})"
        plain = self.names.of("op", op.target)
        targets = [o if o is not None else "_" for o in op.outputs]
        made = f"{plain}({', '.join(args)})"
        if op.paths and any(op.outputs):
            made = f"leaves({made}, {op.paths})"
        if step is None:
            return f"{_targets(targets, op)}{made}"
        places = [self.plan.place[o] for o in op.outputs if o is not None and o in self.plan.place]
        if len(places) == 1 and len(op.outputs) == 1:
            place, result = places[0], str(op.outputs[0])
            if place.how == OVER and self.graph.nbytes[str(place.over)] == place.nbytes:
                return self._over(op, step, args, place, result)
            if place.slab is not None and step.facts.out is not None:
                return self._into(step, result)
        call = f"{_targets(targets, op)}{made}"
        for r in step.facts.restride:
            value = self.graph.value[targets[r]]
            pinned = ", True" if value.layout.pinned else ""
            call += f"; {targets[r]} = exact({targets[r]}, {value.layout.size}, {value.layout.stride}{pinned})"
        return call if op.target.split(".", 1)[0] in TRUSTED else call + self._as_said(op)

    def _as_said(self, op: Op) -> str:
        """Have the new results of an operator that nobody has tried held against what was captured of them."""
        made = (self.graph.value[o] for o in op.outputs if o is not None)
        return "".join(
            f"; {v.name} = as_said({v.name}, {v.layout.size}, {v.layout.stride}, "
            f"{self.names.of('dtype', v.layout.dtype)}, {self.names.of('device', v.layout.device)}, {op.target!r})"
            for v in made
            if v.storage == v.name and v.layout.dtype != OBJECT
        )

    def _loop(self, op: Op, loop: Loop) -> str:
        """Call a generated kernel on addresses; what has no bytes yet is made before, other names are given after."""
        before: list[str] = []
        after: list[str] = []
        places = [f"{r.name}.data_ptr()" for r in op.args if isinstance(r, Ref)]
        for o in op.outputs:
            if o is None:
                raise BugError(f"{op.name} makes something that has no name")
            place, x = self.plan.place[o], self.graph.value[o].layout
            size, stride = tuple(map(int_of, x.size)), tuple(map(int_of, x.stride))
            if place.how == OVER and place.slab is None:
                dying = next(r for r in op.reads if self.graph.value[r].storage == place.over)
                y = self.graph.value[dying].layout
                same = (y.size, y.stride) == (x.size, x.stride)
                places.append(f"{dying}.data_ptr()")
                after.append(f"{o} = {dying}" if same else f"{o} = relaid({dying}, {size}, {stride})")
                continue
            if place.slab is None:
                before.append(f"{o} = made({size}, {stride}, dtype={self.names.of('dtype', x.dtype)})")
            places.append(f"{o}.data_ptr()")
        k = self.kernel(loop)
        numbers = self.names.of("numbers", ",".join(map(str, k.params)))
        call = f"{self.names.of('kernel', f'{k.name}/{k.buffers}')}({', '.join([numbers, *places])})"
        if loop.checks:
            call = f"failed({call}, {str(op.origin)!r})"
        return "; ".join([*before, call, *after])

    def _into(self, step: Step, result: str) -> str:
        op = step.op
        args = [self._text(a) for a in op.args]
        args += [f"{k}={self._text(a)}" for k, a in kwargs_into(op)]
        return f"{self.names.of('op', str(step.facts.out))}({', '.join([*args, f'{step.facts.out_name}={result}'])})"

    def _over(self, op: Op, step: Step, args: list[str], place: Place, result: str) -> str:
        """The result continues in the bytes of a dying operand of the same layout."""
        dying = next(r for r in op.reads if self.graph.value[r].storage == place.over)
        into = result if place.slab is not None else dying
        if step.facts.pointwise and step.facts.out is not None:
            call = f"{self.names.of('op', step.facts.out)}({', '.join(args)}, {step.facts.out_name}={into})"
        else:
            call = f"{self.names.of('op', str(step.facts.overwrite))}({', '.join(args)})"
        return call if place.slab is not None else f"{call}; {result} = {dying}"

    def _text(self, a: Arg) -> str:
        if isinstance(a, Ref):
            return a.name
        if isinstance(a, Atom):
            return self.names.of(a.kind, a.text)
        if isinstance(a, tuple):
            return f"[{', '.join(self._text(x) for x in a)}]"
        if isinstance(a, Expr):
            raise BugError(f"a symbolic size reached code generation: {a}")
        if isinstance(a, float) and (a != a or a in (float("inf"), float("-inf"))):
            return f"float('{a}')"
        return repr(a)


def _targets(targets: list[str], op: Op) -> str:
    if op.returns == "none" or not any(op.outputs):
        return ""
    if op.returns == "one":
        return f"{targets[0]} = "
    return f"{', '.join(targets)}{',' if len(targets) == 1 else ''} = "


def _header(value: Value, place: Place) -> Header:
    x = value.layout
    size, stride = tuple(int_of(n) for n in x.size), tuple(int_of(n) for n in x.stride)
    return Header(value.name, x.dtype, size, stride, place.offset + int_of(x.offset) * ITEMSIZE[x.dtype])
