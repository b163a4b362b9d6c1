"""Real models from transformers, diffusers and torchvision: small configurations, random weights, no download.

Promised: importing this module imports none of those packages; ``make`` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from benchmarks.suite.entry import Case, Entry, mean_square

VOCABULARY = 8192
_DECLARED: list[torch.library.Library] = []


def torchvision_package() -> ModuleType:
    """torchvision, also where its compiled operators do not fit the installed torch.

    ``TORCHVISION_DIR`` names a folder to import it from (``pip install --no-deps --target DIR torchvision``). Its
    Python models need none of the compiled operators, but importing it registers rules for them; so where they are
    missing they are declared first, by the names that its sources mention, without any implementation.

    Raises:
        ImportError: there is no torchvision.
    """
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    folder = os.environ.get("TORCHVISION_DIR")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed; see docs/benchmarks.md")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declare_operators(Path(spec.origin).parent)
    return importlib.import_module("torchvision")


def _declare_operators(package: Path) -> None:
    source = (package / "_meta_registrations.py").read_text(encoding="utf-8")
    names = re.findall(r'register_meta\("(\w+)"|"torchvision::(\w+)"', source)
    library = torch.library.Library("torchvision", "FRAGMENT")
    _DECLARED.append(library)  # a library that is collected takes its operators along
    for name in sorted({a or b for a, b in names}):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor x) -> Tensor")


def _own_loss(out: Any) -> torch.Tensor:
    """The loss that a transformers model computed itself, if it was given labels."""
    loss = getattr(out, "loss", None)
    return mean_square(out[0]) if loss is None else loss


def _words(rows: int, length: int, *, labels: bool = True) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, VOCABULARY, (rows, length))
    return {"input_ids": ids, "labels": ids.clone()} if labels else {"input_ids": ids}


def _transformer(
    name: str, model: str, config: str, bench: Mapping[str, Any], tiny: Mapping[str, Any], words: tuple[int, int]
) -> Entry:
    """A transformers model; ``words`` are batch and length of the benchmark. Labels follow the model's kind."""

    def make(small: bool) -> Case:
        package = importlib.import_module("transformers")
        made = getattr(package, config)(vocab_size=VOCABULARY, **{**bench, **(tiny if small else {})})
        made.use_cache = False
        module = getattr(package, model)(made)
        batch, length = (2, 16) if small else words
        if "Sequence" in model:
            given = _words(batch, length, labels=False) | {"labels": torch.randint(0, 2, (batch,))}
        else:
            given = _words(batch, length)
        return Case(module, given, _own_loss)

    return Entry(name, make, ("transformers",))


def _vit(small: bool) -> Case:
    package = importlib.import_module("transformers")
    layers, width, pixels, batch = (2, 64, 64, 2) if small else (6, 384, 224, 8)
    config = package.ViTConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=4 if small else 6,
        intermediate_size=4 * width,
        image_size=pixels,
    )
    module = package.ViTForImageClassification(config)
    given = {"pixel_values": torch.randn(batch, 3, pixels, pixels), "labels": torch.randint(0, 2, (batch,))}
    return Case(module, given, _own_loss)


def _vision(name: str, attribute: str, batch: int, tiny: Callable[[ModuleType], torch.nn.Module]) -> Entry:
    """A torchvision model; the tiny one is made from the same class with few and narrow layers."""

    def make(small: bool) -> Case:
        models = torchvision_package().models
        module = tiny(models) if small else getattr(models, attribute)(weights=None)
        rows, pixels = (4, 48) if small else (batch, 160)
        return Case(module, {"x": torch.randn(rows, 3, pixels, pixels)}, _towards_one)

    return Entry(name, make, ("torchvision",))


def _tiny_resnet(models: ModuleType) -> torch.nn.Module:
    return models.resnet.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, width_per_group=8)


def _tiny_mobilenet(models: ModuleType) -> torch.nn.Module:
    one = partial(models.mobilenetv3.InvertedResidualConfig, width_mult=1.0)
    blocks = [
        one(16, 3, 16, 16, False, "RE", 1, 1),
        one(16, 3, 32, 24, False, "RE", 2, 1),
        one(24, 5, 48, 24, True, "HS", 1, 1),
    ]
    return models.MobileNetV3(blocks, 64, num_classes=10)


def _tiny_densenet(models: ModuleType) -> torch.nn.Module:
    return models.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=8, num_classes=10)


def _tiny_convnext(models: ModuleType) -> torch.nn.Module:
    block = models.convnext.CNBlockConfig
    # By default a block's result counts a millionth at first, and so do its gradients.
    return models.ConvNeXt([block(16, 24, 1), block(24, None, 1)], layer_scale=0.5, num_classes=10)


def _towards_one(out: torch.Tensor) -> torch.Tensor:
    return (out.float() - 1).pow(2).mean() if out.dtype != torch.float64 else (out - 1).pow(2).mean()


def _unet(small: bool) -> Case:
    package = importlib.import_module("diffusers")
    channels, pixels = ((32, 32, 64, 64), 16) if small else ((64, 128, 256, 256), 32)
    width = 32 if small else 128
    module = package.UNet2DConditionModel(
        sample_size=pixels,
        block_out_channels=channels,
        cross_attention_dim=width,
        attention_head_dim=8,
        layers_per_block=1,
    )
    given = {
        "sample": torch.randn(2, 4, pixels, pixels),
        "timestep": torch.tensor([5, 9]),
        "encoder_hidden_states": torch.randn(2, 16, width),
    }
    return Case(module, given, lambda out: out.sample.pow(2).mean())


# Per transformers model: its size as a benchmark, then what differs in the tiny one.
_GPT2 = {"n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": 512, "bos_token_id": 0, "eos_token_id": 0}
_GPT2_TINY = {"n_layer": 2, "n_embd": 64, "n_head": 2}
_BERT = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
_BERT_TINY = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}
_T5 = {"num_layers": 4, "d_model": 256, "d_ff": 1024, "num_heads": 4, "d_kv": 64, "decoder_start_token_id": 0}
_T5_TINY = {"num_layers": 2, "d_model": 64, "d_ff": 128, "num_heads": 2, "d_kv": 32}
_LLAMA = {
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 1024,
    "max_position_embeddings": 512,
}
_LLAMA_TINY = _BERT_TINY | {"num_attention_heads": 4}
_DISTIL = {"n_layers": 4, "dim": 256, "n_heads": 4, "hidden_dim": 1024}
_DISTIL_TINY = {"n_layers": 2, "dim": 64, "n_heads": 2, "hidden_dim": 128}

LIBRARY: tuple[Entry, ...] = (
    _transformer("gpt2", "GPT2LMHeadModel", "GPT2Config", _GPT2, _GPT2_TINY, (4, 256)),
    _transformer("bert", "BertForMaskedLM", "BertConfig", _BERT, _BERT_TINY, (4, 256)),
    _transformer("t5", "T5ForConditionalGeneration", "T5Config", _T5, _T5_TINY, (4, 128)),
    _transformer("llama", "LlamaForCausalLM", "LlamaConfig", _LLAMA, _LLAMA_TINY, (4, 256)),
    _transformer(
        "distilbert", "DistilBertForSequenceClassification", "DistilBertConfig", _DISTIL, _DISTIL_TINY, (8, 128)
    ),
    Entry("vit", _vit, ("transformers",)),
    _vision("resnet50", "resnet50", 8, _tiny_resnet),
    _vision("mobilenet_v3", "mobilenet_v3_large", 8, _tiny_mobilenet),
    _vision("densenet121", "densenet121", 4, _tiny_densenet),
    _vision("convnext_tiny", "convnext_tiny", 4, _tiny_convnext),
    Entry("unet", _unet, ("diffusers",), frozenset({"slow"})),
)
