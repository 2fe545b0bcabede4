"""Models that read images, of the kind of Qwen2-VL (arXiv 2409.12191).

An image is as many tokens as it has patches, after merging; its tokens have positions in three dimensions (time,
height, width), and the text behind them goes on after the largest. An image travels as the bytes of its file, and
becomes pixels where the model is: pixels are far larger.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_MAPPING

from rlhf_hydra.models.hub import all_there
from rlhf_hydra.models.packed import ATTENTION, NoImages, Packed


class Vision:
    """What goes before such a model: from the files of images to tokens, pixels and positions."""

    def __init__(self, folder: str, config: Any) -> None:
        self.folder = folder
        self.token: int = config.image_token_id
        """Stands in the text once for each merged patch of an image."""

    @cached_property
    def processor(self) -> Any:
        """Transformers' own image processor: on torchvision where that is installed, otherwise on Pillow. NoImages."""
        from transformers import AutoImageProcessor

        try:
            return AutoImageProcessor.from_pretrained(self.folder)
        except (ImportError, OSError) as error:
            raise NoImages(f"model.path: {self.folder} gives no image processor: {error}") from error

    @property
    def identity(self) -> str:
        """Changes when an image may become other pixels, or another number of tokens."""
        return json.dumps(self.processor.to_dict(), sort_keys=True, default=str)

    @classmethod
    def load(cls, folder: str) -> Self:
        """NoImages if the model in `folder` reads none, or not in this way."""
        config = AutoConfig.from_pretrained(folder)
        if not reads_images(config):
            says = f"models of type `{config.model_type}` do not read images as those of the Qwen2-VL family do"
            raise NoImages(f"model.path: {says}; take such a model, or set data.images_column=null")
        return cls(folder, config)

    def count(self, image: bytes) -> int:
        """Tokens of an image. ValueError, or OSError, if it cannot be read."""
        width, height = picture(image).size
        return self.processor.get_number_of_image_patches(height, width, {}) // self.processor.merge_size**2

    def pixels(self, images: Sequence[bytes]) -> dict[str, Tensor]:
        """`pixel_values` [patches of all images, channels x patch] and `image_grid_thw` [images, 3]."""
        found = self.processor([picture(image) for image in images], return_tensors="pt")
        return {name: found[name] for name in ("pixel_values", "image_grid_thw")}

    def inputs(self, model: Any, tokens: Tensor, mask: Tensor, images: Sequence[bytes]) -> dict[str, Tensor]:
        """What `model` is told beside the tokens [b, T] of rows with these images, padded where `mask` is 0.

        `position_ids` [3, b, T] are those of each row by itself, 0 on padding.
        """
        found = {name: tensor.to(tokens.device) for name, tensor in self.pixels(images).items()}
        kinds = (tokens == self.token).int()
        given = int((kinds * mask).sum())
        wanted = int(found["image_grid_thw"].prod(1).sum()) // self.processor.merge_size**2
        if given != wanted:
            raise NoImages(f"{len(images)} images are {wanted} tokens, and {given} stand for them: has a file changed?")
        positions, _ = model.base_model.get_rope_index(
            tokens, mm_token_type_ids=kinds, image_grid_thw=found["image_grid_thw"], attention_mask=mask
        )
        return {**found, "position_ids": positions}

    def packed(self, model: Any, packed: Packed) -> dict[str, Tensor]:
        """`inputs` of rows that lie end to end; `position_ids` [3, 1, N]."""
        rows = packed.input_ids[0].split(packed.lengths)
        tokens = pad_sequence(list(rows), batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        found = self.inputs(model, tokens, mask, packed.images)
        return {**found, "position_ids": found["position_ids"][:, mask.bool()][:, None]}


def reads_images(config: Any) -> bool:
    """Whether transformers knows models of this config that tell the positions of an image's tokens themselves."""
    kind = type(config)
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or kind not in MODEL_MAPPING:
        return False
    return hasattr(MODEL_MAPPING[kind], "get_rope_index")


def chat_template(folder: str) -> str | None:
    """The chat template that knows images, where the tokenizer's own is another one, for text alone."""
    file = Path(folder) / "chat_template.json"
    return json.loads(file.read_text(encoding="utf-8"))["chat_template"] if file.is_file() else None


def image_tokens(config: Any) -> list[int]:
    """Tokens that stand for what the text shows: no engine may write them."""
    return [config.image_token_id, config.video_token_id] if reads_images(config) else []


def load_lm(folder: str, packed: bool = False, **options: Any) -> Any:
    """The language model in `folder`, with its eyes if it has some; `packed`: for rows that lie end to end.

    Incomplete where the folder holds something else.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=options.get("trust_remote_code", False))
    sees = reads_images(config)
    if packed:
        # Patches of an image see each other: what reads them keeps its own attention, which is inside of an image.
        options["attn_implementation"] = {"text_config": ATTENTION} if sees else ATTENTION
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    return all_there(folder, kind.from_pretrained(folder, output_loading_info=True, **options))


def picture(image: bytes) -> Any:
    """The image in a file, in RGB, the way up that its camera noted. Read whole, so that a cut file is found out."""
    from PIL import Image, ImageOps

    return ImageOps.exif_transpose(Image.open(BytesIO(image))).convert("RGB")
