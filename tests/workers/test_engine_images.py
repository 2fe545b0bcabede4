"""Both engines see what a plain model sees."""

from importlib.util import find_spec
from io import BytesIO

import pytest
import torch
from eyes import END, IMAGE, START, VIDEO, png
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from rlhf_hydra.config.schema import Engine
from rlhf_hydra.workers.engine.base import Sampling, build_engine

SMALL, WIDE = png(1, 16, 16), png(2, 40, 24)
"""Of 4 and of 15 tokens."""
PROMPTS = [[START, *[IMAGE] * 4, END, 8], [7, 8], [7, START, *[IMAGE] * 15, END, START, *[IMAGE] * 4, END, 9]]
IMAGES = [[SMALL], [], [WIDE, SMALL]]
SEEDS = [1, 2, 3]
VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("torchvision") is None, reason="vLLM needs torchvision for images"),
]


@pytest.fixture(scope="module", params=["hf", pytest.param("vllm", marks=VLLM)])
def engine(request, tiny_eyes):
    engine = build_engine(tiny_eyes, Engine(name=request.param, kv_cache_gib=0.25), 64)
    yield engine
    engine.close()


@pytest.fixture
def model(tiny_eyes):
    return AutoModelForImageTextToText.from_pretrained(tiny_eyes)


@pytest.fixture
def expected(model, tiny_eyes):
    """log p of every token but the first, by a plain forward of one row."""

    def expected(tokens, images):
        row, pixels = torch.tensor([tokens]), {}
        if images:
            pixels = AutoImageProcessor.from_pretrained(tiny_eyes)(
                [Image.open(BytesIO(image)) for image in images], return_tensors="pt"
            )
        with torch.inference_mode():
            logits = model(input_ids=row, mm_token_type_ids=(row == IMAGE).int(), **pixels).logits[0, :-1]
        return logits.log_softmax(-1).gather(-1, row[0, 1:, None]).squeeze(-1).tolist()

    return expected


def test_logprobs_with_images_are_those_of_a_plain_model(engine, expected):
    for found, tokens, images in zip(engine.logprobs(PROMPTS, IMAGES), PROMPTS, IMAGES, strict=True):
        assert found == pytest.approx([0.0, *expected(tokens, images)], abs=1e-4)


def test_responses_to_images_have_the_logprobs_of_a_plain_model(engine, expected):
    """Rows of different lengths, which end at different times; none writes an image."""
    responses = engine.generate(PROMPTS, SEEDS, Sampling(max_tokens=20), IMAGES)
    assert len({len(response.tokens) for response in responses}) > 1
    for response, tokens, images in zip(responses, PROMPTS, IMAGES, strict=True):
        wanted = expected([*tokens, *response.tokens], images)[-len(response.tokens) :]
        assert response.logprobs == pytest.approx(wanted, abs=1e-4)
        assert not {IMAGE, VIDEO} & set(response.tokens)


def test_a_response_to_an_image_does_not_depend_on_its_neighbours(engine):
    together = [response.tokens for response in engine.generate(PROMPTS, SEEDS, Sampling(max_tokens=8), IMAGES)]
    asked = zip(PROMPTS, SEEDS, IMAGES, strict=True)
    assert together == [engine.generate([p], [s], Sampling(max_tokens=8), [i])[0].tokens for p, s, i in asked]


def test_new_weights_see_images_anew(engine, model, expected):
    """What the old weights made of an image that the engine has seen before is forgotten."""
    engine.logprobs(PROMPTS, IMAGES)
    with torch.no_grad():
        for parameter in model.model.visual.parameters():
            parameter.mul_(1.5)
    engine.begin_update()
    engine.load(model.named_parameters())
    engine.finish_update(1)
    assert engine.logprobs(PROMPTS, IMAGES)[0][-2:] == pytest.approx(expected(PROMPTS[0], IMAGES[0])[-2:], abs=1e-4)
