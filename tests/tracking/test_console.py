import io

import pytest
from rich.console import Console

from rlhf_hydra.config.schema import CompositeReward, RuleReward
from rlhf_hydra.tracking.console import Terminal, config_tree, duration, sparkline
from rlhf_hydra.tracking.jsonl import JsonLines


def written(console):
    return console.file.getvalue()


def plain(is_terminal=False):
    return Console(file=io.StringIO(), width=140, force_terminal=is_terminal, color_system=None)


def session(run, folder, console, status="done", detail=""):
    lines, terminal = JsonLines(folder), Terminal(run, folder, "python -m rlhf_hydra algo=ppo", console)
    for step in (1, 2, 3):
        metrics = {"reward/mean": 0.25 * step, "policy/kl": 0.001, "response/tokens_mean": 4.0, "time/step_s": 2.0}
        lines.log(metrics, step)
        terminal.log(metrics, step)
    terminal.note("dropped 3 of 10 rows [too long]")
    lines.finish(status)
    terminal.finish(status, detail)
    return written(console)


def test_one_line_a_step_with_rate_and_eta(run, tmp_path):
    text = session(run, tmp_path, plain())
    # 6 steps, 3 done, 2 s each: 6 s are left.
    assert "step 3/6  reward 0.75  kl 0.001  tokens 4  2.00 s/step  ETA 0:06" in text
    assert "dropped 3 of 10 rows [too long]" in text


def test_a_terminal_gets_a_bar(run, tmp_path):
    text = session(run, tmp_path, plain(is_terminal=True))
    assert "step 3/6" in text and "ETA 0:06" in text and "━" in text


def test_the_end_says_where_things_are_and_how_to_repeat_them(run, tmp_path):
    text = session(run, tmp_path, plain())
    assert "done after 3 of 6 steps, 0:06" in text
    assert "metrics.jsonl" in text and "curves.png" not in text  # only what is there
    assert "python -m rlhf_hydra algo=ppo" in text
    assert "task=resume" not in text
    assert "0.25   ▁▅█  0.75" in text  # 0.5 is half way: round(7 * 0.5) = 4, the fifth block


def test_a_failure_shows_its_reason_and_how_to_go_on(run, tmp_path):
    (tmp_path / "a b/checkpoints/step-000002").mkdir(parents=True)
    text = session(run, tmp_path / "a b", plain(), "failed", "ValueError: row 3 [of 9] has no `prompt`")
    assert "ValueError: row 3 [of 9] has no `prompt`" in text
    assert f"task=resume run='{tmp_path}/a b'" in text


def test_a_failure_before_the_first_checkpoint_leaves_nothing_to_go_on_with(run, tmp_path):
    (tmp_path / "checkpoints/step-000001.part").mkdir(parents=True)
    assert "task=resume" not in session(run, tmp_path, plain(), "failed", "no such column")


def test_an_end_before_the_first_step_is_fine(run, tmp_path):
    console = plain()
    Terminal(run, tmp_path, "x", console).finish("stopped", "stopped by SIGTERM")
    assert "stopped after 0 of 6 steps" in written(console)


def test_the_tree_shows_every_key(run):
    run.reward = CompositeReward(name="composite", parts={"form": RuleReward(name="rule", rule="exact", weight=0.5)})
    console = plain()
    console.print(config_tree(run))
    text = written(console)
    assert "advantage  estimator gae" in text and "lam 0.9" in text
    assert "parts.form  name rule · weight 0.5 · rule exact" in text
    assert "revision null" in text


def test_the_tree_marks_what_differs_from_the_schema(run):
    (algo,) = [branch for branch in config_tree(run).children if branch.label.plain.startswith("algo ")]
    leaves = algo.children[0].label  # algo.advantage
    styles = {leaves.plain[span.start : span.end]: str(span.style) for span in leaves.spans}
    assert styles["0.9"] == "bold white" and styles["1.0"] == "dim"  # lam was 0.95, gamma is as it was


@pytest.mark.parametrize(
    ("values", "blocks"),
    [([1.0], "▁"), ([0.0, 0.0], "▁▁"), ([0.0, 7.0, 3.0], "▁█▄"), ([0.0, 2.0, 8.0, 8.0], "▁█")],
)
def test_sparkline(values, blocks):
    # The last is squeezed to two blocks: means 1 and 8.
    assert sparkline(values, width=3 if len(values) < 4 else 2) == blocks


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (75.2, "1:15"), (3661, "1:01:01")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_the_best_model_is_among_what_a_run_leaves(run, tmp_path):
    (tmp_path / "checkpoints/best/model").mkdir(parents=True)
    text = session(run, tmp_path, plain())
    assert "checkpoints/best/model  the best model" in text
    assert "metrics.jsonl           all metrics" in text
