import pytest

from rlhf_hydra.tracking import build
from rlhf_hydra.tracking.jsonl import read
from rlhf_hydra.tracking.tracker import Tracker, Trackers


def listen(run, folder, first, last, resume_step=None, status="done"):
    tracker = build(run, folder, resume_step, "python -m rlhf_hydra")
    for step in range(first, last + 1):
        tracker.samples([{"prompt": "c", "response": "cccc", "reward": 1.0}], step)
        tracker.log({"reward/mean": step / 10, "time/step_s": 0.5}, step)
    tracker.finish(status)


@pytest.mark.parametrize("name", ["none", "jsonl"])
def test_every_run_leaves_lines_and_curves(run, tmp_path, name):
    run.tracking.name = name
    listen(run, tmp_path, 1, 3)
    assert [row["reward/mean"] for row in read(tmp_path / "metrics.jsonl")] == [0.1, 0.2, 0.3]
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "samples.jsonl", "curves.png"}


def test_all_trackers_finish_though_one_fails():
    ended = []

    class Broken(Tracker):
        def finish(self, status, detail=""):
            raise OSError("disk full")

    class Ends(Tracker):
        def finish(self, status, detail=""):
            ended.append((status, detail))

    with pytest.raises(OSError, match="disk full"):
        Trackers(Ends(), Broken(), Ends()).finish("failed", "why")
    assert ended == [("failed", "why")] * 2


def test_tensorboard(run, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run.tracking.name = "tensorboard"
    listen(run, tmp_path, 1, 3)
    listen(run, tmp_path, 3, 4, resume_step=3)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, round(event.value, 6)) for event in events.Scalars("reward/mean")] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.4),
    ]


def test_mlflow(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run.tracking.name = "mlflow"
    listen(run, tmp_path / "ppo-tiny" / "now", 1, 2, status="stopped")
    listen(run, tmp_path / "ppo-tiny" / "now", 3, 4, resume_step=3)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("rlhf_hydra").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "ppo-tiny/now"
    assert found.data.params["algo.advantage.lam"] == "0.9"
    assert [m.step for m in client.get_metric_history(found.info.run_id, "reward/mean")] == [1, 2, 3, 4]


def test_wandb_without_a_key_is_offline_and_says_so(run, tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    run.tracking.name = "wandb"
    listen(run, tmp_path / "run", 1, 2)
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1
    said = "".join(capfd.readouterr())
    assert f"· wandb is offline; send the run later with: wandb sync {tmp_path}/run/wandb/offline-run-*" in said
    assert "wandb: " not in said  # its own chatter
