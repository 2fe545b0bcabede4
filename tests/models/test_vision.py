"""Models that read images: packed equals padded, and what is refused."""

from io import BytesIO
from pathlib import Path

import pytest
import torch
from eyes import END, IMAGE, START, build, png
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.models.lora import targets
from rlhf_hydra.models.packed import NoImages, pack
from rlhf_hydra.models.policy import PolicyModel
from rlhf_hydra.models.vision import Vision, load_lm, picture

SMALL, WIDE = png(1, 16, 16), png(2, 40, 24)
"""4 x 4 patches, 2 x 2 of them a token, are 4 tokens; 10 x 6 patches are 15."""


@pytest.fixture(scope="session", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def eyes(request, tmp_path_factory):
    return build(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def batch():
    """A row with two images, one with text alone, and one with an image between texts."""
    prompts = [[START, *[IMAGE] * 4, END, START, *[IMAGE] * 15, END, 11], [7, 8, 9], [7, START, *[IMAGE] * 4, END, 8]]
    responses = [[12, 13, 14, 15], [10, 11], [7, 8, 9]]
    images = [[SMALL, WIDE], [], [SMALL]]
    return RolloutBatch.from_sequences(prompts, responses, group=range(3), images=images)


def padded(folder, batch):
    """logprobs [B, T] of a plain transformers model, which makes its own positions, and the model."""
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager")
    shown = [Image.open(BytesIO(image)) for row in batch.images for image in row]
    pixels = AutoImageProcessor.from_pretrained(folder)(shown, return_tensors="pt")
    attend = (torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]).long()
    kinds = (batch.tokens == IMAGE).int()
    logits = model(input_ids=batch.tokens, attention_mask=attend, mm_token_type_ids=kinds, **pixels).logits
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
    return torch.nn.functional.pad(chosen, (1, 0)) * batch.response_mask, model


def test_packed_equals_padded_with_images(eyes, batch):
    """Values, and gradients of every weight, those that read images too."""
    policy = PolicyModel.load(eyes)
    packed = pack(batch)
    logprobs, (wanted, model) = packed.unpack(policy(packed, 1.0).logprobs), padded(eyes, batch)
    torch.testing.assert_close(logprobs, wanted, atol=1e-5, rtol=0)
    logprobs.sum().backward()
    wanted.sum().backward()
    gradients = dict(model.named_parameters())
    for name, parameter in policy.lm.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=5e-5, rtol=1e-4, msg=name)


def test_images_stay_with_their_rows(batch):
    assert batch[[2, 0]].images == [[SMALL], [SMALL, WIDE]]
    assert batch[torch.tensor([False, True, True])].images == [[], [SMALL]]
    assert pack(batch[1:]).images == (SMALL,)
    text = RolloutBatch.from_sequences([[7]], [[8]], group=[0])
    assert RolloutBatch.cat([text, batch.only()]).images == [[], *batch.images]
    assert RolloutBatch.cat([text, text]).images is None


def test_an_image_that_has_changed_is_found_out(tiny_eyes, batch):
    other = batch.replace(images=[[SMALL, SMALL], [], [SMALL]])
    with pytest.raises(NoImages, match="3 images are 12 tokens, and 23 stand for them: has a file changed?"):
        PolicyModel.load(tiny_eyes)(pack(other), 1.0)


def test_a_model_that_reads_text_alone_is_refused(tiny, batch):
    with pytest.raises(NoImages, match="models of type `llama` do not read images"):
        Vision.load(tiny)
    with pytest.raises(NoImages, match="a model that reads none"):
        PolicyModel.load(tiny)(pack(batch), 1.0)


def test_adapters_go_into_the_language_model(tiny_eyes):
    layers = targets(load_lm(tiny_eyes), [])
    assert len(layers) == 2 * 7 and not any("visual" in layer for layer in layers)  # q k v o gate up down of two


def test_a_model_without_its_image_processor_is_refused(tiny_eyes, tmp_path):
    (tmp_path / "config.json").write_text((Path(tiny_eyes) / "config.json").read_text())
    with pytest.raises(NoImages, match="gives no image processor"):
        Vision.load(str(tmp_path)).count(SMALL)


def test_images_are_as_many_tokens_as_they_have_patches(tiny_eyes):
    vision = Vision.load(tiny_eyes)
    assert [vision.count(image) for image in (SMALL, WIDE)] == [4, 15]
    assert vision.pixels([SMALL, WIDE])["image_grid_thw"].tolist() == [[1, 4, 4], [1, 6, 10]]


def test_a_picture_stands_the_way_its_camera_noted():
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees
    Image.new("L", (4, 2)).save(file, "JPEG", exif=exif)
    assert (picture(file.getvalue()).size, picture(file.getvalue()).mode) == ((2, 4), "RGB")
