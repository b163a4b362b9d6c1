"""The one place that names torch's private parts (torch 2.11 to 2.13), each behind a function of our own.

Comes in and goes out: torch objects. Promised: nothing else in the package touches ``torch._*``; the contract test
``tests/unit/test_torch_compat.py`` fails where a release moves one of them.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch._dynamo.eval_frame as _eval_frame
import torch._functorch.config as _functorch_config
from torch._dynamo.backends.common import aot_autograd as _aot_autograd
from torch._dynamo.utils import counters as _counters
from torch._functorch.partitioners import get_default_op_list as _default_op_list
from torch._functorch.partitioners import min_cut_rematerialization_partition as _min_cut
from torch._higher_order_ops.cond import cond_op as cond_operator
from torch._higher_order_ops.scan import scan_op as scan_operator
from torch._higher_order_ops.while_loop import while_loop_op as while_operator
from torch._higher_order_ops.while_loop import while_loop_stack_output_op as stacking_while_operator
from torch._library.fake_class_registry import FakeScriptObject
from torch._library.opaque_object import is_opaque_type
from torch._ops import OpOverload
from torch._prims.rng_prims import run_and_save_rng_state as draw_and_note
from torch._prims.rng_prims import run_with_rng_state as draw_from
from torch._subclasses.fake_impls import op_implementations_dict as _fake_rules
from torch._subclasses.fake_tensor import _DISPATCH_META_HANDLERS as _rules_of_each_call
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import CheckpointPolicy

__all__ = [
    "Constants",
    "FakeTensor",
    "OpOverload",
    "aot_backend",
    "boxed",
    "capture_pinning",
    "checkpointed_block",
    "cond_operator",
    "dispatched",
    "draw_and_note",
    "draw_from",
    "fake_mode",
    "header_address",
    "held_by",
    "is_plain_subclass",
    "join_next_reset",
    "keep_saved",
    "keeps_graph",
    "left_to_python",
    "memory_events",
    "min_cut_partition",
    "nn_binding",
    "opaque_nbytes",
    "profiling",
    "real_tensors",
    "recomputable_by_default",
    "resizes_storage",
    "scan_operator",
    "schema_views",
    "stacking_while_operator",
    "storage_counter",
    "sym_expr",
    "tree_flatten",
    "tree_unflatten",
    "unbacked",
    "watching_operators",
    "while_operator",
]

Boxed = Callable[[list[Any]], Sequence[Any]]
Constants = Mapping[str, Any]  # a program's, by name: tensors, and objects that nobody here looks into


def boxed(call: Callable[[list[Any]], Sequence[Any]]) -> Boxed:
    """Mark a callable as taking its arguments as one list that it may empty."""
    call._boxed_call = True  # type: ignore[attr-defined]
    return call


def join_next_reset(backend: Callable[..., Any]) -> None:
    """The next ``torch.compiler.reset()`` calls ``backend.reset``, as it does for the backends that it compiled with since the
    one before."""
    _eval_frame.cached_backends.setdefault(id(backend), backend)


def aot_backend(**compilers: Any) -> Callable[[torch.fx.GraphModule, Sequence[Any]], Callable[..., Any]]:
    """AOTAutograd around our compilers; input mutations stay in the graph."""
    return _aot_autograd(keep_inference_input_mutations=True, **compilers)


def min_cut_partition(joint: torch.fx.GraphModule, inputs: Any, **given: Any) -> tuple[Any, Any]:
    """torch's min-cut partitioner, free to recompute whatever is not marked with ``keep_saved``, random, or a reduction."""
    lifted = {
        "ban_recompute_used_far_apart": False,
        "ban_recompute_long_fusible_chains": False,
        "ban_recompute_materialized_backward": False,
        "ban_recompute_not_in_allowlist": False,
    }
    with _functorch_config.patch(lifted):
        return _min_cut(joint, inputs, **given)


def keep_saved(node: torch.fx.Node, *, whatever_was_asked: bool = False) -> None:
    """Forbid the partitioner to recompute a node, unless the user's checkpointing already decided on it (or even then)."""
    if whatever_was_asked or "recompute" not in node.meta:
        node.meta["recompute"] = CheckpointPolicy.MUST_SAVE


def checkpointed_block(node: torch.fx.Node) -> int | None:
    """Which of the user's checkpointed blocks, in program order, asks to recompute a node; None: none does."""
    asked = node.meta.get("recompute") in (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)
    return node.meta.get("ac_graph_id") if asked else None


@functools.cache
def _default_recomputable() -> frozenset[Any]:
    return frozenset(_default_op_list().recomputable_ops)


def recomputable_by_default(op: OpOverload) -> bool:
    """Whether torch's own partitioner counts an operator among those that are cheap to run again."""
    return op._overloadpacket in _default_recomputable() or op in _default_recomputable()


def left_to_python() -> Counter[tuple[str, str]]:
    """What Dynamo could not capture since the process began: (which of its counts, first line of why), and how often."""
    found: Counter[tuple[str, str]] = Counter()
    for kind in ("unimplemented", "graph_break"):  # a skipped frame is in both, a broken one in the second
        for why, times in _counters[kind].items():
            found[kind, why.partition("\n")[0]] += times
    return found


def is_plain_subclass(value: Any) -> bool:
    """Whether a tensor is of a class of somebody's own without its own dispatch, for which AOTAutograd has no way."""
    kinds = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer, FakeTensor)
    return isinstance(value, torch.Tensor) and type(value) not in kinds and not is_traceable_wrapper_subclass(value)


def keeps_graph() -> bool:
    """Inside a backward call: whether autograd keeps the graph, so that saved tensors must survive it."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def header_address(t: torch.Tensor) -> int:
    """Address of the C++ object behind a tensor, for code that is compiled against torch's headers."""
    return int(t._cdata)


def _references(args: Sequence[Any], position: int) -> tuple[int, int, int, int]:
    """Who refers to a tensor and its storage: Python and C++ to the tensor, Python and C++ to the storage."""
    t = args[position]
    storage = t.untyped_storage()
    return sys.getrefcount(t), t._use_count(), sys.getrefcount(storage), torch._C._storage_Use_Count(storage._cdata)


@functools.cache
def _unshared() -> tuple[int, int, int, int]:
    return _references([torch.empty(1, device="cpu")], 0)


def held_by(args: Sequence[Any], positions: Sequence[int]) -> torch.UntypedStorage | None:
    """The storage of the tensors at these positions of a list, if nothing but the list refers to them, or to it.

    Whoever else holds one of the tensors, a view, an array or the storage itself is seen by the counts of references.
    """
    lone = _unshared()
    if len(positions) > 1:
        lone = (*lone[:3], lone[3] + len(positions) - 1)
    for i in positions:
        if _references(args, i) != lone:
            return None
    found = args[positions[0]].untyped_storage()
    for i in positions[1:]:
        if args[i].untyped_storage()._cdata != found._cdata:
            return None
    return found


def storage_counter(storage: torch.UntypedStorage) -> Callable[[], int]:
    """What tells how many tensors and storage objects stand on a storage, cheaply."""
    return functools.partial(torch._C._storage_Use_Count, storage._cdata)


def sym_expr(value: torch.SymInt | int) -> Any:
    """The sympy expression of a size, without asking for its value (that would install a guard)."""
    return value.node.expr if isinstance(value, torch.SymInt) else int(value)


def unbacked(value: Any) -> bool:
    """Whether a size or tensor depends on data that only exists at run time."""
    return bool(free_unbacked_symbols(value))


def schema_views(op: OpOverload) -> tuple[int | None, ...]:
    """Per result the position of the argument whose storage it stands on, by the operator's schema; None for new ones.

    A list result (``Tensor(a)[]``) has one entry, which holds for all its members.
    """
    infos = [a.alias_info for a in op._schema.arguments]
    out: list[int | None] = []
    for r in op._schema.returns:
        if r.alias_info is None:
            out.append(None)
        elif r.alias_info.before_set:
            names = r.alias_info.before_set
            out.append(next((i for i, s in enumerate(infos) if s is not None and names & s.before_set), None))
        else:
            out.append(next((i for i, s in enumerate(infos) if s is not None and not s.is_write), None))
    return tuple(out)


def resizes_storage(node: torch.fx.Node) -> bool:
    """Whether a node gives the storage under a tensor other bytes, more or fewer (``untyped_storage().resize_``)."""
    packet = torch.ops.inductor.resize_storage_bytes_
    return node.op == "call_function" and node.target in (packet, packet.default)


def opaque_nbytes(val: Any) -> Any:
    """Of an object that is traced without being looked into (TorchBind, or registered as opaque), the bytes of the tensors in
    it (a SymInt where their sizes vary): of its flattened form where it has one, else of its state (TorchBind) or its attributes.
    None where ``val`` is something else."""
    held = val.real_obj if isinstance(val, FakeScriptObject) else val
    bound = isinstance(held, torch.ScriptObject)
    if not bound and not is_opaque_type(type(held)):
        return None
    flatten = getattr(held, "__obj_flatten__", None)
    state = getattr(held, "__getstate__", None) if bound else None  # any Python object has one, which may do anything
    form = flatten if flatten is not None else state
    parts = form() if form is not None else getattr(held, "__dict__", {})
    return sum(t.numel() * t.element_size() for t in tree_flatten(parts)[0] if isinstance(t, torch.Tensor))


def profiling() -> bool:
    """Whether a profiler runs on this thread; ``memory_events`` then cannot."""
    return bool(torch._C._autograd._profiler_enabled())


def memory_events(run: Callable[[], Any]) -> tuple[Any, list[int]]:
    """Run something and count: its result, and the bytes of every allocation (positive) and free (negative) that the
    framework's CPU allocator made meanwhile on this thread, in order. Costs microseconds and prints nothing."""
    result, events = marked_memory_events(run)
    return result, [e for e in events if isinstance(e, int)]


def marked_memory_events(run: Callable[[], Any]) -> tuple[Any, list[int | str]]:
    """As ``memory_events``, with the texts that ``mark_event`` was given where they came."""
    profiler = torch._C._profiler
    config = profiler.ProfilerConfig(
        profiler.ProfilerState.CPU, False, True, False, False, False, profiler._ExperimentalConfig()
    )
    torch._C._autograd._enable_profiler_legacy(config)
    try:
        result = run()
    finally:
        records = torch._C._autograd._disable_profiler_legacy()
    out: list[int | str] = []
    for e in (e for thread in records for e in thread):
        if e.kind() == "memory_alloc":
            out.append(e.cpu_memory_usage())
        elif e.kind() == "push" and e.name().startswith(_MARK):
            out.append(e.name().removeprefix(_MARK))
    return result, out


_MARK = "lowtide: "


def mark_event(text: str) -> None:
    """Put ``text`` among the events that ``marked_memory_events`` is collecting."""
    ops = torch.ops.profiler
    ops._record_function_exit(ops._record_function_enter_new(f"{_MARK}{text}", None))


def capture_pinning() -> None:
    """Have ``tensor.pin_memory()`` captured, of which fake tensors say that it is not yet implemented (2.11 to 2.13): as a tensor
    like the one that is copied, where that is made inside the program. Of an input, or a view of one, nobody knows whether it is
    pinned already and would be given back as it is: Dynamo leaves that call to Python, for every backend. Where a release has a
    rule of its own, nothing is done."""
    pin = torch.ops.aten._pin_memory.default
    if getattr(_fake_rules.get(pin), "__name__", "") == "nyi":
        # Not in the place of that rule: what it says of one tensor would be remembered for all others of the same layout.
        _rules_of_each_call[pin] = _pinned_like


def _pinned_like(args: Sequence[Any]) -> torch.Tensor:
    x = args[0]
    if not isinstance(x, FakeTensor) or _stands_on_an_input(x):
        raise UnsupportedOperatorException(torch.ops.aten._pin_memory.default)
    return x.new_empty_strided(x.shape, x.stride())


def _stands_on_an_input(x: FakeTensor) -> bool:
    here = x.untyped_storage()._cdata
    return any(s._cdata == here for s in x.fake_mode.fake_tensor_converter.meta_converter.storage_memo.values())


def fake_mode() -> Any:
    """A context in which tensors have layouts and no bytes."""
    return FakeTensorMode()


def real_tensors() -> Any:
    """A context in which operations compute, though fake tensors were asked for outside of it."""
    return unset_fake_temporarily()


def nn_binding(name: str) -> Callable[..., Any] | None:
    """The fast Python binding of an operator that torch offers only to ``torch.nn.functional``."""
    found = getattr(torch._C._nn, name, None)
    return found if callable(found) else None


class _Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the operator and its arguments, tensors by their identity."""
        self.seen.append((str(func), _shown((args, sorted((kwargs or {}).items())))))
        return func(*args, **(kwargs or {}))


def _shown(x: Any) -> str:
    if isinstance(x, torch.Tensor):
        return f"tensor {tuple(x.shape)} {x.stride()} {x.dtype}"
    if isinstance(x, list | tuple):
        return f"[{','.join(map(_shown, x))}]"
    return repr(x)


def dispatched(run: Callable[[], Any]) -> list[tuple[str, str]]:
    """The operators that something dispatches, each with its arguments as text."""
    with _Dispatched() as log:
        run()
    return log.seen


class _Watching(TorchDispatchMode):
    def __init__(self, saw: Callable[[str], None]) -> None:
        super().__init__()
        self.saw = saw

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Tell the operator's name, then run it."""
        self.saw(str(func))
        return func(*args, **(kwargs or {}))


def watching_operators(saw: Callable[[str], None]) -> Any:
    """A context in which ``saw`` is told the name of every operator before it runs."""
    return _Watching(saw)
