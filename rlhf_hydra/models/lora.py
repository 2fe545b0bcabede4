"""Low-rank adapters (arXiv 2106.09685) through PEFT; the only file that imports it.

A targeted layer computes W x + s B A x with s = alpha / rank. W is frozen; A and B learn. The adapters are put into the
model in place, so that it keeps its class and its methods. What leaves the process is either what the model would be
without them, `merged`, under the names of a Hugging Face checkpoint, or the adapters alone, as a folder for PEFT.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import LoRA, RunConfig
from rlhf_hydra.config.seeds import derive

Weights = Iterable[tuple[str, Tensor]]

NAME = "default"
"""What PEFT calls the only adapter of a model."""


class BadTargets(Failure):
    """`lora.targets` names what cannot get adapters; the message lists what can."""


@dataclass(frozen=True)
class Adapters:
    """The adapters of one model, before and after it is there."""

    cfg: LoRA
    dtype: torch.dtype
    """Of the frozen weights."""
    seed: int
    """Draws A; B starts as 0, and so the model as what it was."""
    base: str
    """Folder or hub id of the model without them."""

    @classmethod
    def of(cls, cfg: LoRA, run: RunConfig, folder: str) -> "Adapters | None":
        """Those that `cfg`, a role's `lora` section, asks for; `folder`: where the model lies."""
        is_here = run.model.path.startswith("builtin:") or Path(run.model.path).expanduser().exists()
        base = folder if is_here else run.model.path
        dtype = getattr(torch, run.strategy.dtype)
        return cls(cfg, dtype, derive(run.seed, "adapters"), base) if cfg.rank else None

    def attach(self, model: Any, head: str | None = None) -> None:
        """Freeze a transformers model and put adapters into its layers; `head`: a layer that learns as a whole.

        What learns is float32, whatever the type of the rest.
        """
        from peft import inject_adapter_in_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            inject_adapter_in_model(self._peft(model, head), model)
        if self.cfg.quantize != "none":
            forget_quantization(model)
        if head is not None:
            model.get_submodule(head).requires_grad_(True)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def export(self, folder: Path, model: Any, weights: Weights, *, write: bool) -> None:
        """Write what learns to `folder`, or to `FOLDER-adapter` where the merged model goes there, for
        `PeftModel.from_pretrained`. `weights`: those of `model`; all ranks must iterate them, and one writes."""
        from safetensors.torch import save_file

        learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        head = next((name.rpartition(".")[0] for name in learning if ".lora_" not in name), None)
        state = {
            f"base_model.model.{name.replace(f'.{NAME}.', '.')}": tensor.float().cpu().contiguous()
            for name, tensor in weights
            if name in learning
        }
        if write:
            folder = folder if self.cfg.export == "adapter" else folder.with_name(f"{folder.name}-adapter")
            folder.mkdir(parents=True, exist_ok=True)
            saved = [head] if head else None
            self._peft(model, head, modules_to_save=saved, inference_mode=True).save_pretrained(folder)
            save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    def _peft(self, model: Any, head: str | None, **others: Any) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.cfg.rank,
            lora_alpha=self.cfg.alpha,
            lora_dropout=self.cfg.dropout,
            target_modules=targets(model, self.cfg.targets, head),
            task_type="SEQ_CLS" if head else "CAUSAL_LM",
            base_model_name_or_path=self.base,
            **others,
        )


def load_options(adapters: Adapters | None, dtype: torch.dtype) -> dict[str, Any]:
    """How `from_pretrained` is to hold the weights: as `dtype`, or beside adapters in the type of these."""
    if adapters is None:
        return {"dtype": dtype}
    if adapters.cfg.quantize == "none":
        return {"dtype": adapters.dtype}
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=adapters.cfg.quantize,
        bnb_4bit_compute_dtype=adapters.dtype,
        bnb_4bit_use_double_quant=True,
    )
    device = 0 if torch.cuda.is_available() else "cpu"
    return {"dtype": adapters.dtype, "quantization_config": four_bits, "device_map": {"": device}}


def forget_quantization(model: Any) -> None:
    """From here on only the layers know that they are packed: what is exported is an ordinary model.

    Without gradients, some CPUs would pack them in a second way, which PEFT cannot read; that is turned off.
    """
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def targets(model: Any, wanted: list[str], head: str | None = None) -> list[str]:
    """Ends of the names of the layers that get adapters: `wanted`, or all linear layers of the language model but
    output layer and head; whole names where what reads images may have the same ends."""
    layers = {name.replace(".base_layer", ""): m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    layers = {name: m for name, m in layers.items() if ".lora_" not in name}
    output = model.get_output_embeddings()
    last = {name for name in layers if name == head or model.get_submodule(name) is output}
    inner = sorted({name.rpartition(".")[2] for name in layers.keys() - last})
    absent = [w for w in wanted if not any(f".{name}".endswith(f".{w}") for name in layers)]
    if absent:
        raise BadTargets(f"lora.targets: the model has no linear layer {', '.join(absent)}; it has {', '.join(inner)}")
    tied = model.config.get_text_config().tie_word_embeddings
    for name in last if tied or head else ():
        if any(f".{name}".endswith(f".{w}") for w in wanted):
            says = "learns as a whole" if name == head else "is the embedding too, which would not follow"
            raise BadTargets(f"lora.targets: {name} {says}; name other layers: {', '.join(inner)}")
    language = set(model.get_decoder().modules())
    own = {name for name in layers.keys() - last if layers[name] in language}
    return wanted or (inner if own == layers.keys() - last else sorted(own))


def merged(model: nn.Module, weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """W + s B A, in float32, for each layer of `model` with adapters, and all other weights as they come.

    `weights` are named as in `model`, W before A before B; a layer at a time is held. The names that come out are those
    that the model had without adapters. 4-bit weights come out as the numbers that they stand for.
    """
    base = down = torch.empty(0)
    for name, tensor in weights:
        if name.endswith(".base_layer.weight"):
            base = tensor
        elif ".lora_A." in name:
            down = tensor
        elif ".lora_B." in name:
            stem = name.partition(".lora_B.")[0]
            scale: Any = model.get_submodule(stem).scaling
            whole = readable(model, f"{stem}.base_layer", base)
            yield f"{stem}.weight", whole.float() + scale[NAME] * (tensor.float() @ down.float())
        else:
            yield name.replace(".base_layer.", "."), readable(model, name.rpartition(".")[0], tensor)


def readable(model: nn.Module, layer: str, weight: Tensor) -> Tensor:
    """A layer's weight, as numbers also where it is packed into 4 bits."""
    if weight.is_floating_point():
        return weight
    from peft.utils.integrations import dequantize_module_weight

    return dequantize_module_weight(model.get_submodule(layer))


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """In here the model is what it was before it got adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
