import subprocess
import sys

from matplotlib.image import imread

from rlhf_hydra.tracking.plot import draw


def test_one_panel_for_each_metric_that_was_logged(tmp_path):
    rows = [{"step": step, "reward/mean": step / 5, "policy/kl": 0.01 * step} for step in range(1, 6)]
    assert draw(rows, tmp_path / "two.png", "ppo · tiny · toy")
    assert draw([{"step": 1, "reward/mean": 1.0, "policy/kl": None}], tmp_path / "one.png", "a single point")
    two, one = imread(tmp_path / "two.png"), imread(tmp_path / "one.png")
    assert two.shape[0] > one.shape[0] and two.shape[1] == one.shape[1]
    assert two[..., :3].std() > 0.01  # something was drawn


def test_nothing_to_draw(tmp_path):
    assert not draw([], tmp_path / "none.png", "empty")
    assert not (tmp_path / "none.png").exists()


def test_tracking_imports_no_giants():
    giants = "{'matplotlib', 'wandb', 'mlflow', 'tensorboard', 'torch'}"
    code = f"import sys, rlhf_hydra.tracking; print({giants} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
