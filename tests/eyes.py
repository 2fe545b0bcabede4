"""A tiny model with eyes, and images for it."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

SPECIAL = ["<pad>", "<eos>", "<unk>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
PAD, EOS, UNK, START, END, IMAGE, VIDEO = range(7)
LETTERS = "abcdefghijklmnop"
VOCABULARY = [*SPECIAL, *LETTERS]
PATCH = 4
"""Pixels; an image of 16 x 24 has 4 x 6 patches, of which 2 x 2 are a token: 6 tokens."""

TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
)


TEXT_TEMPLATE = "{% for m in messages %}{{ m['content'] + '<eos>' }}{% endfor %}"


def letters() -> Any:
    """One token a letter. The chat template is for text alone, as that of many tokenizers of such models."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=512
    )
    made.add_special_tokens({"additional_special_tokens": SPECIAL[START:]})
    made.chat_template = TEXT_TEMPLATE
    return made


def build(folder: Path, family: str = "qwen2_vl", size: int = 128) -> str:
    """Random weights, large enough for peaked distributions; a folder as the hub has it."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2VLImageProcessorPil

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [size // 32, size // 16, size // 32]}
    text = dict(
        vocab_size=len(VOCABULARY), hidden_size=size, intermediate_size=size, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=size // 4, tie_word_embeddings=False,
        max_position_embeddings=512, rope_parameters=rope, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None,
    )  # fmt: skip
    eyes = dict(depth=2, num_heads=2, patch_size=PATCH, spatial_merge_size=2, temporal_patch_size=2)
    sizes = {
        "qwen2_vl": dict(embed_dim=32, hidden_size=size, mlp_ratio=2),
        "qwen2_5_vl": dict(
            hidden_size=32, out_hidden_size=size, intermediate_size=64, window_size=16, fullatt_block_indexes=[1]
        ),
        "qwen3_vl": dict(
            hidden_size=32, out_hidden_size=size, intermediate_size=64, num_position_embeddings=64,
            deepstack_visual_indexes=[0],
        ),
    }  # fmt: skip
    config = AutoConfig.for_model(
        family, text_config=text, vision_config=eyes | sizes[family], image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=START, vision_end_token_id=END, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    letters().save_pretrained(folder)
    (Path(folder) / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 1024}
    )
    processor.save_pretrained(folder)
    return str(folder)


def png(seed: int, width: int = 24, height: int = 16) -> bytes:
    """The file of an image of noise."""
    from PIL import Image

    file = BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()
