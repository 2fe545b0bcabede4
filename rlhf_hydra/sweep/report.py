"""What a sweep leaves: a table, `trials.csv`, `report.html`, `report.md` with its plots, and `best/`."""

import csv
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.export import composes_to, experiment_yaml
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import ReportTask
from rlhf_hydra.config.store import new_folder
from rlhf_hydra.sweep import findings
from rlhf_hydra.sweep.runs import SWEEP, UNTROUBLED, Sweep, Trial, read_sweep

COLORS = {"done": "green", "failed": "red", "killed": "red", "stopped": "yellow", "unfinished": "yellow"}
BEST = ("best/experiment.yaml", "best/experiment/best.yaml")
"""To read, and the same where `--config-dir` finds it."""
SHORT_NAMES = {
    findings.REWARD: "reward",
    findings.EVAL: "eval",
    findings.KL: "kl",
    findings.LENGTH: "tokens",
    findings.ENTROPY: "entropy",
}


@dataclass(frozen=True)
class Report:
    """A sweep with everything that is found in it."""

    sweep: Sweep
    folder: Path
    """Where the report lies; links start there."""
    objective: str
    swept: dict[str, list[Any]]
    best: Trial | None
    frontier: list[Trial]
    effects: list[findings.Effect]
    signs: dict[str, list[str]]
    """Trial -> signs of reward hacking; those without are left out."""
    differences: dict[str, dict[Any, list[str]]]
    notes: list[str] = field(default_factory=list)
    """What the reader should know of how this came about."""
    command: str = ""
    """What runs the best trial again; empty if there is none."""

    @property
    def metrics(self) -> list[str]:
        """What the table and the plots show, the objective first."""
        known = [self.objective, findings.REWARD, findings.KL, findings.LENGTH, findings.ENTROPY]
        logged = {metric for trial in self.sweep.trials for metric in trial.curves}
        return [metric for metric in dict.fromkeys(known) if metric in logged]

    @property
    def failures(self) -> list[Trial]:
        return [trial for trial in self.sweep.trials if trial.state not in UNTROUBLED]


def make_report(folders: Sequence[Path], task: ReportTask, outputs: Path, config_dir: str | None = None) -> Path:
    """`task=report`: write the report of a sweep into its folder, that of other runs into a new one, and print it."""
    sweep = read_sweep(folders)
    changes = {"objective": task.objective, "direction": task.direction, "constraints": tuple(task.constraints)}
    sweep = replace(sweep, **{key: value for key, value in changes.items() if value})  # type: ignore[arg-type]
    place = place_of(folders, outputs)
    report = write(study(sweep, place), config_dir)
    print_report(report, Console(width=None if sys.stdout.isatty() else 120))
    return place


def place_of(folders: Sequence[Path], outputs: Path) -> Path:
    """Where the report of these folders goes."""
    if len(folders) == 1 and (folders[0] / SWEEP).exists():
        return folders[0]
    return Path(new_folder(str(outputs / "report" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")))


def study(sweep: Sweep, folder: Path) -> Report:
    """Find everything that there is to say; writes nothing."""
    report = Report(
        sweep=sweep,
        folder=folder,
        objective=findings.objective(sweep),
        swept=findings.swept(sweep),
        best=findings.best(sweep),
        frontier=findings.frontier(sweep),
        effects=findings.effects(sweep),
        signs={trial.name: found for trial in sweep.trials if (found := findings.signs(trial))},
        differences=findings.differences(sweep.trials),
    )
    report.notes.extend(remarks(report))
    return report


def remarks(report: Report) -> list[str]:
    """Why the best is the best, or why there is none, and what could not be read."""
    sweep, found = report.sweep, []
    if report.objective == findings.REWARD and sweep.objective is None:
        found.append(
            "None is the best: no trial was evaluated, and the training reward cannot tell learning from reward "
            "hacking. Set eval.every, or name what decides with task.objective=METRIC."
        )
    elif report.best is None:
        found.append(f"None is the best: no trial has finished, within the constraints, with a {report.objective}.")
    out = [trial.name for trial in findings.finished(sweep) if findings.broken(trial, sweep.constraints)]
    if out:
        found.append(f"Not {' and '.join(sweep.constraints)}, so not the best: {', '.join(out)}.")
    blind = [trial.name for trial in findings.finished(sweep) if not trial.curves.get(findings.KL)]
    if blind:
        found.append(f"No KL was measured (algo.kl.coef=0), so not on the frontier: {', '.join(blind)}.")
    problems = dict.fromkeys(problem for trial in sweep.trials for problem in trial.problems)
    named = {problem: [trial.name for trial in sweep.trials if problem in trial.problems] for problem in problems}
    return found + [f"{', '.join(names)}: {problem}." for problem, names in named.items()]


# ----------------------------------------------------------------------------------------------------------- files


def write(report: Report, config_dir: str | None = None) -> Report:
    """Write all files; what a package is missing for is noted, and left out."""
    report.folder.mkdir(parents=True, exist_ok=True)
    for name in BEST:
        (report.folder / name).unlink(missing_ok=True)  # an earlier report may have found another best, or any
    if report.best:
        report = replace(report, command=write_best(report, report.best, config_dir))
    write_table(report)
    missing = [name for name in ("matplotlib", "jinja2", "plotly", "pyarrow") if find_spec(name) is None]
    if missing:
        report.notes.append(f"Not installed: {', '.join(missing)}. For all of it: pip install 'rlhf_hydra[report]'.")
    if not {"matplotlib", "jinja2"} & set(missing):
        from rlhf_hydra.sweep.page import write_pages  # jinja2 and matplotlib are not part of every installation

        write_pages(report, is_interactive="plotly" not in missing)
    return report


def write_table(report: Report) -> None:
    """`trials.csv`, and the same as `trials.parquet` where pyarrow is installed."""
    rows = [csv_row(report, trial) for trial in report.sweep.trials]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (report.folder / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    if find_spec("pyarrow"):
        import pyarrow
        from pyarrow import parquet

        table = {name: same_type([row.get(name) for row in rows]) for name in columns}
        parquet.write_table(pyarrow.table(table), report.folder / "trials.parquet")


def csv_row(report: Report, trial: Trial) -> dict[str, Any]:
    """Everything about a trial in one line: its swept values, and the last value of every metric."""
    row: dict[str, Any] = {"trial": trial.name, "state": trial.state}
    row |= {key: trial.value(key) for key in report.swept}
    row |= {"objective": trial.last(report.objective), "is_best": trial is report.best}
    row |= {"on_frontier": trial in report.frontier, "signs": "; ".join(report.signs.get(trial.name, []))}
    row |= {"seconds": trial.seconds, "gpu_hours": trial.gpu_hours, "core_hours": trial.core_hours}
    row |= {metric: trial.last(metric) for metric in sorted(trial.curves)}
    return row | {"problems": "; ".join(trial.problems), "folder": str(trial.folder)}


def same_type(values: list[Any]) -> list[Any]:
    """Values that Arrow can put into one column: as they are, or all as text."""
    kinds = {type(value) for value in values if value is not None}
    return values if len(kinds) <= 1 or kinds == {int, float} else [None if v is None else str(v) for v in values]


def write_best(report: Report, trial: Trial, config_dir: str | None) -> str:
    """`best/experiment.yaml` and the command that runs it, checked to compose to the very run."""
    if trial.run is None:
        report.notes.append(f"best/experiment.yaml was not written: the run.yaml of {trial.name} cannot be read.")
        return ""
    team = config_dir or folder_of(trial.words)
    search = [f"hydra.searchpath=[file://{Path(team).resolve()}]"] if team else []
    words = ["python", "-m", "rlhf_hydra", "--config-dir", str(report.folder / "best"), "experiment=best", *search]
    command = shlex.join(words)
    header = f"# @package _global_\n# Trial {trial.name} of {report.sweep.title}. Run it again:\n#   {command}\n"
    try:
        text = header + experiment_yaml(trial.run, Composer(team))
        for name in BEST:
            (report.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (report.folder / name).write_text(text)
        wrong = composes_to(trial.run, report.folder / "best", ["experiment=best", *search])
    except (ConfigError, Failure) as error:
        report.notes.append(f"best/experiment.yaml was not written: {error}")
        return ""
    if wrong:
        report.notes.append(f"best/experiment.yaml is not all of trial {trial.name}: it lacks {', '.join(wrong)}.")
    return command


def folder_of(words: Sequence[str]) -> str | None:
    """The folder of team configs in a command line."""
    found = [after for word, after in zip(words, words[1:], strict=False) if word in ("--config-dir", "-cd")]
    return found[0] if found else None


# -------------------------------------------------------------------------------------------------------- terminal


def print_report(report: Report, console: Console) -> None:
    console.print(table(report))
    for name, found in report.signs.items():
        console.print(Text(f"sign of reward hacking in {name}: {'; '.join(found)}", style="yellow"), soft_wrap=True)
    for trial in report.failures:
        lines = trial.detail.strip().splitlines()
        console.print(Text(f"{trial.name} {trial.state}: {lines[-1] if lines else 'left no word'}", style="red"))
    for note in report.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)
    for name in ("report.html", "report.md", "trials.csv", "best/experiment.yaml"):
        if (report.folder / name).exists():
            console.print(f"{name:<22}{report.folder / name}", highlight=False, soft_wrap=True)
    if report.command:
        console.print(f"run the best again    {report.command}", highlight=False, markup=False, soft_wrap=True)


def table(report: Report) -> Table:
    """One line a trial, the best first, `*` on the frontier."""
    found = Table(title=report.sweep.title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in ("trial", "state", *map(short_key, report.swept)):
        found.add_column(name)
    for name in (*(SHORT_NAMES.get(metric, metric) for metric in report.metrics), "time", cost_name(report), ""):
        found.add_column(name, justify="right")
    for trial in ranked(report):
        flags = "best" * (trial is report.best), "*" * (trial in report.frontier), "!" * (trial.name in report.signs)
        found.add_row(
            trial.name,
            Text(trial.state, style=COLORS.get(trial.state, "")),
            *(shown(trial.value(key)) for key in report.swept),
            *(shown(trial.last(metric)) for metric in report.metrics),
            clock(trial.seconds),
            f"{cost(report, trial):.3g}",
            " ".join(flag for flag in flags if flag),
            style="bold" if trial is report.best else "",
        )
    return found


def ranked(report: Report) -> list[Trial]:
    """By the objective, best first; then those without a value."""
    sign = -1 if report.sweep.direction == "max" else 1

    def place(trial: Trial) -> tuple[bool, bool, float]:
        value = trial.last(report.objective)
        return trial is not report.best, value is None or trial.state != "done", sign * (value or 0.0)

    return sorted(report.sweep.trials, key=place)


def short_key(key: str) -> str:
    """The last two words of a key."""
    return ".".join(key.split(".")[-2:])


def shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """3:20:01, or 5:07."""
    hours, minutes, rest = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def uses_gpus(report: Report) -> bool:
    return any(trial.gpus for trial in report.sweep.trials)


def cost_name(report: Report) -> str:
    return "GPU h" if uses_gpus(report) else "core h"


def cost(report: Report, trial: Trial) -> float:
    return trial.gpu_hours if uses_gpus(report) else trial.core_hours
