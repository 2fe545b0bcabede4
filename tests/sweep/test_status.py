import json
import multiprocessing
import os
import signal

import pytest

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.sweep.progress import Progress
from rlhf_hydra.sweep.status import Status, ended, last_lines, outcome, read, write


def test_what_is_written_is_read(tmp_path):
    status = Status("running", ["seed=1"], started=1.5, heartbeat=2.5, pid=7, attempt=2)
    write(tmp_path, status)
    assert read(tmp_path) == status
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_no_status_is_none(tmp_path):
    assert read(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", '{"state": "done"', '{"mood": "good"}'])
def test_a_status_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(Failure, match=f"{tmp_path}/status.json cannot be read .*: remove it to run the trial again"):
        read(tmp_path)


def rewrite(folder, times):
    for i in range(times):
        write(folder, Status("failed", detail="x" * 10_000, attempt=i))


def test_a_reader_never_sees_a_part(tmp_path):
    """Ten kilobytes a time, read while another process writes them."""
    write(tmp_path, Status())
    writer = multiprocessing.get_context("spawn").Process(target=rewrite, args=(tmp_path, 500))
    writer.start()
    while writer.is_alive():
        assert read(tmp_path).state in ("waiting", "failed")
    assert writer.exitcode == 0 and read(tmp_path).attempt == 499


@pytest.mark.parametrize(
    ("code", "state"),
    [(0, "done"), (1, "failed"), (2, "failed"), (-9, "killed"), (-6, "killed"), (143, "stopped"), (130, "stopped")],
)
def test_exit_codes(code, state):
    assert outcome(code) == state


def test_a_trial_that_was_asked_to_end_before_it_could_listen_is_stopped():
    assert outcome(-signal.SIGTERM) == "stopped"


def test_a_failure_keeps_its_last_lines(tmp_path):
    output = tmp_path / "output.log"
    output.write_text("".join(f"line {i}\n\n" for i in range(50)) + "KeyError: 'x'\n")
    status = ended(Status("running", started=1.0), 1, 3.0, output)
    assert (status.state, status.exit_code, status.ended) == ("failed", 1, 3.0)
    assert status.detail.splitlines() == [*(f"line {i}" for i in range(36, 50)), "KeyError: 'x'"]
    assert last_lines(output, count=1) == "KeyError: 'x'"


def test_the_last_words_are_those_of_the_last_attempt(tmp_path):
    output = tmp_path / "output.log"
    output.write_text("--- attempt 1\nKeyError: 'x'\n--- attempt 2\n")
    assert last_lines(output) == ""
    output.write_text(output.read_text() + "hello\n")
    assert last_lines(output) == "hello"


def test_pruned_is_final_unless_the_trial_was_done_anyway(tmp_path):
    pruned = Status("running", detail="worse", pruned=True)
    stopped, done = ended(pruned, 143, 1.0, tmp_path), ended(pruned, 0, 1.0, tmp_path)
    assert (stopped.state, stopped.is_final, stopped.detail) == ("stopped", True, "worse")
    assert (done.state, done.pruned, done.detail) == ("done", False, "")


def append(path, *rows):
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_progress_reads_what_is_new_and_no_half_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append(path, {"step": 1, "reward/mean": 0.5, "policy/kl": None, "time/step_s": 2.0})
    progress = Progress(tmp_path)
    assert (progress.step, progress.last) == (1, {"reward/mean": 0.5, "time/step_s": 2.0})
    assert progress.left_s(11) == 20.0  # 10 steps of 2 s
    with path.open("a") as file:
        file.write('{"step": 2, "reward/me')
    assert progress.refresh().step == 1
    with path.open("a") as file:
        file.write('an": 0.75}\n')
    assert progress.refresh().fresh == [(2, {"reward/mean": 0.75})]
    assert progress.refresh().fresh == [] and progress.last["reward/mean"] == 0.75


def test_progress_passes_over_what_is_no_line_of_metrics(tmp_path):
    lines = ["hello", "[1]", "{}", '{"step": "x"}', '{"step": 2, "reward/mean": 0.5}', ""]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert Progress(tmp_path).last == {"reward/mean": 0.5}


def test_silence_is_counted_by_one_clock(tmp_path):
    """Those of the files' machine and of the wall may be wrong, or jump."""
    progress = Progress(tmp_path)
    assert [progress.silent_s(now) for now in (100.0, 107.0)] == [0.0, 7.0]
    (tmp_path / "output.log").write_text("hello")
    os.utime(tmp_path / "output.log", (1, 1))
    assert [progress.silent_s(now) for now in (110.0, 113.0)] == [0.0, 3.0]
    append(tmp_path / "metrics.jsonl", {"step": 1})
    assert progress.silent_s(120.0) == 0.0


def test_progress_begins_again_where_a_resumed_run_does(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append(path, *({"step": i, "reward/mean": 0.0} for i in range(1, 4)))
    progress = Progress(tmp_path)
    aside = tmp_path / "aside"
    append(aside, {"step": 1, "reward/mean": 0.0}, *({"step": 2, "reward/mean": 1.0} for _ in range(9)))
    aside.replace(path)  # longer than before, and another file
    assert progress.refresh().fresh[:2] == [(1, {"reward/mean": 0.0}), (2, {"reward/mean": 1.0})]
