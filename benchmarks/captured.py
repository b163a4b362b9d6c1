"""Training graphs of the suite's models as the order engine sees them, written as compact files for ``benchmarks.order``.

    python -m benchmarks.captured [--size bench] [--only gpt2 resnet50] [--into benchmarks/corpus/order]

Each model is captured as it is, with every block checkpointed (``torch.utils.checkpoint``), and, where it ends in words,
with the loss computed in chunks that are checkpointed too. Nothing but the forward call runs. A file holds one joint graph of
forward and backward in program order, names shortened, in the format of ``lowtide order`` behind gzip.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.order_corpus import FOLDER, write
from benchmarks.suite.entry import Case, without_dropout
from benchmarks.suite.library import LIBRARY
from benchmarks.suite.models import MODELS, missing
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import lowtide.backend
from lowtide.memory.graph import MemoryGraph
from lowtide.runtime.records import records
from lowtide.schedule.schedule import Schedule, memory_graph

CHUNKS = 8
BLOCKS = {
    "GPT2Block", "BertLayer", "T5Block", "LlamaDecoderLayer", "TransformerBlock", "ViTLayer", "Bottleneck",
    "InvertedResidual", "_DenseLayer", "CNBlock", "ResnetBlock2D", "BasicTransformerBlock",
}  # fmt: skip
WORDS = ("gpt2", "bert", "t5", "llama")  # their loss is one over words


class Checkpointed(nn.Module):
    """A block whose values are computed again in the backward."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def __getattr__(self, name: str) -> Any:
        """What else the model asks of a block, such as its attention type."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(self.block, *args, use_reentrant=False, **kwargs)


def checkpointed(module: nn.Module) -> int:
    """Put a ``Checkpointed`` around every block, in place; how many there were."""
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ in BLOCKS and not isinstance(parent, Checkpointed):
                setattr(parent, name, Checkpointed(child))
                count += 1
    return count


def hidden_and_head(name: str, module: Any, given: dict[str, Any]) -> tuple[torch.Tensor, Callable[..., Any], Any]:
    """(values that go into the last projection, that projection, the words that are to be predicted)."""
    ids, labels = given["input_ids"], given["labels"]
    if name == "gpt2":
        return module.transformer(ids)[0][:, :-1], module.lm_head, labels[:, 1:]
    if name == "llama":
        return module.model(ids)[0][:, :-1], module.lm_head, labels[:, 1:]
    if name == "bert":
        return module.bert(ids)[0], module.cls, labels
    seen = module.encoder(input_ids=ids)[0]
    out = module.decoder(input_ids=module._shift_right(labels), encoder_hidden_states=seen)[0]
    return out * module.config.d_model**-0.5, module.lm_head, labels


def chunked_loss(name: str, module: nn.Module, given: dict[str, Any]) -> torch.Tensor:
    """The mean loss over words, a chunk of them at a time, none of whose logits are kept."""
    hidden, head, labels = hidden_and_head(name, module, given)
    hidden, labels = hidden.flatten(0, 1), labels.flatten()

    def part(h: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return cross_entropy(head(h).float(), wanted, reduction="sum")

    total = torch.zeros(())
    for h, wanted in zip(hidden.chunk(CHUNKS), labels.chunk(CHUNKS), strict=True):
        total = total + checkpoint(part, h, wanted, use_reentrant=False)
    return total / labels.numel()


def plain_loss(case: Case, module: nn.Module, given: dict[str, Any]) -> torch.Tensor:
    return case.loss(module(**given))


def variants(name: str, size: str) -> Iterator[tuple[str, nn.Module, Callable[[], torch.Tensor]]]:
    """(what is different, the module, the loss of one iteration)."""
    for what in ("plain", "checkpointed", "chunked loss", "checkpointed, chunked loss"):
        case = MODELS[name].build(size)  # type: ignore[arg-type]
        module, given = without_dropout(case.module).train(), dict(case.inputs)
        if "chunked" in what and name not in WORDS:
            continue
        if "checkpointed" in what:
            assert checkpointed(module), f"no block of {name} is known"
        loss = partial(chunked_loss, name) if "chunked" in what else partial(plain_loss, case)
        yield what, module, partial(loss, module, given)


def in_program_order(schedule: Schedule) -> Schedule:
    by_name = {step.op.name: step for step in schedule.steps}
    return replace(schedule, steps=tuple(by_name[op.name] for op in schedule.graph.ops if op.name in by_name))


def graphs_of(run: Callable[[], torch.Tensor]) -> list[MemoryGraph]:
    """The memory graphs of what ``run`` compiles, in program order; those that train only."""
    torch._dynamo.reset()
    lowtide.backend._reset()
    torch.compile(run, backend="lowtide", options={"verify": False, "reorder": False})()
    out = []
    for record in records():
        if record.fallback is not None:
            raise RuntimeError(f"{record.name} runs unplanned: {record.fallback}")
        out += [
            memory_graph(in_program_order(p.schedule)) for p in record.planned if len(p.schedule.graph.sections) > 1
        ]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "bench"), default="bench")
    parser.add_argument("--only", nargs="*", default=[entry.name for entry in LIBRARY])
    parser.add_argument("--into", type=Path, default=FOLDER)
    words = parser.parse_args()
    torch.set_num_threads(2)
    warnings.simplefilter("ignore", FutureWarning)  # of the model libraries
    for name in words.only:
        if why := missing(MODELS[name]):
            sys.exit(why)
        for what, module, run in variants(name, words.size):
            for i, graph in enumerate(graphs_of(run)):
                part = f".{i}" if i else ""
                file = re.sub(r"\W+", "-", f"{name} {what}") + part
                nbytes = write(words.into, file, graph)
                print(f"{file}: {len(graph.nodes)} nodes, {nbytes} bytes", flush=True)
            del module, run
            gc.collect()


if __name__ == "__main__":
    main()
