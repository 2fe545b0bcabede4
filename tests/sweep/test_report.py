"""From run folders to the files of a report."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from driving import SMALL, compose
from matplotlib.image import imread
from run_folders import leave_run, leave_sweep, trial

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.export import comparable
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import ReportTask
from rlhf_hydra.sweep import page
from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.overview import study
from rlhf_hydra.sweep.report import make_report, write_tables
from rlhf_hydra.sweep.runs import Sweep, read_sweep
from rlhf_hydra.sweep.scales import RAMP, scale
from rlhf_hydra.sweep.terminal import table
from rlhf_hydra.tasks import begin

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
BASE = ["eval.every=4", "steps=12", "outputs=here"]
LAST_WORDS = "RewardError: row 17: <b>nan</b> is no reward"


def curves(speed: float, until: int = 12) -> dict[str, dict[int, float]]:
    """Learning at this speed, and KL that follows it."""
    steps = range(1, until + 1)
    return {
        "reward/mean": {step: 0.1 + speed * step for step in steps},
        "policy/kl": {step: 0.02 * speed * 30 * step for step in steps},
        "policy/entropy": {step: 2 - speed * step for step in steps},
        "response/tokens_mean": {step: 20.0 + step for step in steps},
        "eval/mean": {step: 0.1 + speed * step for step in (0, 4, 8, 12) if step <= until},
        "time/step_s": {step: 30.0 for step in steps},
    }


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep of 2 x 3 trials, of which one failed and one has not begun, with its report."""
    folder = tmp_path_factory.mktemp("outputs") / "kl & lr"
    settings = [(coef, lr) for coef in (0.01, 0.1) for lr in ("1e-6", "2e-6", "4e-6")]
    own = {f"{n}-abc": [f"algo.kl.coef={coef}", f"policy.optim.lr={lr}"] for n, (coef, lr) in enumerate(settings)}
    leave_sweep(folder, own, axes={"algo.kl.coef": [], "policy.optim.lr": []}, objective="eval/mean", direction="max")
    for number, (key, lines) in enumerate(own.items()):
        state = {1: "failed", 5: "waiting"}.get(number, "done")
        until = {"failed": 5, "waiting": 0}.get(state, 12)
        leave_run(
            folder / "trials" / key,
            [*BASE, *lines],
            curves(0.01 + 0.01 * number, until),
            state=state,
            started=1000.0,
            ended=1000.0 + 1800,
            detail=f"step 5\n{LAST_WORDS}" if state == "failed" else "",
        )
    make_report([folder], ReportTask(name="report"), folder.parent)
    return folder


# ------------------------------------------------------------------------------------------------------ reading runs


def test_a_sweep_is_read_with_what_became_of_each_trial(sweep):
    found = read_sweep([sweep])
    assert [each.state for each in found.trials] == ["done", "failed", "done", "done", "done", "waiting"]
    assert found.trials[1].detail.endswith(LAST_WORDS) and found.trials[0].detail == ""
    assert found.trials[0].value("policy.optim.lr") == 1e-6 and found.trials[5].value("policy.optim.lr") == 4e-6
    assert found.trials[0].value("algo") == "ppo" and found.trials[0].value("engine.sleep") == "false"
    assert found.trials[0].core_hours == 0.5 and found.trials[0].gpu_hours == 0  # half an hour of one process


def test_gpus_that_roles_share_are_paid_for_once(tmp_path):
    folder = leave_run(
        tmp_path / "a", ["cluster=a100x8", "model=qwen2.5-0.5b", "data=gsm8k"], {}, started=0.5, ended=7200.5
    )
    found = read_sweep([folder]).trials[0]
    assert (found.gpus, found.gpu_hours, found.core_hours) == (8, 16, 0)


def test_a_plain_run_is_done_when_its_last_step_was_logged(tmp_path):
    whole = leave_run(
        tmp_path / "a/whole", ["steps=3"], {"reward/mean": {1: 0.1, 2: 0.2, 3: 0.3}, "time/step_s": {1: 2.0, 2: 3.0}}
    )
    cut = leave_run(tmp_path / "b/cut", ["steps=3", "seed=7"], {"reward/mean": {1: 0.1}})
    (cut / "run.log").write_text("\n".join(f"line {n}" for n in range(50)))
    found = read_sweep([whole, cut])
    assert [(each.name, each.state) for each in found.trials] == [("whole", "done"), ("cut", "unfinished")]
    assert found.trials[0].seconds == 5
    assert found.trials[1].overrides == {"steps": "3", "seed": "7"} and found.trials[1].detail.endswith(
        "line 48\nline 49"
    )


def test_a_trial_that_died_with_its_sweep_is_doubted(tmp_path):
    folder = leave_run(tmp_path / "a", [], {"reward/mean": {1: 0.5}}, state="running", heartbeat=1.7e9)
    (problem,) = read_sweep([folder]).trials[0].problems
    assert problem.startswith("status.json: says running, but was last written")


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    folders = [leave_run(tmp_path / name / "0", [], {}) for name in ("x", "y")]
    assert [each.name for each in read_sweep(folders).trials] == ["x/0", "y/0"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("metrics.jsonl", None, "metrics.jsonl: missing"),
        ("metrics.jsonl", "", "metrics.jsonl: empty"),
        (
            "metrics.jsonl",
            '{"step": 1, "reward/mean": 0.5}\n{"step": 2, "rew',
            "metrics.jsonl, line 2: cut short, left out",
        ),
        ("metrics.jsonl", 'hello\n{"step": 1, "reward/mean": 0.5}\n', "metrics.jsonl, line 1: not JSON, left out"),
        (
            "metrics.jsonl",
            '{"reward/mean": 1}\n{"step": 1, "reward/mean": 0.5}\n',
            "metrics.jsonl, line 1: no step, left out",
        ),
        ("run.yaml", None, "run.yaml: missing"),
        ("run.yaml", "steps: [", "run.yaml: "),
        ("run.yaml", "steps: 3\nflux: 1\n", "run.yaml: is not a run.yaml of this version"),
        ("status.json", '{"state": "do', "status.json: "),
        ("status.json", "[]", "status.json: not a JSON object"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_rest_is_reported(tmp_path, name, text, problem):
    bad, good = (
        leave_run(tmp_path / each, ["steps=1"], {"reward/mean": {1: 0.5}}, state="done") for each in ("bad", "good")
    )
    (bad / name).unlink()
    if text is not None:
        (bad / name).write_text(text)
    report = study(read_sweep([bad, good]), tmp_path)
    assert any(note.startswith(f"bad: {problem}") for note in report.notes)
    write_tables(report)
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["bad", "good"] and rows[1]["problems"] == ""
    assert rows[0]["reward/mean"] == ("" if text in (None, "") and name == "metrics.jsonl" else "0.5")


def test_a_value_that_is_not_finite_is_a_gap(tmp_path):
    folder = leave_run(tmp_path / "a", ["steps=3"], {"policy/kl": {1: 0.1, 2: float("nan"), 3: 0.3}})
    assert read_sweep([folder]).trials[0].curves["policy/kl"] == {1: 0.1, 3: 0.3}


@pytest.mark.parametrize(
    ("make", "says"),
    [(None, "there is no such folder"), ("folder", "has no run.yaml, metrics.jsonl or sweep.json")],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, make, says):
    if make:
        (tmp_path / "x").mkdir()
    with pytest.raises(Failure, match=f"run=.*x: {says}"):
        read_sweep([tmp_path / "x"])


# ------------------------------------------------------------------------------------------------------------- files


def test_the_table_has_a_line_for_each_trial_and_the_same_in_parquet(sweep):
    from pyarrow import parquet

    rows = list(csv.DictReader((sweep / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["#0", "#1", "#2", "#3", "#4", "#5"]
    # speeds 0.01 ... 0.05; after 12 steps trial 4 has 0.1 + 0.05 x 12 = 0.7 at a KL of 0.6 x 0.05 x 12 = 0.36
    assert float(rows[4]["objective"]) == pytest.approx(0.7) and float(rows[4]["policy/kl"]) == pytest.approx(0.36)
    assert [row["is_best"] for row in rows] == ["False"] * 4 + ["True", "False"]
    assert rows[0]["policy.optim.lr"] == "1e-06" and rows[5]["objective"] == ""
    columns = parquet.read_table(sweep / "trials.parquet").to_pydict()
    assert list(columns) == list(rows[0])
    assert columns["objective"][4] == pytest.approx(0.7) and columns["objective"][5] is None


def test_the_best_is_an_experiment_that_composes_to_the_very_run(sweep):
    report = (sweep / "report.md").read_text()
    command = next(line for line in report.splitlines() if "experiment=best" in line)
    assert command == f"python -m rlhf_hydra --config-dir '{sweep}/best' experiment=best"
    text = (sweep / "best/experiment.yaml").read_text()
    assert text == (sweep / "best/experiment/best.yaml").read_text()
    values = text.partition("experiment=best\n")[2]
    assert values == "algo:\n  kl:\n    coef: 0.1\npolicy:\n  optim:\n    lr: 2.0e-06\neval:\n  every: 4\nsteps: 12\n"
    from rlhf_hydra.config.compose import Composer

    again = checked_run(["experiment=best"], Composer(str(sweep / "best")))
    own = ["algo.kl.coef=0.1", "policy.optim.lr=2e-6"]
    assert comparable(again) == comparable(checked_run([*BASE, *own]))


def test_the_page_needs_nothing_but_itself_and_its_links_lead_somewhere(sweep):
    html = (sweep / "report.html").read_text()
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?(?!data:)", html)
    for text in (html, (sweep / "report.md").read_text()):
        links = re.findall(r"(?:href=\"|\]\()([^#\")]+)", text.partition('id="data"')[0])
        assert len(links) > 10
        assert [link for link in links if not (sweep / unquote(link)).exists()] == []
    assert "&lt;b&gt;nan&lt;/b&gt; is no reward" in html and "kl &amp; lr" in html


def test_the_markdown_says_what_the_page_says(sweep):
    text = (sweep / "report.md").read_text()
    assert "6 trials: 4 done, 1 failed, 1 waiting. Objective: max `eval/mean`. 0 GPU hours, 2.5 core hours." in text
    assert LAST_WORDS in text
    assert re.search(r"\| \[#4\]\(trials/4-abc\) \| done \| 0.1 \| 2e-06 \| 0.7 \|.*\*\*best\*\* frontier", text)
    # lr 1e-6: trials 0 and 3, (0.22 + 0.58) / 2; lr 2e-6: trial 4 alone, for trial 1 failed
    assert "| policy.optim.lr | 1e-06 | 2 | 0.4 |" in text and "| policy.optim.lr | 2e-06 | 1 | 0.7 |" in text
    assert "| `policy.optim.lr` | 1e-06 | #0 #3 |" in text
    assert "outputs" not in text.partition("## Differences")[2]
    for name in ("kl_reward", "curves", "parallel", "effects"):
        pixels = imread(sweep / f"plots/{name}.png")[..., :3]
        assert 0.005 < (pixels < 0.98).any(axis=-1).mean() < 0.5  # drawn on, and not all over


def test_signs_and_constraints_reach_the_reader(tmp_path):
    fast = {"eval/mean": {0: 0.1, 4: 0.9, 8: 0.5, 12: 0.3}}
    honest = leave_run(tmp_path / "honest", BASE, curves(0.01))
    gaming = leave_run(tmp_path / "gaming", [*BASE, "algo.kl.coef=0.001"], curves(0.02) | fast)
    task = ReportTask(name="report", objective="eval/mean", constraints=["kl <= 0.1"])
    place = make_report([honest, gaming], task, tmp_path / "outputs")
    text = (place / "report.md").read_text()
    assert place.parent == tmp_path / "outputs/report"
    assert "- **gaming** evaluation falls: 0.9 at its best, 0.3 now" in text
    assert "Not policy/kl <= 0.1, so not the best: gaming." in text and "## Best: honest" in text
    row = list(csv.DictReader((place / "trials.csv").open()))[1]
    assert row["signs"].startswith("evaluation falls")


def test_a_report_made_again_leaves_no_best_of_before(tmp_path):
    leave_run(tmp_path / "s/trials/a", BASE, curves(0.01), state="done")
    folder = leave_sweep(tmp_path / "s", {"a": []}, objective="eval/mean")
    make_report([folder], ReportTask(name="report"), tmp_path)
    assert (folder / "best/experiment.yaml").exists()
    make_report([folder], ReportTask(name="report", constraints=["kl < 0"]), tmp_path)
    assert not (folder / "best/experiment.yaml").exists()
    assert "None is the best" in (folder / "report.md").read_text()


def test_seeds_are_one_line_and_the_best_is_no_seed(tmp_path):
    """The first setting has the best seed, the second the best mean; a third lacks a seed."""
    ends = {
        ("1e-6", 7): 0.9,
        ("1e-6", 8): 0.1,
        ("2e-6", 7): 0.6,
        ("2e-6", 8): 0.5,
        ("4e-6", 7): 0.95,
        ("4e-6", 8): None,
    }
    own = {f"{n}-x": [f"policy.optim.lr={lr}", f"seed={seed}"] for n, (lr, seed) in enumerate(ends)}
    folder = leave_sweep(tmp_path / "s", own, axes={"policy.optim.lr": [], "seed": []}, objective="eval/mean")
    for (key, lines), end in zip(own.items(), ends.values(), strict=True):
        found = {} if end is None else curves(0.01) | {"eval/mean": {0: 0.1, 12: end}}
        leave_run(folder / "trials" / key, [*BASE, *lines], found, state="waiting" if end is None else "done")
    make_report([folder], ReportTask(name="report"), tmp_path)
    first, second, third = csv.DictReader((folder / "settings.csv").open())
    assert [row["setting"] for row in (first, second, third)] == ["#0 ×2", "#2 ×2", "#4 ×2"]
    # (0.6 + 0.5) / 2 = 0.55, and 0.05 x sqrt(2) apart
    assert (second["seed"], second["n"], second["is_best"]) == ("7, 8", "2", "True")
    assert float(second["objective"]) == pytest.approx(0.55)
    assert float(second["objective_std"]) == pytest.approx(0.05 * 2**0.5)
    assert (third["state"], third["n"], third["objective_std"]) == ("1 done, 1 waiting", "1", "")
    assert "seed" not in (folder / "best/experiment.yaml").read_text().partition("seed=7,8\n")[2]
    text = (folder / "report.md").read_text()
    assert f"--config-dir {folder}/best -m experiment=best seed=7,8" in text and "is not all of" not in text
    assert "| [#2](trials/2-x) [#3](trials/3-x) | done | 2e-06 | 0.55 ± 0.071 |" in text
    assert "Not ranked before all of their seeds are done: #4 ×2." in text
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [row["setting"] for row in rows] == ["#0 ×2"] * 2 + ["#2 ×2"] * 2 + ["#4 ×2"] * 2


def test_a_supervised_sweep_is_judged_by_its_evaluation_loss(tmp_path):
    for beta, loss in (("0.1", 0.4), ("0.3", 0.2)):
        logged = {"train/loss": {1: 0.7, 2: 0.1}, "eval/loss": {0: 0.7, 2: loss}, "eval/accuracy": {0: 0.0, 2: 1.0}}
        leave_run(tmp_path / beta, ["algo=dpo", "eval.every=2", "steps=2", f"algo.beta={beta}"], logged)
    place = make_report([tmp_path / "0.1", tmp_path / "0.3"], ReportTask(name="report"), tmp_path)
    text, html = ((place / name).read_text() for name in ("report.md", "report.html"))
    assert "Objective: min `eval/loss`" in text and "## Best: 0.3" in text
    assert "KL against reward" not in html and "Signs of reward hacking" not in html
    assert "| trial | state | algo.beta | eval/loss | train/loss | eval/accuracy |" in text


def test_without_plotly_the_page_shows_the_plots(sweep, tmp_path):
    shutil.copytree(sweep, tmp_path / "copy")
    report = study(read_sweep([tmp_path / "copy"]), tmp_path / "copy")
    page.write_pages(report, is_interactive=False)
    html = (tmp_path / "copy/report.html").read_text()
    assert html.count("data:image/png;base64,") == 4 and len(html) < 1_000_000 and "<script" not in html


def test_a_sweep_that_has_only_begun_is_reported(tmp_path):
    folder = leave_sweep(tmp_path / "s", {"0-a": ["seed=1"], "1-b": ["seed=2"]}, objective=None)
    make_report([folder], ReportTask(name="report"), tmp_path)
    assert "2 trials: 2 waiting" in (folder / "report.md").read_text()
    assert not (folder / "best").exists()


def test_the_best_comes_first_in_the_terminal_and_the_rest_in_order():
    values = {"a": 0.3, "b": 0.9, "c": 0.6}
    trials = [trial(name, {"eval/mean": {1: value}, "policy/kl": {1: 1 - value}}) for name, value in values.items()]
    wanted = Sweep("s", [*trials, trial("d", {}, state="failed")], objective=Objective("eval/mean"))
    found = table(study(wanted, Path("here")))
    assert list(found.columns[0].cells) == ["b", "c", "a", "d"]


# -------------------------------------------------------------------------------------------------------------- scales


def test_few_values_stand_apart_equally_and_many_where_they_belong():
    few = scale("k", [0.1, 0.001, 0.01])
    assert [few.places[value] for value in (0.001, 0.01, 0.1)] == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    assert few.colors[0.001] == RAMP[0] and few.colors[0.1] == RAMP[-1]
    many = scale("k", [10.0**-n for n in range(1, 10)])  # over 8 decades, so logarithmic
    assert many.places[1e-5] == pytest.approx(0.5) and many.is_many
    assert [text for text, _ in many.legend] == ["1e-09", "1e-07", "1e-05", "0.001", "0.1"]
    assert len(set(scale("k", ["ppo", "grpo"]).colors.values())) == 2


# --------------------------------------------------------------------------------------------------- the command line

PROBE = """
import sys
from rlhf_hydra.__main__ import main
main()
assert not {"torch", "ray", "vllm", "transformers"} & set(sys.modules)
"""


def test_the_command_line_reads_patterns_and_imports_nothing_heavy(sweep, tmp_path):
    words = ["task=report", f'run="{sweep}/trials/[034]-*"', f"outputs={tmp_path}", "task.objective=eval/mean"]
    done = subprocess.run([sys.executable, "-c", PROBE, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 runs") and "run the best again" in done.stdout
    assert [path.name for path in tmp_path.glob("report/*/*")]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["task=report", "run=nowhere"], 2, "error: run=nowhere (command line): there is no such folder"),
        (["task=report", "run=no*where"], 2, "error: run=no*where (command line): matches no folder"),
        (["task=compare", "run=[a,b]", "-m"], 2, "error: -m: all runs are read at once"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path, words, code, says):
    command = [sys.executable, "-m", "rlhf_hydra", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.startswith(says)) == (code, True), done.stderr


# ------------------------------------------------------------------------------------------------------- the real thing


def test_two_real_runs_become_a_report(tmp_path):
    options = [*SMALL, "algo=ppo", "steps=3", "eval.every=1", "eval.limit=8"]
    folders = [tmp_path / str(seed) for seed in (1, 2)]
    for folder in folders:
        folder.mkdir()
        own = [*options, f"seed={folder.name}"]
        begin(compose(*own), folder, " ".join(["python -m rlhf_hydra", *own]))
    place = make_report(folders, ReportTask(name="report"), tmp_path)
    rows = list(csv.DictReader((place / "trials.csv").open()))
    assert [row["state"] for row in rows] == ["done", "done"] and [row["seed"] for row in rows] == ["1", "2"]
    assert all(float(row["seconds"]) > 0 and row["problems"] == "" and row["eval/pass@1"] for row in rows)
    assert (place / "best/experiment.yaml").exists()
    assert "is not all of" not in (place / "report.md").read_text()


# ------------------------------------------------------------------------------------------------------- in a browser

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
FLAGS += ["--hide-scrollbars", "--window-size=1280,3000", "--virtual-time-budget=10000", "--dump-dom"]
METRICS = ("eval/mean", "reward/mean", "policy/kl", "response/tokens_mean", "policy/entropy")
needs_browser = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium to look at the page with: apt-get install chromium"
)


def dom(page_file: Path, tmp_path: Path, *flags: str) -> str:
    """The page as it is once its scripts have run."""
    words = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}/profile", *flags, page_file.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=True).stdout


def lines(html: str) -> int:
    return html.count('class="js-line"')


@needs_browser
def test_the_page_draws_its_figures(sweep, tmp_path):
    html = dom(sweep / "report.html", tmp_path, f"--screenshot={tmp_path}/page.png")
    divs = [tag for tag in re.findall(r"<div[^>]+data-figure[^>]+>", html) if "js-plotly-plot" in tag]
    wanted = {
        "kl_reward",
        "parallel",
        "effect-algo.kl.coef",
        "effect-policy.optim.lr",
        *(f"curve-{m}" for m in METRICS),
    }
    assert {re.search('data-figure="([^"]+)"', tag)[1] for tag in divs} == wanted
    # 5 ways and the frontier; 5 trials in 5 curves; 4 finished ones side by side; the means of two keys
    assert lines(html) == 6 + 25 + 4 + 2
    assert html.count('<option value="') == 3  # two keys, and the trial, to colour by
    pixels = imread(tmp_path / "page.png")[..., :3]
    colorful = (pixels.max(axis=-1) - pixels.min(axis=-1)) > 0.25
    assert colorful.sum() > 5000  # coloured lines and points, on a page of greys


@needs_browser
def test_a_click_hides_a_trial_in_every_figure_and_colours_change(sweep, tmp_path):
    clicks = """<script>
        document.querySelector('tr[data-line="4"]').click();
        const by = document.getElementById("by");
        by.value = "algo.kl.coef";
        by.dispatchEvent(new Event("change"));
    </script></body>"""
    (tmp_path / "page.html").write_text((sweep / "report.html").read_text().replace("</body>", clicks))
    html = dom(tmp_path / "page.html", tmp_path)
    assert lines(html) == 37 - 1 - 5 - 1  # without its way, its curves, and its line among the settings
    assert re.search('<tr data-line="4" class="first off"', html)
    legend = html.partition('id="legend"')[2].partition("</div>")[0]
    assert re.findall("</i>([^<]+)<", legend) == ["0.01", "0.1"]
