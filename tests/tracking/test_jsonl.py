import json

import pytest

from rlhf_hydra.tracking.jsonl import METRICS, SAMPLES, JsonLines, read


def steps(folder, first, last, resume_step=None):
    lines = JsonLines(folder, resume_step)
    for step in range(first, last + 1):
        lines.log({"reward/mean": step / 10, "policy/kl": 0.5}, step)
        lines.samples([{"prompt": "é", "response": f"r{step}", "reward": 1.0}], step)
    lines.finish("done")


def test_one_flat_object_a_step(tmp_path):
    steps(tmp_path, 1, 2)
    assert read(tmp_path / METRICS) == [
        {"step": 1, "reward/mean": 0.1, "policy/kl": 0.5},
        {"step": 2, "reward/mean": 0.2, "policy/kl": 0.5},
    ]
    assert read(tmp_path / SAMPLES)[1] == {"step": 2, "prompt": "é", "response": "r2", "reward": 1.0}


def test_a_resumed_file_equals_a_straight_one(tmp_path):
    steps(tmp_path / "straight", 1, 6)
    steps(tmp_path / "stopped", 1, 4)  # the checkpoint was made at 3; step 4 runs again
    steps(tmp_path / "stopped", 4, 6, resume_step=4)
    for name in (METRICS, SAMPLES):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "straight" / name).read_text()


def test_a_new_run_in_a_used_folder_starts_empty(tmp_path):
    steps(tmp_path, 1, 4)
    steps(tmp_path, 1, 1)
    assert [row["step"] for row in read(tmp_path / METRICS)] == [1]


def test_every_line_is_json_whatever_the_numbers(tmp_path):
    lines = JsonLines(tmp_path)
    lines.log({"policy/loss": float("nan"), "policy/kl": float("inf")}, 1)
    lines.samples([{"labels": [1, float("nan")], "path": tmp_path}], 1)
    assert json.loads((tmp_path / METRICS).read_text()) == {"step": 1, "policy/loss": None, "policy/kl": None}
    assert read(tmp_path / SAMPLES) == [{"step": 1, "labels": [1, None], "path": str(tmp_path)}]


def test_rows_are_on_disk_before_the_end(tmp_path):
    JsonLines(tmp_path).log({"reward/mean": 1.0}, 1)
    assert read(tmp_path / METRICS) == [{"step": 1, "reward/mean": 1.0}]


def test_a_line_cut_by_a_crash_is_left_out_and_a_broken_one_named(tmp_path):
    path = tmp_path / METRICS
    path.write_text('{"step": 1}\n{"step": 2, "rew')
    assert read(path) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2, "rew\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        read(path)
