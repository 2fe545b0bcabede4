"""Whole runs with images, in this process, on a tiny model that sees four pictures and is to say which."""

import json

import pytest
from driving import run
from eyes import LETTERS, TEMPLATE, png
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from rlhf_hydra.tracking import jsonl

PICTURES = [png(i, 16 + 8 * i) for i in range(4)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows `{prompt: "ab", images: "2.png", response: "ccc", ...}` beside their images."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for i in range(32):
        right, wrong = LETTERS[i % 4] * 3, LETTERS[(i + 1) % 4] * 3
        pair = {"chosen": right, "rejected": wrong}
        rows.append({"prompt": "ab", "images": f"{i % 4}.png", "response": right, "label": right[0], **pair})
    for i, picture in enumerate(PICTURES):
        (folder / f"{i}.png").write_bytes(picture)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "score.py").write_text(
        "def share(samples):\n    return [s.response[:3].count(s.label) / 3 for s in samples]\n"
    )
    return folder


@pytest.fixture(scope="module")
def common(data, tiny_eyes):
    keys = ["data.chat=true", "data.images_column=images", "policy.optim.lr=3e-3", "policy.samples_per_update=16"]
    return ["model=tiny", f"model.path={tiny_eyes}", "data=jsonl", f"data.path={data}/rows.jsonl", *keys]


@pytest.fixture(scope="module")
def taught(common, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    return folder, run(folder, *common, "algo=sft", "data.response_column=response", "steps=16", "eval.every=16")


def test_fine_tuning_learns_what_is_in_the_pictures(taught):
    """Blind, the first letter alone costs ln 4 = 1.39 nats of the 4 tokens' loss: 0.35 a token."""
    _, rows = taught
    assert rows[-1]["eval/loss"] < 0.1 < rows[0]["eval/loss"]


def test_the_exported_model_loads_with_its_processor(taught, tiny_eyes):
    folder = taught[0] / "model"
    _, about = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(about.values())
    before, after = (AutoImageProcessor.from_pretrained(place).to_dict() for place in (tiny_eyes, folder))
    assert before == after
    assert AutoTokenizer.from_pretrained(folder).chat_template == TEMPLATE


def test_sampling_learns_what_is_in_the_pictures(common, data, tmp_path):
    """Engine and policy agree on pictures in every step."""
    rewards = ["reward=function", f"reward.path={data}/score.py:share", "eval.every=12", "algo.kl.coef=1e-3"]
    rollout = ["rollout.prompts_per_step=8", "rollout.samples_per_prompt=8", "rollout.max_response_tokens=4"]
    rows = run(tmp_path, *common, *rewards, *rollout, "algo=grpo", "policy.samples_per_update=64", "steps=12",
               "rollout.max_prompt_tokens=40")  # fmt: skip
    assert rows[-1]["eval/mean"] > 0.5 > rows[0]["eval/mean"]
    assert max(row.get("engine/parity", 0) for row in rows) < 1e-5
    (first, *_) = jsonl.read(tmp_path / jsonl.SAMPLES)
    assert first["prompt"] == "<|vision_start|><|image_pad|><|vision_end|>ab"


@pytest.mark.parametrize("algo", ["dpo", "kto"])
def test_preferences_are_learned_from_pictures(algo, common, tmp_path):
    rows = run(tmp_path, *common, f"algo={algo}", "steps=16", "eval.every=16")
    assert rows[-1]["eval/loss"] < 0.75 * rows[0]["eval/loss"]


def test_other_models_are_refused_before_anything_starts(common, tiny, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, *common, "algo=sft", "data.response_column=response", f"model.path={tiny}")
    assert "models of type `llama` do not read images" in " ".join(capsys.readouterr().out.split())
