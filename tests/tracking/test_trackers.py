import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from rlhf_hydra.tracking import NoTracker, build
from rlhf_hydra.tracking.jsonl import read
from rlhf_hydra.tracking.told import Usage, parameters, reachable, run_id
from rlhf_hydra.tracking.tracker import Guarded, Once, Tracker, Trackers
from rlhf_hydra.tracking.trackio import choose_place

ROW = {"prompt": "c", "response": "cccc", "reward": 1.0}


def listen(run, folder, first, last, resume_step=None, status="done"):
    tracker = build(run, folder, resume_step, "python -m rlhf_hydra")
    for step in range(first, last + 1):
        tracker.samples([ROW], step)
        tracker.log({"reward/mean": step / 10, "policy/kl": step / 7, "time/step_s": 0.5}, step)
        tracker.log({"eval/pass@1": step / 3}, step)
    tracker.finish(status)


def stop_and_resume(run, folder):
    """Steps 1 to 3, and after a crash behind the checkpoint of step 2 again from 3."""
    listen(run, folder, 1, 3, status="stopped")
    listen(run, folder, 3, 4, resume_step=3)


def lines(folder):
    """`{(metric, step): value}` of the JSON lines, which every tracker must equal."""
    return {(k, row["step"]): v for row in read(folder / "metrics.jsonl") for k, v in row.items() if k != "step"}


def same(found, folder):
    """What a tracker gave back, as a list of (metric, step, value), is what the JSON lines hold, once each."""
    assert len(found) == len(lines(folder)) == 16  # 4 steps x 4 metrics
    assert {(name, step): value for name, step, value in found} == pytest.approx(lines(folder))


@pytest.mark.parametrize("name", ["none", "jsonl"])
def test_every_run_leaves_lines_and_curves(run, tmp_path, name):
    run.tracking.name = name
    listen(run, tmp_path, 1, 3)
    assert [row["reward/mean"] for row in read(tmp_path / "metrics.jsonl") if "reward/mean" in row] == [0.1, 0.2, 0.3]
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


class Flaky(Tracker):
    """A service that is away in some steps."""

    def __init__(self, away):
        self.heard, self.away = [], away

    def log(self, metrics, step):
        if step in self.away:
            raise ConnectionError("nobody at http://joe:hunter2@host\n  and much more")
        self.heard.append(step)

    def finish(self, status, detail=""):
        self.heard.append((status, detail))


def test_a_service_that_fails_does_not_end_the_run():
    said, service, other = [], Flaky({2, 3}), Flaky(())
    both = Trackers(Guarded("it", service, said.append, pause_s=0.0), other)
    for step in (1, 2, 3, 4):
        both.log({"a": 1.0}, step)
    both.finish("failed", "with hf_aaaaaaaaaaaaaaaaaaaaaaaa")
    assert service.heard == [1, 4, ("failed", "with ***")] and other.heard == [1, 2, 3, 4, ("failed", "with ***")]
    assert said == [
        "it fails, the run goes on without it: ConnectionError: nobody at http://***@host",
        "it lacks 2 of the run's messages; the JSON lines have all of them",
    ]


def test_a_service_that_is_away_is_not_asked_at_each_step():
    service = Flaky({1})
    guarded = Guarded("it", service, lambda line: None, pause_s=3600.0)
    for step in (1, 2, 3):
        guarded.log({"a": 1.0}, step)
    guarded.finish("done")
    assert service.heard == [("done", "")]


def test_a_service_that_cannot_be_started_is_one_line(run, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at.all")
    run.tracking.use = ["tensorboard", "mlflow"]
    with pytest.raises(NoTracker, match=r"^tracking=mlflow cannot be started: [^\n]*; put it right, or drop it$"):
        listen(run, tmp_path, 1, 1)


def test_no_secret_on_the_terminal(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SOME_API_KEY", "abcdefghij")
    run.data.system = "call with abcdefghij"
    tracker = build(run, tmp_path, None, "python -m rlhf_hydra")
    tracker.note("asks http://joe:hunter2@host")
    tracker.finish("failed", "403 for abcdefghij")
    said = capsys.readouterr().out
    assert "call with ***" in said and "403 for ***" in said and "http://***@host" in said
    assert "abcdefghij" not in said and "hunter2" not in said


def test_runs_of_one_second_on_two_machines_have_ids_of_their_own(tmp_path):
    here, there = (run_id(tmp_path / name / "ppo-tiny" / "größer now") for name in ("a", "b"))
    assert here != there and here.startswith("ppo-tiny-gr-er-now-") and here.isascii()


def test_once_passes_on_what_is_new():
    heard = []

    class Hears(Tracker):
        def log(self, metrics, step):
            heard.append((step, *metrics))

    once = Once({(1, frozenset({"a"})), (2, frozenset({"a"}))}, Hears())
    for step in (2, 3):
        once.log({"a": 1.0}, step)
        once.log({"eval/a": 1.0}, step)  # had not been reached
    assert heard == [(2, "eval/a"), (3, "a"), (3, "eval/a")]


def test_parameters_are_flat_and_hold_no_secret(run, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdefghij")
    run.data.system = "call with abcdefghij"
    flat = parameters(run)
    assert flat["algo.advantage.lam"] == 0.9 and flat["data.system"] == "call with ***"
    assert not any(isinstance(value, dict) and value for value in flat.values())


def test_usage_of_this_machine():
    pytest.importorskip("psutil")
    usage = Usage().read()
    assert usage["system/cores"] >= 1 and 0 < usage["system/memory_percent"] <= 100


def test_reachable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert reachable(url)
    assert not reachable(url)
    assert not reachable("no address at all")


def test_a_missing_package_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "swanlab", None)
    run.tracking.use = ["swanlab"]
    with pytest.raises(NoTracker, match=r"pip install 'rlhf_hydra\[swanlab\]'"):
        listen(run, tmp_path, 1, 1)


def test_tensorboard(run, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run.tracking.use = ["tensorboard"]
    run.tracking.system = False
    stop_and_resume(run, tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    same([(tag, e.step, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)], tmp_path)


def test_tensorboard_of_a_killed_run_has_all_steps(run, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run.tracking.use = ["tensorboard"]
    tracker = build(run, tmp_path, None, "python -m rlhf_hydra")
    tracker.log({"reward/mean": 1.0}, 1)  # and nobody calls `finish`
    assert accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("reward/mean")[0].step == 1


@pytest.fixture
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def stored(client, mlflow_run):
    """What MLflow gives back, but for the load of the machine."""
    names = [name for name in client.get_run(mlflow_run).data.metrics if not name.startswith("system/")]
    history = [(name, m) for name in names for m in client.get_metric_history(mlflow_run, name)]
    return [(name.replace("_at_", "@"), m.step, m.value) for name, m in history]


def test_mlflow(run, tmp_path, no_server):
    mlflow = pytest.importorskip("mlflow")
    run.tracking.use = ["mlflow"]
    folder = tmp_path / "ppo-tiny" / "it's now"
    stop_and_resume(run, folder)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("rlhf_hydra").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "ppo-tiny/it's now"
    assert found.data.params["algo.advantage.lam"] == "0.9"
    same(stored(client, found.info.run_id), folder)
    assert {f.path for f in client.list_artifacts(found.info.run_id)} == {"curves.png", "samples"}
    assert "system/cpu_percent" in found.data.metrics


@pytest.mark.slow
def test_mlflow_trials_in_parallel_make_one_store(run, tmp_path, no_server):
    """Four processes at once, no store yet: a parent, four children, nothing lost."""
    mlflow = pytest.importorskip("mlflow")
    run.tracking.use, run.tracking.group, run.tracking.system = ["mlflow"], "sweep-1", False
    folders = [tmp_path / "trials" / str(number) for number in range(4)]
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(listen, [run] * 4, folders, [1] * 4, [4] * 4))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("rlhf_hydra").experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert parent.info.run_name == "sweep-1" and parent.info.status == "FINISHED" and len(children) == 4
    for child in children:
        folder = next(f for f in folders if str(f) == child.data.tags["folder"])
        same(stored(client, child.info.run_id), folder)


def test_mlflow_without_its_server_stays_here(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run.tracking.use = ["mlflow"]
    listen(run, tmp_path / "run", 1, 1)
    assert "cannot be reached; the run is kept in" in capsys.readouterr().out.replace("\n", " ")
    assert (tmp_path / "mlflow.db").exists() and any((tmp_path / "mlflow-artifacts").iterdir())


@pytest.fixture
def no_wandb_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def wandb_history(folder):
    """Metrics in the records that W&B's own program finds in its files."""
    program = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        output = subprocess.run([*program, str(file)], capture_output=True, text=True, check=True).stdout
        for record in filter(lambda r: r["type"] == "history", map(json.loads, output.splitlines())):
            item = record["history"]["item"]
            yield from ((k, item["_step"], v) for k, v in item.items() if "/" in k and isinstance(v, int | float))


def test_wandb_without_a_key_is_offline_and_says_so(run, tmp_path, no_wandb_key, monkeypatch, capfd):
    pytest.importorskip("wandb")
    run.tracking.use, run.tracking.system, run.tracking.group = ["wandb"], False, "sweep-1"
    folder = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as server:  # is there, and is not asked without a key
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        stop_and_resume(run, folder)
    said = "".join(capfd.readouterr())
    assert f"without WANDB_API_KEY; send the run later with: wandb sync {folder}/wandb/offline-run-*" in said
    assert "wandb: " not in said  # its own chatter
    same(list(wandb_history(folder)), folder)


def test_wandb_without_its_server_is_offline(run, tmp_path, no_wandb_key, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    run.tracking.use = ["wandb"]
    listen(run, tmp_path / "run", 1, 1)
    assert "wandb is offline, http://127.0.0.1:9 cannot be reached" in "".join(capfd.readouterr())
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1


def test_trackio_without_its_server_stays_here(monkeypatch):
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://127.0.0.1:9")
    said = choose_place("my project")
    assert (
        said
        == "trackio: http://127.0.0.1:9 cannot be reached; look at the run with: trackio show --project 'my project'"
    )
    assert "TRACKIO_SERVER_URL" not in os.environ
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("TRACKIO_SPACE_ID", "joe/runs")
        assert choose_place("p") == "trackio sends the run to joe/runs"


def trackio_logs(run, folder, store):
    os.environ["TRACKIO_DIR"] = store  # read when trackio is imported
    stop_and_resume(run, folder)
    from trackio.sqlite_storage import SQLiteStorage

    return SQLiteStorage.get_logs("rlhf_hydra", "ppo-tiny/now")


def test_trackio(run, tmp_path):
    pytest.importorskip("trackio")
    run.tracking.use, run.tracking.system = ["trackio"], False
    folder = tmp_path / "ppo-tiny" / "now"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        logs = pool.submit(trackio_logs, run, folder, str(tmp_path / "store")).result()
    same([(k, log["step"], v) for log in logs for k, v in log.items() if "/" in k], folder)
