"""What random graphs look like: biased towards what breaks planners.

Twins (an operation again, on the same operands), equal sizes, views and views of views, zero bytes, padded strides,
several results of which some are absent, mutation, results nobody uses, values that are saved for a second section,
the same value returned twice. Every graph verifies (shown in tests/unit/ir/test_verify.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from hypothesis import strategies as st

from lowtide.ir.graph import ITEMSIZE, Arg, Atom, Graph, Layout, Op, Origin, Path, Ref, Section, Value
from lowtide.ir.symbolic import Dim, Expr, symbol

DTYPES = ("f32", "f32", "f32", "bf16", "i64", "bool", "c64")
SIZES = (8, 8, 8, 4, 1, 0, 16)  # equal ones on purpose
SYMBOLS = ("s0", "s1")
FILES = ("", "/home/u/model.py", "/home/u/model.py", "/srv/other/model.py", "model.py", 'o"dd na:me.py', "train.py")
MODULES = ("", "layers.0.fc1", "layers.1.fc1", "L['self'].head", "-", "a b", "7", "[x]")
KEYS = ("a", "two words", "a:b", "", 'say "hi"', "0", "é\u2028")
TAGS = ("stage=0", "a/b.c=-1", "", "two words", "]", "line\nbreak")

Draw = Callable[..., object]


def origins() -> st.SearchStrategy[Origin]:
    tags = st.lists(st.sampled_from(TAGS), max_size=2, unique=True).map(tuple)
    return st.builds(Origin, st.sampled_from(FILES), st.integers(0, 99), st.sampled_from(MODULES), tags)


def texts() -> st.SearchStrategy[str]:
    return st.one_of(
        st.sampled_from(("", "none", "mean", 'say "hi"', "a\\b\n\t#", "%x", "é\u2028")), st.text(max_size=6)
    )


def floats() -> st.SearchStrategy[float]:
    """Floats as arguments are: with the one nan object, for which equality holds."""
    special = st.sampled_from((math.inf, -math.inf, math.nan, -0.0, 0.0, 1.0, 1e-5, 1e22, 5e-324))
    return st.one_of(special, st.floats(allow_nan=False))


def dims(symbols: Sequence[str] = SYMBOLS, leaves: int = 6) -> st.SearchStrategy[Dim]:
    """Whole-number expressions over ``symbols``, of which every one has a value where the symbols are at least 1."""
    small = st.integers(0, 9)
    leaf: st.SearchStrategy[Dim] = st.one_of(small, st.sampled_from(symbols).map(symbol)) if symbols else small

    def wider(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
        pair = st.lists(inner, min_size=2, max_size=3).map(tuple)
        folds = st.builds(Expr, st.sampled_from(("+", "*", "max", "min")), pair)
        halves = st.builds(
            lambda o, a, n: Expr(o, (a, n)), st.sampled_from(("//", "%", "ceildiv")), inner, st.integers(1, 5)
        )
        powers = st.builds(lambda a, n: Expr("pow", (a, n)), inner, st.integers(0, 3))
        return st.one_of(folds, halves, powers)

    return st.recursive(leaf, wider, max_leaves=leaves)


def plain_args(symbols: Sequence[str] = ()) -> st.SearchStrategy[Arg]:
    """Arguments that are no values."""
    atom = st.builds(
        Atom,
        st.sampled_from(("dtype", "device", "format", "layout", "constant")),
        st.sampled_from(("f32", "cuda:0", "contiguous_format", "strided", "odd text", "")),
    )
    ints = st.one_of(st.integers(-2, 9), st.sampled_from((2**63 - 1, -(2**63), 2**64, 10**30)))
    sizes = [dims(symbols, 3)] if symbols else []
    leaf: st.SearchStrategy[Arg] = st.one_of(st.none(), st.booleans(), ints, floats(), texts(), atom, *sizes)
    return st.recursive(leaf, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


def row_major(size: Sequence[Dim]) -> tuple[Dim, ...]:
    """Strides of a tensor whose last dimension is dense; a dimension of 0 counts as 1."""
    out: list[Dim] = []
    step: Dim = 1
    for n in reversed(size):
        out.append(step)
        n = max(n, 1) if isinstance(n, int) else Expr("max", (n, 1))
        step = step * n if isinstance(step, int) and isinstance(n, int) else n if step == 1 else Expr("*", (n, step))
    return tuple(reversed(out))


class _Builder:
    """Grows one valid graph; used once per example."""

    def __init__(self, draw: Draw, symbols: Sequence[str], devices: Sequence[str]) -> None:
        self.draw, self.symbols, self.devices = draw, symbols, devices
        self.values: dict[str, Value] = {}
        self.constants: list[str] = []
        self.here: list[str] = []  # values in scope
        self.ops: list[Op] = []
        self.used = 0

    def name(self, base: str) -> str:
        self.used += 1
        return f"{base}{self.used}"

    def layout(self, dtype: str | None = None) -> Layout:
        draw = self.draw
        rank = draw(st.integers(0, 3))
        one = st.sampled_from(SIZES) if not self.symbols else st.one_of(st.sampled_from(SIZES), dims(self.symbols, 3))
        size = tuple(draw(one) for _ in range(rank))
        stride = row_major(size)
        offset: Dim = 0
        if draw(st.integers(0, 4)) == 0:  # padded, permuted, or further in
            stride = tuple(s + 1 if isinstance(s, int) else s for s in stride)[:: draw(st.sampled_from((1, -1)))]
            offset = draw(st.sampled_from((0, 3, *([symbol(self.symbols[0])] if self.symbols else []))))
        device = draw(st.sampled_from(self.devices))
        pinned = device == "cpu" and draw(st.integers(0, 9)) == 9
        return Layout(dtype or draw(st.sampled_from(DTYPES)), device, size, stride, offset, pinned)

    def fresh(self, base: str, layout: Layout | None = None, origin: Origin | None = None) -> str:
        if layout is None and self.values and self.draw(st.booleans()):  # equal sizes
            layout = self.values[self.draw(st.sampled_from(sorted(self.values)))].layout
        name = self.name(base)
        origin = self.draw(origins()) if origin is None else origin
        self.values[name] = Value(name, layout or self.layout(), name, origin)
        return name

    def alias(self, base: str, origin: Origin) -> str:
        """A view that stays inside the storage of ``base``."""
        draw, of = self.draw, self.values[base]
        layout, name = of.layout, self.name("view")
        kind = draw(st.sampled_from(("same", "turned", "first", "nothing")))
        if kind == "turned":
            layout = replace(layout, size=layout.size[::-1], stride=layout.stride[::-1])
        elif kind == "first" and layout.static and 0 not in layout.size:
            layout = replace(layout, size=(1,), stride=(1,))
        elif kind == "nothing":
            layout = replace(layout, size=(0, *layout.size), stride=(1, *layout.stride))
        self.values[name] = Value(name, layout, of.storage, origin)
        return name

    def args(self) -> tuple[tuple[Arg, ...], tuple[tuple[str, Arg], ...]]:
        draw = self.draw
        reads = st.sampled_from(self.here).map(Ref) if self.here else st.nothing()
        plain = plain_args(self.symbols)
        lists = st.lists(reads, max_size=2).map(tuple) if self.here else plain
        one: st.SearchStrategy[Arg] = st.one_of(reads, reads, reads, plain, lists)
        keys = draw(st.lists(st.sampled_from(("alpha", "dtype", "self")), unique=True, max_size=2))
        return tuple(draw(st.lists(one, max_size=3))), tuple((k, draw(one)) for k in keys)

    def op(self) -> None:
        draw = self.draw
        origin = draw(st.one_of(st.just(self.ops[-1].origin), origins())) if self.ops else draw(origins())
        kinds = ["plain", "plain", "several", "none"]
        if self.here:
            kinds += ["view", "view", "mutate", "pieces"]
        if self.ops:
            kinds += ["twin", "twin"]
        kind = draw(st.sampled_from(kinds))
        args, kwargs = self.args()
        effect = draw(st.sampled_from((None, None, None, "random")))
        if kind == "twin":
            plain = [
                o for o in self.ops if o.target == "aten.add.Tensor" and o.outputs[0] and {*o.reads} <= {*self.here}
            ]
            if plain:
                old = draw(st.sampled_from(plain))
                out = self.fresh("twin", self.values[str(old.outputs[0])].layout, old.origin)
                self.add(Op(out, old.target, old.args, old.kwargs, (out,), "one", effect=old.effect, origin=old.origin))
            return
        if kind in ("view", "pieces", "mutate"):
            base = draw(st.sampled_from(self.here))
            args = (Ref(base), *args)
        if kind == "view":
            out = self.alias(base, origin)
            self.add(Op(out, "aten.as_strided.default", args, kwargs, (out,), "one", view=True, origin=origin))
        elif kind == "pieces":
            outs = tuple(
                self.alias(base, origin) if draw(st.booleans()) else None for _ in range(draw(st.integers(0, 3)))
            )
            self.add(Op(self.name("split"), "aten.split.Tensor", args, kwargs, outs, "tuple", view=True, origin=origin))
        elif kind == "mutate":
            out = self.alias(base, origin) if draw(st.booleans()) else None
            returns = ("one", (out,)) if out else ("none", ())
            name = out or self.name("mut")
            self.add(Op(name, "aten.add_.Tensor", args, kwargs, returns[1], returns[0], False, (base,), effect, origin))
        elif kind == "several":
            own = [None if draw(st.integers(0, 2)) == 0 else self.fresh("part") for _ in range(draw(st.integers(0, 3)))]
            paths = self.paths(len(own))
            name, target = self.name("multi"), "aten.multi.default"
            self.add(Op(name, target, args, kwargs, tuple(own), "tuple", False, (), effect, origin, paths))
        elif kind == "none":
            self.add(
                Op(self.name("check"), "aten._assert.default", args, kwargs, (), "none", False, (), effect, origin)
            )
        else:
            out = self.fresh("y", origin=draw(st.one_of(st.just(origin), origins())))
            unused = draw(st.integers(0, 9)) == 0
            if unused:
                del self.values[out]
            outs = (None,) if unused else (out,)
            self.add(Op(out, "aten.add.Tensor", args, kwargs, outs, "one", False, (), effect, origin))

    def paths(self, many: int) -> tuple[Path, ...]:
        """Where so many results lie in a nest, or nothing: each in a member of its own, as deep as it may be."""
        draw = self.draw
        if draw(st.booleans()):
            return ()
        keys = draw(
            st.lists(st.one_of(st.sampled_from(KEYS), st.integers(0, 9)), min_size=many, max_size=many, unique=True)
        )
        inside = st.lists(st.one_of(st.sampled_from(KEYS), st.integers(0, 2)), max_size=2).map(tuple)
        return tuple((k, *draw(inside)) for k in keys)

    def add(self, op: Op) -> None:
        self.ops.append(op)
        self.here.extend(n for n in op.outputs if n is not None)

    def section(self, name: str, given: Sequence[Arg], saves: bool, most: int) -> Section:
        draw = self.draw
        self.here, start = [*self.constants, *(g.name for g in given if isinstance(g, Ref))], len(self.ops)
        inputs: list[Ref | Expr | None] = [g if isinstance(g, Ref | Expr) else None for g in given]
        for _ in range(draw(st.integers(0 if given else 1, 3))):
            inputs.append(Ref(self.fresh("x")))
            self.here.append(inputs[-1].name)
            if draw(st.integers(0, 5)) == 0:
                inputs.append(None)
            if draw(st.integers(0, 5)) == 0:  # the caller's tensors may share bytes, or be one tensor
                inputs.append(Ref(self.alias(inputs[0].name, Origin())) if isinstance(inputs[0], Ref) else inputs[0])
                self.here.extend([inputs[-1].name] if isinstance(inputs[-1], Ref) else [])
        for _ in range(draw(st.integers(0, most))):
            if draw(st.integers(0, 7)) == 0:
                self.constants.append(self.fresh("c"))
                self.here.append(self.constants[-1])
            self.op()
        refs = st.sampled_from(self.here).map(Ref) if self.here else st.nothing()
        returned = st.one_of(refs, st.none(), refs)
        returns: list[Arg] = draw(st.lists(returned, max_size=4))
        sizes = [st.just(e) for e in map(symbol, self.symbols)]
        kept = draw(st.lists(st.one_of(refs, *sizes), max_size=4)) if saves and (self.here or sizes) else []
        positions = tuple(range(len(returns), len(returns) + len(kept)))
        return Section(name, tuple(inputs), tuple(self.ops[start:]), (*returns, *kept), positions)


def by_hand(draw: Draw, section: Section) -> Section:
    """The section with operations said to come after others above them, and runs of neighbours in groups."""
    names: list[str] = []
    ops: list[Op] = []
    group = ""
    for op in section.ops:
        if not op.view:
            after = draw(st.lists(st.sampled_from(names), max_size=2, unique=True)) if names else []
            if draw(st.integers(0, 2)) == 0:
                group = "" if group else f"g{len(names)}"
            op = replace(op, after=tuple(after) if draw(st.booleans()) else (), group=group)
            names.append(op.name)
        ops.append(op)
    return replace(section, ops=tuple(ops))


@st.composite
def graphs(
    draw: Draw,
    *,
    symbolic: bool | None = None,
    most: int = 8,
    devices: Sequence[str] = ("cpu", "cpu", "cuda:0"),
    asked: bool = False,
) -> Graph:
    """Graphs that verify. ``symbolic``: with symbols or without (None: either); ``most`` operations per section; ``asked``: the
    places of some operations are asked for."""
    with_symbols = draw(st.booleans()) if symbolic is None else symbolic
    symbols = SYMBOLS if with_symbols else ()
    grown = _Builder(draw, symbols, devices)
    bound = [symbol(s) for s in symbols]
    if draw(st.integers(0, 2)):
        sections = [grown.section("inference", bound, False, most)]
    else:
        forward = grown.section("forward", bound, True, most)
        passed = list(dict.fromkeys(forward.returns[i] for i in forward.saved))
        sections = [forward, grown.section("backward", passed, False, most)]
    if asked:
        sections = [by_hand(draw, s) for s in sections]
    name = draw(st.sampled_from(("g", "gpt2", "two words")))
    return Graph(name, tuple(grown.values.values()), tuple(sections), tuple(grown.constants), symbols)


def static_graphs(*, most: int = 8, devices: Sequence[str] = ("cpu",), asked: bool = False) -> st.SearchStrategy[Graph]:
    """Graphs that verify and have no symbols, so that every value has bytes."""
    return graphs(symbolic=False, most=most, devices=devices, asked=asked)


def reach(layout: Layout) -> int:
    """Extent in bytes the slow way: the furthest byte over every index. For small static layouts."""
    ends = [int(layout.offset)]
    for n, s in zip(layout.size, layout.stride, strict=True):
        ends = [e + i * int(s) for e in ends for i in range(int(n))]
    return max(((e + 1) * ITEMSIZE[layout.dtype] for e in ends), default=0)


def same(a: Graph, b: Graph) -> None:
    assert a == b
    assert repr(a) == repr(b)  # 1, 1.0 and True are equal, and so are 0.0 and -0.0


def example() -> Graph:
    """Two sections, with everything that the text has words for."""
    here, there = Origin("/home/u/model.py", 41, "layers.0.fc1"), Origin("/home/u/model.py", 57, "layers.0.norm")
    rows = Expr("*", (symbol("s0"), 4))
    paths = ((0,), (1, "mean"), (1, "rstd"))

    def tensor(name: str, *size: int | Expr, storage: str = "", origin: Origin = here, offset: int = 0) -> Value:
        stride = (size[1] if len(size) > 1 else 1, 1)[-len(size) :] if size else ()
        return Value(name, Layout("f32", "cpu", size, stride, offset), storage or name, origin)

    square = Layout("f32", "cpu", (4, 4), (4, 1))
    values = (
        tensor("x", symbol("s0"), 4, origin=Origin()),
        tensor("w", 4, 4, origin=Origin()),
        tensor("eps", origin=Origin()),
        tensor("h", symbol("s0"), 4),
        tensor("flat", rows, storage="h"),
        tensor("norm", symbol("s0"), 4, origin=there),
        tensor("rstd", symbol("s0"), 1, origin=there),
        tensor("grad", symbol("s0"), 4, origin=Origin()),
        tensor("gx", symbol("s0"), 4),
        Value("host", replace(square, pinned=True), "host", here),
        Value("sq", square, "sq", here),
    )
    forward = Section(
        "forward",
        (Ref("x"), Ref("w"), symbol("s0"), None),
        (
            Op("h", "aten.mm.default", (Ref("x"), Ref("w")), (), ("h",), origin=here),
            Op("flat", "aten.view.default", (Ref("h"), (rows,)), (), ("flat",), view=True, origin=here),
            Op(
                "draw",
                "aten.uniform_.default",
                (Ref("flat"), 0.0, 1.0),
                (),
                (),
                "none",
                False,
                ("flat",),
                "random",
                here,
            ),
            Op(
                "ln",
                "aten.layer_norm",
                (Ref("h"), Ref("eps")),
                (),
                ("norm", None, "rstd"),
                "tuple",
                origin=there,
                paths=paths,
            ),
        ),
        (Ref("norm"), Ref("h"), symbol("s0"), Ref("w")),
        (1, 2, 3),
    )
    scale = ("dtype", Atom("dtype", "bf16"))
    ops = (
        Op("gx", "aten.mul", (Ref("grad"), Ref("h"), (float("inf"), "a#b", None)), (scale,), ("gx",), origin=here),
        Op("host", "aten.relu", (Ref("w"),), (), ("host",), origin=here, group="by hand"),
        Op("sq", "aten.neg", (Ref("w"),), (), ("sq",), origin=here, after=("gx",), group="by hand"),
    )
    backward = Section(
        "backward", (Ref("h"), symbol("s0"), Ref("w"), Ref("grad")), ops, (Ref("gx"), None, Ref("host"), Ref("sq"))
    )
    return Graph("step", values, (forward, backward), ("eps",), ("s0",))
