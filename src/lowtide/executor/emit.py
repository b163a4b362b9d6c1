"""Block + Lives -> Code: a Python function that runs the block, one line per operation, right for every size.

Comes in: a Block, its Lives (none: everything is called plainly, as in a first run), and how operations are spelled.
Goes out: source, the names that it needs, and the headers that it expects, by segment. Promised: a name is bound before it
is used and dropped after its last use; a header is shaped as soon as the sizes that it depends on are known and before it
is written. A *segment* is what becomes known at one line; segment 0 is known when the block is called.

    def block(args, run):
        x, mask = args; args.clear()
        k_s0 = x.size(0)
        if run.key != (k_s0,): run.begin((k_s0,))
        t1, t2 = run.headers
        op_mul_out(x, 2, out=t1)
        kept = op_masked_select(t1, mask); k_u0 = kept.size(0)
        if run.at[1] != (k_u0,): run.shape(1, (k_u0,))
        op_exp_out(kept, out=t2); del kept
        ...
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lowtide.core.errors import BugError
from lowtide.executor.arithmetic import Arithmetic, arithmetic
from lowtide.executor.block import COND, LOOP, NESTED, OFFSET, SCALAR, SCAN, STACK, VIEW, Block, Line
from lowtide.executor.lives import Lives, last_uses, layout_symbols
from lowtide.executor.signs import nonnegative
from lowtide.ir.graph import ITEMSIZE, Arg, Atom, Layout, Op, Ref, Value, refs_in
from lowtide.ir.strides import filled, same_places
from lowtide.ir.symbolic import Dim
from lowtide.schedule.schedule import OpFacts, kwargs_into


@dataclass(frozen=True, slots=True)
class Spelling:
    """How one operation is called: facts, and the names of callables (``op:aten.add.out`` or ``torch:add``).
    ``out_names``: what the form that writes into given bytes calls its results, where there are several."""

    facts: OpFacts = field(default_factory=OpFacts)
    plain: str = ""
    out: str = ""
    copied: bool = False
    watched: bool = False
    out_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slot:
    """A header: the value that it stands for, the managed storage under it, its dtype, device and rank. ``where``: its
    layout's place in what the segment's geometry gives."""

    name: str
    storage: str
    dtype: str
    device: str
    segment: int
    rank: int
    where: int


@dataclass(frozen=True)
class Code:
    """``source``: the function, made of ``inputs`` (names of its arguments), ``given`` (lines that read sizes off them, by
    symbol), ``body`` and ``returned``. ``bound``: name -> what it stands for. ``slots``: headers in the order of
    ``run.headers``. ``symbols``: per segment the sizes that it is shaped by; ``arithmetic``: its distinct layouts.
    ``nested``: indices of lines that have blocks, in order. ``results``: results that are written into a slab of their own,
    with fresh headers in every run. ``folded``: values that depend on nothing, worked out once."""

    source: str
    inputs: tuple[str, ...]
    given: Mapping[str, str]
    body: tuple[str, ...]
    returned: tuple[str, ...]
    bound: Mapping[str, str]
    slots: tuple[Slot, ...]
    symbols: tuple[tuple[str, ...], ...]
    arithmetic: tuple[Arithmetic, ...]
    nested: tuple[int, ...]
    results: tuple[Slot, ...] = ()
    folded: tuple[str, ...] = ()


_PLAIN = Spelling()
_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
_TO_THE_END = 1 << 62


def emit(
    block: Block,
    lives: Lives | None,
    spelled: Mapping[str, Spelling],
    *,
    verify: bool = False,
    results: Sequence[str] = (),
    folded: Sequence[str] = (),
) -> Code:
    """The code of one block, without those inside it. ``verify``: bytes are poisoned before they are written, and every
    result that an operation allocates is held against the slab. ``results``: those that go into a slab of their own.
    ``folded``: operations that are worked out once."""
    return _Writer(block, lives, spelled, verify, results, folded).code()


class _Writer:
    """Writes one function; short-lived."""

    def __init__(
        self,
        block: Block,
        lives: Lives | None,
        spelled: Mapping[str, Spelling],
        verify: bool,
        results: Sequence[str],
        folded: Sequence[str],
    ) -> None:
        self.folded = dict.fromkeys(folded)
        self.block, self.lives, self.spelled, self.verify = block, lives, spelled, verify
        self.first = lives is None
        self.managed = frozenset(lives.order if lives is not None else ())
        self.value = block.graph.value
        self.taken = set(self.value)
        self.bound: dict[str, str] = {}
        self.known: dict[str, str] = {}
        self.last = last_uses(block)
        self.forward = nonnegative(block)
        self.headers = self._headers()
        self.results = dict.fromkeys(results)
        self.births = sorted({self._birth(self.value[n]) for n in (*self.headers, *self.results)} | {-1})
        self.nested: list[int] = []
        self.rows: dict[int, dict[str, tuple[int, Layout, Layout]]] = {}

    # -- headers and segments ----------------------------------------------------------------------------------------

    def _headers(self) -> dict[str, None]:
        """Values that are headers over the slab: managed results, and views made of headers. Where a view begins may be known
        only once torch made it (an index that depends on data); views of that one are headers again."""
        out: dict[str, None] = {}
        late: set[str] = set()
        for i, line in enumerate(self.block.lines):
            op = line.op
            if line.kind == VIEW and not line.computed and len(op.outputs) >= 1:
                base, made = op.reads[0] if op.reads else None, [o for o in op.outputs if o is not None]
                if base in out or base in late:
                    known = all(self._known(o) and self._birth(self.value[o]) < i for o in made)
                    out.update(dict.fromkeys(made) if known else {})
                    late.update(() if known else made)
            else:
                out.update(dict.fromkeys(o for o in op.outputs if o is not None and o in self.managed))
        return out

    def _known(self, name: str) -> bool:
        return layout_symbols(self.value[name]) <= self.block.known_at.keys()

    def _birth(self, value: Value) -> int:
        """The line after which all sizes of a value and its storage are known."""
        known = self.block.known_at
        both = layout_symbols(value) | layout_symbols(self.value[value.storage])
        return max((known[s] for s in both), default=-1)

    def _slots(self, names: Iterable[str]) -> tuple[Slot, ...]:
        out: list[Slot] = []
        for n in names:
            v = self.value[n]
            k, rank = self.births.index(self._birth(v)), len(v.layout.size)
            where = self._row(k, v)
            out.append(Slot(n, v.storage, v.layout.dtype, v.layout.device, k, rank, where))
        return tuple(out)

    def _row(self, segment: int, v: Value) -> int:
        """Where a layout stands among the distinct ones of a segment: bytes, element offset, sizes, strides."""
        x = v.layout
        row = [extent_text(self.value[v.storage].layout), *map(dim_text, (x.offset, *x.size, *x.stride))]
        rows = self.rows.setdefault(segment, {})
        text = ", ".join(row)
        if text not in rows:
            rows[text] = sum(2 + 2 * len(y.size) for _, _, y in rows.values()), self.value[v.storage].layout, x
        return rows[text][0]

    def _symbols(self) -> tuple[tuple[str, ...], ...]:
        out: list[tuple[str, ...]] = []
        for birth in self.births:
            inside = [self.value[n] for n in (*self.headers, *self.results) if self._birth(self.value[n]) == birth]
            used = {s for v in inside for s in layout_symbols(v) | layout_symbols(self.value[v.storage])}
            out.append(tuple(sorted(used)))
        if self.block.known_at:
            begins = {g.symbol for g in self.block.given if g.dim == OFFSET} - set(out[0])  # says nothing of sizes
            out[0] = tuple(sorted(s for s, at in self.block.known_at.items() if at < 0 and s not in begins))
        return tuple(out)

    # -- names and text ----------------------------------------------------------------------------------------------

    def _name(self, what: str) -> str:
        if what not in self.known:
            kind, _, text = what.partition(":")
            base = re.sub(r"\W", "_", text).removesuffix("_default")
            name, n = f"{kind}_{base}", 1
            while name in self.taken:
                name, n = f"{kind}_{base}_{n}", n + 1
            self.taken.add(name)
            self.known[what], self.bound[name] = name, what
        return self.known[what]

    def _text(self, a: Arg) -> str:
        if isinstance(a, Ref):
            return a.name
        if isinstance(a, Atom):
            return self._name(f"{a.kind}:{a.text}")
        if isinstance(a, tuple):
            return f"[{', '.join(map(self._text, a))}]"
        if isinstance(a, float) and (a != a or a in (float("inf"), float("-inf"))):
            return f"float('{a}')"
        return repr(a) if isinstance(a, int | float | str | bool) or a is None else size_text(a)

    # -- the function ------------------------------------------------------------------------------------------------

    def code(self) -> Code:
        """All of it."""
        symbols, slots, results = self._symbols(), self._slots(self.headers), self._slots(self.results)
        names = [i.name if isinstance(i, Ref) else f"_given{n}" for n, i in enumerate(self.block.inputs)]
        given = {g.symbol: f"k_{g.symbol} = {names[g.position]}{_read(g.dim)}" for g in self.block.given}
        lines = self._opening(names, symbols[0])
        for i, line in enumerate(self.block.lines):
            text = self._line(i, line)
            deaths = self._deaths(i, line)
            parts = [*text, *(self._binding(line)), *([f"del {', '.join(deaths)}"] if deaths else [])]
            where = str(line.op.origin)
            if parts:
                lines.append("; ".join(parts) + (f"  # {where}" if where else ""))
            lines.extend(self._shaping(i, symbols))
        if self.first:
            seen = ", ".join(f"{s!r}: k_{s}" for s in self.block.known_at)
            lines.append(f"run.bindings = {{{seen}}}")
        returned = tuple(self._result(a) for a in self.block.returns)
        free = "".join(f", k_{s}" for s in self.block.free)
        for c in self.block.graph.constants:
            self.bound[c] = f"constant:{c}"
        unpack = f"{', '.join(names)}{',' if len(names) == 1 else ''} = args; " if names else ""
        whole = [f"{unpack}args.clear()", *given.values(), *lines, f"return [{', '.join(returned)}]"]
        body = "\n".join(f"    {x}" for x in whole)
        source = f"def block(args, run{free}):\n{body}\n\n\n{self._geometry(symbols)}"
        numbers = tuple(
            arithmetic([(a, b) for _, a, b in self.rows.get(k, {}).values()], names) for k, names in enumerate(symbols)
        )
        return Code(
            source, tuple(names), given, tuple(lines), returned, self.bound, slots, symbols, numbers, tuple(self.nested),
            results, tuple(self.folded),
        )  # fmt: skip

    def _opening(self, names: Sequence[str], key: tuple[str, ...]) -> list[str]:
        out: list[str] = []
        if not self.first:
            now = _tuple([f"k_{s}" for s in key])
            out.append(f"if run.key != {now}: run.begin({now})")
            if self.headers:
                out.append(f"{_tuple(list(self.headers))[1:-1]} = run.headers")
            out.extend(self._fresh(0, now))
        dead = [n for n in names if n not in self.last and not self._is_returned(n)]
        return [*out, f"del {', '.join(dead)}"] if dead else out

    def _shaping(self, line: int, symbols: tuple[tuple[str, ...], ...]) -> list[str]:
        if self.first or line < 0 or line not in self.births:
            return []
        k = self.births.index(line)
        now = _tuple([f"k_{s}" for s in symbols[k]])
        return [f"if run.at[{k}] != {now}: run.shape({k}, {now})", *self._fresh(k, now)]

    def _fresh(self, segment: int, key: str) -> list[str]:
        """Headers of results, which leave with the caller."""
        names = [n for n in self.results if self.births.index(self._birth(self.value[n])) == segment]
        if not names:
            return [f"run.begin_results({key})"] if self.results and segment == 0 else []
        start = [f"run.begin_results({key})"] if segment == 0 else []
        return [*start, f"{_tuple(names)[1:-1]} = run.results({segment}, {key})"]

    def _is_returned(self, name: str) -> bool:
        return any(name in refs_in(a) for a in self.block.returns)

    def _deaths(self, i: int, line: Line) -> list[str]:
        mentioned = dict.fromkeys((*line.op.reads, *line.op.mutates, *(o for o in line.op.outputs if o is not None)))
        return [n for n in mentioned if self.last.get(n) == i and n not in self.headers]

    def _binding(self, line: Line) -> list[str]:
        if line.kind == SCALAR:
            return []
        out: list[str] = []
        for b in line.binds:
            name = line.op.outputs[b.output]
            if b.dim == OFFSET:  # headers begin somewhere in the slab, and inputs somewhere in the caller's storage
                base = line.op.reads[0]
                begin = dim_text(self.value[base].layout.offset)
                out.append(f"k_{b.symbol} = {name}.storage_offset() - {base}.storage_offset() + {begin}")
            else:
                out.append(f"k_{b.symbol} = " + (f"_n{b.output}" if b.dim is None else f"{name}{_read(b.dim)}"))
        return out

    def _result(self, a: Arg) -> str:
        """A returned value; inside another block never an operand itself, whose bytes are not ours to give."""
        text = self._text(a)
        if self.block.is_nested and isinstance(a, Ref) and self.value[a.name].storage in self.block.given_storages:
            return f"{text}.clone()"
        return text

    # -- one line ----------------------------------------------------------------------------------------------------

    def _line(self, i: int, line: Line) -> list[str]:
        op = line.op
        if line.kind == SCALAR:
            return self._scalar(line)
        if line.kind in NESTED:
            self.nested.append(i)
            rows = [o for o in op.outputs[line.carried :] if line.kind == SCAN and o is not None]
            made = [self._made(o) for o in rows if o not in self.managed and o not in self.results]
            return [*made, self._inner(len(self.nested) - 1, line), *self._agreed(line)]
        results = [o for o in op.outputs if o is not None]
        if op.name in self.folded:
            return [f"{results[0]} = {self._name(f'folded:{results[0]}')}"]
        if results and all(o in self.headers for o in results) and line.kind == VIEW:
            return []
        spelled = self.spelled.get(op.name, _PLAIN)
        placed = [o for o in results if o in self.managed or o in self.results]
        named = kwargs_into(op) if placed else op.kwargs
        args = ", ".join([*map(self._text, op.args), *(f"{k}={self._text(a)}" for k, a in named)])
        if placed:
            call = self._picked(op) or f"{self._name(spelled.out or f'op:{spelled.facts.out}')}({args}"
            call += f"{', ' if args else ''}{self._into(spelled, results)})"
            poisoned = [f"run.poison({o})" for o in placed if self.verify and self._alone(op, o)]
            return [*poisoned, *(self._made(o) for o in results if o not in placed), call]
        text = self._short(op) or f"{self._name(spelled.plain or f'op:{op.target}')}({args})"
        targets = self._targets(line)
        if op.paths and targets:
            text = f"{self._name('leaves:leaves')}({text}, {op.paths})"
        return [f"{targets}{text}", *self._after(line, spelled, results)]

    def _picked(self, op: Op) -> str | None:
        """The beginning of a call that picks along one dimension into given bytes: a third of the time of the general one, but
        negative indices, which count from the end, are errors to it."""
        if op.target != "aten.index.Tensor" or not isinstance(op.args[1], tuple):
            return None
        by = [(d, a) for d, a in enumerate(op.args[1]) if a is not None]
        if len(by) != 1:
            return None
        (dim, index), base = by[0], op.args[0]
        if not isinstance(index, Ref) or index.name not in self.forward or len(self.value[index.name].layout.size) != 1:
            return None
        return f"{self._name('torch:index_select')}({self._text(base)}, {dim}, {index.name}"

    def _into(self, spelled: Spelling, results: list[str]) -> str:
        """The arguments that say where results go."""
        if len(results) == 1:
            return f"{spelled.facts.out_name}={results[0]}"
        if spelled.out:
            return f"out={_tuple(results)}"
        return ", ".join(f"{k}={o}" for k, o in zip(spelled.out_names, results, strict=True))

    def _made(self, name: str) -> str:
        """Ordinary memory for a result that leaves, beside one that stays."""
        x = self.value[name].layout
        dtype, device = self._name(f"dtype:{x.dtype}"), "" if x.device == "cpu" else f", device={x.device!r}"
        make = self._name("torch:empty_strided")
        return f"{name} = {make}({_dims(x.size)}, {_dims(x.stride)}, dtype={dtype}{device})"

    def _short(self, op: Op) -> str | None:
        """What is said more quickly than by a call: a slice of everything, another shape, picking along the first dimensions."""
        if op.target == "aten.view.default":
            return f"{self._text(op.args[0])}.view({self._text(op.args[1])})"
        if op.target == "aten.slice.Tensor" and not any(self._is_returned(o) for o in op.outputs if o is not None):
            base, _, first, end, step = (*op.args, *(None, 0, None, None, 1)[len(op.args) :])
            if first in (0, None) and (end is None or (isinstance(end, int) and end >= _TO_THE_END)) and step == 1:
                return self._text(base)
        if op.target == "aten.index.Tensor" and isinstance(op.args[1], tuple):
            by = op.args[1]
            if self._is_mask(op):
                return self._masked(self._text(op.args[0]), self._text(by[0]), self.value[op.reads[0]].layout)
            if all(isinstance(a, Ref) and self.value[a.name].layout.size for a in by):  # a number would select instead
                return f"{self._text(op.args[0])}[{', '.join(map(self._text, by))}]"
        return None

    def _is_mask(self, op: Op) -> bool:
        """Whether a general picking takes the rows that one mask over all of them says, of a tensor in which they lie one behind
        the other: the rows of another are given its order of strides."""
        base, by = op.args[0], op.args[1]
        if not isinstance(base, Ref) or not isinstance(by, tuple) or len(by) != 1 or not isinstance(by[0], Ref):
            return False
        mask, x = self.value[by[0].name].layout, self.value[base.name].layout
        alike = mask.dtype == "bool" and len(mask.size) == 1 and mask.size == x.size[:1]
        return alike and (len(x.size) == 1 or same_places(x.size, x.stride, filled(x.size)))

    def _masked(self, base: str, mask: str, layout: Layout) -> str:
        """The rows that a mask says, in half of the time where they are long."""
        if len(layout.size) == 1:
            return f"{self._name('torch:masked_select')}({base}, {mask})"
        return f"{self._name('torch:index_select')}({base}, 0, {self._name('torch:nonzero')}({mask}).view(-1))"

    def _alone(self, op: Op, result: str) -> bool:
        """Nothing that the operation reads lies where its result will."""
        assert self.lives is not None
        mine = self.lives.buffer.get(result, -1)
        return all(self.lives.buffer.get(self.value[r].storage) != mine for r in op.reads)

    def _after(self, line: Line, spelled: Spelling, results: list[str]) -> list[str]:
        op, out = line.op, list[str]()
        if line.kind == VIEW or op.mutates:
            return []
        reads = list(op.reads)
        for r in results:
            if spelled.copied:
                out.append(f"{r} = {r}.clone()")
            elif self.first:
                out.append(f"{r} = run.compare({op.name!r}, {r}, {_tuple(reads)})")
            elif self.verify or spelled.watched:
                out.append(f"{r} = run.watch({op.name!r}, {r})")
        for position in spelled.facts.restride:
            name = op.outputs[position]
            if name is not None:
                layout = self.value[name].layout
                out.append(
                    f"{name} = {self._name('exact:exact')}({name}, {_dims(layout.size)}, {_dims(layout.stride)})"
                )
        return out

    def _targets(self, line: Line) -> str:
        op, numbers = line.op, {b.output for b in line.binds if b.dim is None}
        names = [o if o is not None else f"_n{k}" if k in numbers else "_" for k, o in enumerate(op.outputs)]
        if op.returns == "none" or not (numbers or any(op.outputs)):
            return ""
        return f"{names[0]} = " if op.returns == "one" else f"{_tuple(names)[1:-1]} = "

    def _scalar(self, line: Line) -> list[str]:
        op = line.op
        args = ", ".join(map(self._text, op.args))
        if op.target == "number.assert":
            what, message = op.args
            return [f"{self._text(what)} or {self._name('number:assert')}({self._text(what)}, {self._text(message)})"]
        if op.target == "number.item":
            return [f"k_{line.binds[0].symbol} = {args}.item()"]
        infix = _INFIX.get(op.target.removeprefix("operator."))
        if infix is not None and len(op.args) == 2:
            return [f"k_{line.binds[0].symbol} = {self._text(op.args[0])} {infix} {self._text(op.args[1])}"]
        return [f"k_{line.binds[0].symbol} = {self._name(f'number:{op.target}')}({args})"]

    def _inner(self, index: int, line: Line) -> str:
        op = line.op
        names = [o if o is not None else f"_n{k}" for k, o in enumerate(op.outputs)]
        free = [_tuple([f"k_{s}" for s in b.free]) for b in line.blocks]
        if line.kind == COND:
            args = ", ".join(map(self._text, op.args[1:]))
            call = f"run.branch({index}, {self._text(op.args[0])}, [{args}], {', '.join(free)})"
        elif line.kind in (LOOP, STACK):
            carried = ", ".join(map(self._text, op.args[: line.carried]))
            more = ", ".join(map(self._text, op.args[line.carried :]))
            if line.kind == LOOP:
                how, form = "loop", _tuple([o if o in self.managed or o in self.results else "None" for o in names])
            else:
                how, form = "stack", self._forms(line.blocks[1], line.carried)
            call = f"run.{how}({index}, [{carried}], [{more}], {form}, {', '.join(free)})"
        elif line.kind == SCAN:
            call = f"run.scan({index}, {self._scanned(line)}, {free[0]})"
        else:
            args = ", ".join(self._operand(a, i, line.blocks[0]) for i, a in enumerate(op.args))
            call = f"run.region({index}, [{args}], {free[0]})"
        return f"{_tuple(names)[1:-1]} = {call}" if names else call

    def _scanned(self, line: Line) -> str:
        """The operands of a loop over rows, where its results go, and the form in which a turn takes what changes."""
        args, body, turning = line.op.args, line.blocks[0], line.carried + line.sliced
        carried = ", ".join(map(self._text, args[: line.carried]))
        sliced = ", ".join(map(self._text, args[line.carried : turning]))
        more = ", ".join(self._operand(a, turning + i, body) for i, a in enumerate(args[turning:]))
        into = [
            str(o) if k >= line.carried or o in self.managed or o in self.results else "None"
            for k, o in enumerate(line.op.outputs)
        ]
        return f"[{carried}], [{sliced}], [{more}], {_tuple(into)}, {self._forms(body, turning)}"

    def _forms(self, body: Block, count: int) -> str:
        """Size and strides in which a turn takes the first ``count`` operands."""
        taken = [body.graph.value[x.name].layout for x in body.inputs[:count] if isinstance(x, Ref)]
        return _tuple([f"({_dims(x.size)}, {_dims(x.stride)})" for x in taken])

    def _operand(self, a: Arg, position: int, region: Block) -> str:
        """An operand of a region, in the strides for which the region was captured."""
        taken = region.inputs[position]
        if isinstance(a, Ref) and isinstance(taken, Ref):
            wanted = region.graph.value[taken.name].layout
            if self.value[a.name].layout.stride != wanted.stride:
                return f"run.strided({a.name}, {_dims(wanted.size)}, {_dims(wanted.stride)})"
        return self._text(a)

    def _agreed(self, line: Line) -> list[str]:
        """Results of arms whose strides differ, in those that were declared; rows lie in what was made for them."""
        out: list[str] = []
        if line.kind == STACK:
            return out
        for i, name in enumerate(line.op.outputs if line.kind != SCAN else line.op.outputs[: line.carried]):
            if name is None or name in self.managed or name in self.results or not self._known(name):
                continue
            declared = self.value[name].layout
            for b in line.blocks if line.kind != LOOP else line.blocks[1:]:
                given = b.returns[i]
                if isinstance(given, Ref) and b.graph.value[given.name].layout.stride != declared.stride:
                    out.append(f"{name} = run.strided({name}, {_dims(declared.size)}, {_dims(declared.stride)})")
                    break
        return out

    # -- geometry ----------------------------------------------------------------------------------------------------

    def _geometry(self, symbols: tuple[tuple[str, ...], ...]) -> str:
        """Per segment a function of its sizes, which gives its distinct layouts one after the other as one list."""
        out: list[str] = []
        for k, names in enumerate(symbols):
            unpack = f"    {_tuple([f'k_{n}' for n in names])[1:-1]} = key\n" if names else ""
            out.append(f"def geometry{k}(key):\n{unpack}    return [{', '.join(self.rows.get(k, {}))}]\n")
        return "\n\n".join(out)


def _read(dim: int | None) -> str:
    """What reads a size off a tensor, or where it begins."""
    return "" if dim is None else ".storage_offset()" if dim == OFFSET else f".size({dim})"


def _tuple(names: list[str]) -> str:
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def dim_text(d: Dim) -> str:
    """A number, or an expression over sizes, as Python."""
    return str(d) if isinstance(d, int) else size_text(d)


def _dims(dims: tuple[Dim, ...]) -> str:
    return _tuple([dim_text(d) for d in dims])


def size_text(d: Dim) -> str:
    """An expression over sizes as Python, its symbols with their prefix."""
    done: list[str] = []
    todo: list[tuple[Dim, bool]] = [(d, False)]
    while todo:
        e, ready = todo.pop()
        if isinstance(e, int):
            done.append(f"({e})" if e < 0 else str(e))
        elif e.op == "sym":
            done.append(f"k_{e.args[0]}")
        elif not ready:
            todo.append((e, True))
            todo.extend((a, False) for a in reversed(e.args) if not isinstance(a, str))
        else:
            args = done[-len(e.args) :]
            del done[-len(e.args) :]
            done.append(_apply(e.op, args))
    return done[0]


def _apply(op: str, args: list[str]) -> str:
    if op in ("+", "*", "//", "%"):
        return f"({op.join(args)})"
    if op in ("max", "min"):
        return f"{op}({', '.join(args)})"
    if op not in ("ceildiv", "pow"):
        raise BugError(f"code knows no operation {op!r} on sizes")
    out = args[0]
    for a in args[1:]:
        out = f"(-(-{out}//{a}))" if op == "ceildiv" else f"({out}**{a})"
    return out


def extent_text(layout: Layout) -> str:
    """Bytes from the start of a storage to the end of its furthest element, as Python; 0 without elements."""
    reach = [f"({dim_text(n)} - 1) * {dim_text(s)}" for n, s in zip(layout.size, layout.stride, strict=True) if n != 1]
    whole = " + ".join([dim_text(layout.offset), *reach, "1"])
    nbytes = f"({whole}) * {ITEMSIZE[layout.dtype]}"
    symbolic = [dim_text(n) for n in layout.size if not isinstance(n, int)]
    if any(n == 0 for n in layout.size):
        return "0"
    return f"({nbytes} if {' and '.join(symbolic)} else 0)" if symbolic else f"({nbytes})"
