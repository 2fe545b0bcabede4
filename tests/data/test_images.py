"""Images of rows: where they may come from, where they stand, and what is wrong with them.

Shown as text, in which `I` is a token of an image; what is learned is in capitals, EOS as `!`.
"""

import base64
import json
from dataclasses import replace
from io import BytesIO

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as Picture
from eyes import END, EOS, IMAGE, START, TEMPLATE, png
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

from rlhf_hydra.config import schema
from rlhf_hydra.config.schema import Data
from rlhf_hydra.data.examples import load_examples
from rlhf_hydra.data.files import DataError
from rlhf_hydra.data.images import Gallery, contents
from rlhf_hydra.data.prompts import load_prompts, shown
from rlhf_hydra.data.templates import Renderer
from rlhf_hydra.models.packed import NoImages

SFT, DPO = schema.SFT(name="sft"), schema.DPO(name="dpo")
FOUR, SIX = png(1, 16, 16), png(2, 24, 16)
"""Of 4 and of 6 tokens."""
BASE64 = base64.b64encode(FOUR).decode()


@pytest.fixture(scope="module")
def tokenizer(tiny_eyes):
    return AutoTokenizer.from_pretrained(tiny_eyes)


@pytest.fixture
def load(tokenizer, tmp_path):
    """Rows -> examples, as text; two images lie beside the file."""
    (tmp_path / "four.png").write_bytes(FOUR)
    (tmp_path / "six.png").write_bytes(SIX)
    (tmp_path / "cut.png").write_bytes(SIX[:150])
    path = tmp_path / "rows.jsonl"

    def load(*rows, algo=SFT, context=40, cache=None, **keys):
        path.write_text("\n".join(map(json.dumps, rows)))
        keys = {"response_column": "response", "images_column": "images", "chat": True, **keys}
        return load_examples(Data(name="x", path=str(path), **keys), algo, tokenizer, context, cache=cache)

    return load


def show(examples):
    names = {START: "[", END: "]", IMAGE: "I", EOS: "."} | {7 + i: letter for i, letter in enumerate("abcdefgh")}
    batch = examples.batch(range(len(examples)))
    found = []
    for tokens, mask, length in zip(batch.tokens, batch.response_mask, batch.lengths.tolist(), strict=True):
        row = zip(tokens[:length].tolist(), mask[:length].tolist(), strict=True)
        found.append("".join(names[t].upper().replace(".", "!") if learned else names[t] for t, learned in row))
    return found


FORMS = {
    "a path": "four.png",
    "a list": ["four.png"],
    "base64": {"bytes": BASE64},
    "a path where there are no bytes": {"bytes": None, "path": "four.png"},
    "a data address": f"data:image/png;base64,{BASE64}",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_an_image(form, load):
    examples, _ = load({"prompt": "ab", "images": FORMS[form], "response": "c"})
    assert show(examples) == ["[IIII]abC!"]  # without a mark, in front of the prompt
    assert examples.batch([0]).images == [[FOUR]]


def test_bytes_and_pillows_images(tokenizer):
    gallery = Gallery(Data(name="x", images_column="images"), Renderer(Data(name="x"), tokenizer))
    assert gallery.found({"bytes": FOUR, "path": "four.png"}) == gallery.found(FOUR) == FOUR
    made = gallery.found(Image.open(BytesIO(FOUR)))
    assert Image.open(BytesIO(contents(made))).tobytes() == Image.open(BytesIO(FOUR)).tobytes()


@pytest.mark.parametrize("several", [False, True])
def test_images_of_a_saved_dataset_come_as_their_files(several, tokenizer, tmp_path):
    rows = {
        "prompt": ["a"],
        "response": ["b"],
        "images": [[{"bytes": FOUR, "path": None}] if several else {"bytes": FOUR}],
    }
    features = Features(
        {"prompt": Value("string"), "response": Value("string"), "images": [Picture()] if several else Picture()}
    )
    Dataset.from_dict(rows, features).save_to_disk(tmp_path / "saved")
    keys = {"response_column": "response", "images_column": "images", "chat": True}
    examples, _ = load_examples(Data(name="x", path=str(tmp_path / "saved"), **keys), SFT, tokenizer, 40)
    assert examples.batch([0]).images == [[FOUR]]


def turn(role, *content):
    return {"role": role, "content": list(content)}


def text(text):
    return {"type": "text", "text": text}


PLACES = {
    "marks": (
        {"prompt": "a<image>b<image>c", "images": ["four.png", "six.png"], "response": "d"},
        "a[IIII]b[IIIIII]cD!",
    ),
    "parts without images": (
        {"prompt": [turn("user", text("a"), {"type": "image"}, text("b"))], "images": "four.png", "response": "c"},
        "a[IIII]bC!",
    ),
    "in front of the user's first words": (
        {
            "prompt": [{"role": "system", "content": "a"}, turn("user", text("b"))],
            "images": "four.png",
            "response": "c",
        },
        "a[IIII]bC!",
    ),
    "an image in the response is not learned": (
        {"prompt": "a", "images": "four.png", "response": "b<image>c"},
        "aB[IIII]C!",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_places_of_an_image(place, load):
    row, wanted = PLACES[place]
    assert show(load(row)[0]) == [wanted]


def test_images_in_messages(load):
    talk = [turn("user", {"type": "image", "image": "four.png"}, text("a")), turn("assistant", text("b"))]
    address = {"type": "image_url", "image_url": {"url": "six.png"}}
    more = [turn("user", text("c"), address), turn("assistant", text("d"))]
    keys = {"prompt_column": "talk", "images_column": "talk", "response_column": None}
    examples, _ = load({"talk": [*talk, *more]}, algo=replace(SFT, learn="assistant"), **keys)
    assert show(examples) == ["[IIII]aB!c[IIIIII]D!"]
    assert examples.batch([0]).images == [[FOUR, SIX]]


def test_both_rows_of_a_pair_show_the_prompts_image(load):
    examples, _ = load({"prompt": "a", "images": "four.png", "chosen": "b", "rejected": "c"}, algo=DPO)
    assert show(examples) == ["[IIII]aB!", "[IIII]aC!"]
    assert examples.batch([0]).images == [[FOUR], [FOUR]]


def test_tokens_are_those_of_the_text_with_every_place_written_out(tiny_eyes, tokenizer, load):
    """As many places as transformers' image processor makes merged patches."""
    prompt = [turn("user", text("a"), {"type": "image"}, text("b"), {"type": "image"}), turn("user", text("c"))]
    examples, _ = load({"prompt": prompt, "images": ["four.png", "six.png"], "response": "d"})
    shown = AutoImageProcessor.from_pretrained(tiny_eyes)([Image.open(BytesIO(image)) for image in (FOUR, SIX)])
    first, *between, last = tokenizer.apply_chat_template(
        [*prompt, {"role": "assistant", "content": "d"}], tokenize=False, chat_template=TEMPLATE
    ).split("<|image_pad|>")
    sizes = [int(grid.prod()) // 4 for grid in shown["image_grid_thw"]]
    written = first + "".join("<|image_pad|>" * n + t for n, t in zip(sizes, [*between, last], strict=True))
    assert examples.batch([0]).tokens[0].tolist() == tokenizer(written)["input_ids"]


GOOD = {"prompt": "a", "images": "four.png", "response": "b"}
BAD = {
    "names an image that is not there": "gone.png",
    "holds an image that cannot be read": "cut.png",
    "holds something that is no image": 3,
    "holds bytes that are not base64": {"bytes": "%"},
    "has no image": [],
    "is null": None,
    "has another number of images than there are places": ["four.png"] * 2,
}


@pytest.mark.parametrize("why", BAD)
def test_bad_images_are_counted_by_reason(why, load):
    prompt = "<image>a" if isinstance(BAD[why], list) else "a"
    examples, report = load(GOOD, {**GOOD, "prompt": prompt, "images": BAD[why]})
    assert len(examples) == 1 and [f"column `images` {why}" in reason for reason in report.dropped] == [True]


def test_addresses_are_refused_with_the_way_out(load):
    with pytest.raises(DataError, match="row 1: column `images` holds addresses.*save the images beside the data"):
        load({**GOOD, "images": "https://example.org/a.png"})


def test_a_row_is_not_cut_inside_of_an_image(load):
    late = {"prompt": "abc", "images": "four.png", "response": "d<image>e"}
    examples, report = load({**GOOD, "response": "bcdef"}, late, context=8, overlong="cut")
    assert show(examples) == ["[IIII]aB"]
    assert report.dropped == {"longer than 8 tokens (data.max_tokens, model.context_tokens)": 1}


def test_the_cache_keeps_images_as_they_were_given(load, tmp_path):
    rows = [GOOD, {**GOOD, "images": ["six.png", {"bytes": BASE64}]}]
    made, again = (load(*rows, cache=tmp_path / "cache")[0] for _ in range(2))
    assert made.fingerprint == again.fingerprint and show(made) == show(again) == ["[IIII]aB!", "[IIIIII][IIII]aB!"]
    assert again.batch([1, 0]).images == [[SIX, FOUR], [FOUR]]
    assert len(again.parts[0].images) < len(FOUR) + 400  # of two images, the paths
    (tmp_path / "six.png").unlink()
    with pytest.raises(DataError, match=r"cannot be read any more.*six\.png"):
        again.batch([1])


def test_prompts_with_images(tokenizer, tmp_path):
    (tmp_path / "four.png").write_bytes(FOUR)
    row = {"prompt": "a<image>b", "images": ["four.png"], "label": "c", "about": "d"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    cfg = Data(name="x", path=str(tmp_path / "rows.jsonl"), images_column="images", label_column="label", chat=True)
    (prompt,), report = load_prompts(cfg, tokenizer, 40)
    assert prompt.tokens == [7, START, *[IMAGE] * 4, END, 8]
    assert prompt.text == "a<|vision_start|><|image_pad|><|vision_end|>b"
    assert (prompt.label, prompt.metadata) == ("c", {"about": "d"})
    assert shown([prompt, replace(prompt, images=[])]) == [[FOUR], []]
    other, _ = load_prompts(replace(cfg, images_column=None), tokenizer, 40)
    assert shown(other) == ()
    with pytest.raises(DataError, match="longer than 7 tokens"):
        load_prompts(cfg, tokenizer, 7)


def test_images_for_a_model_without_eyes_are_refused(tiny, load, tmp_path):
    load(GOOD)
    rows = str(tmp_path / "rows.jsonl")
    cfg = Data(name="x", path=rows, images_column="images", response_column="response", chat=True)
    with pytest.raises(NoImages, match="set data.images_column=null"):
        load_examples(cfg, SFT, AutoTokenizer.from_pretrained(tiny), 40)
