"""A report as the terminal shows it."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_hydra.sweep.overview import Report
from rlhf_hydra.sweep.runs import Trial
from rlhf_hydra.sweep.table import COLORS
from rlhf_hydra.sweep.words import SHORT_NAMES, measured, short_key, shown
from rlhf_hydra.tracking.console import duration

FILES = ("report.html", "report.md", "trials.csv", "settings.csv", "best/experiment.yaml")


def print_report(report: Report, console: Console) -> None:
    console.print(Text(heading(report), style="bold"), soft_wrap=True)
    console.print(fitting_table(report, console))
    for name, found in report.signs.items():
        console.print(Text(f"sign of reward hacking in {name}: {'; '.join(found)}", style="yellow"), soft_wrap=True)
    for trial in report.failures:
        if trial.state == "pruned":
            continue  # was meant to end
        console.print(Text(f"{trial.name} {trial.state}: {last_word(trial)}", style="red"), soft_wrap=True)
    for note in report.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)
    lines = [(name, str(report.folder / name)) for name in FILES if (report.folder / name).exists()]
    if report.best:
        lines.append(("best", f"{report.best.name}: {report.objective} {measured(report.best, report.objective)}"))
    if report.command:
        lines.append(("run the best again", report.command))
    if report.sweep.command and not report.sweep.is_over:
        lines.append(("run what is missing", again(report.folder)))
    for name, text in lines:
        console.print(f"{name:<22}{text}", highlight=False, markup=False, soft_wrap=True)


def again(folder: Path) -> str:
    """The command that runs what is missing."""
    return shlex.join(["python", "-m", "rlhf_hydra", "task=sweep_resume", f"run={folder}"])


def last_word(trial: Trial) -> str:
    """The error, or else the last line that it left."""
    lines = trial.detail.strip().splitlines()[::-1]
    return next((line for line in lines if line.startswith("error: ")), next(iter(lines), "left no word"))


def fitting_table(report: Report, console: Console) -> Table:
    """With as many metrics as there is room for, the objective at least; the files have all of them."""
    wide = console.options.update(max_width=1000)
    tables = (table(report, report.columns[:count]) for count in range(len(report.columns), 0, -1))
    fits = (each for each in tables if console.measure(each, options=wide).maximum <= console.width)
    return next(fits, table(report, report.columns[:1]))


def table(report: Report, metrics: Sequence[str]) -> Table:
    """One line a setting, the best first, `*` on the frontier; over several seeds mean ± standard deviation."""
    found = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("trial", "state", *map(short_key, report.swept)):
        found.add_column(name, no_wrap=name == "trial", overflow="ellipsis")
    for name in (*(SHORT_NAMES.get(metric, metric) for metric in metrics), "time", report.cost_name, ""):
        found.add_column(name, justify="right", no_wrap=True)
    for setting in report.in_order:
        flags = (
            "best" * (setting is report.best),
            "*" * (setting in report.frontier),
            "!" * bool(report.signs_of(setting)),
        )
        found.add_row(
            setting.name,
            Text(setting.states, style=COLORS[setting.state]),
            *(shown(setting.value(key)) for key in report.swept),
            *(measured(setting, metric) for metric in metrics),
            duration(setting.seconds),
            f"{report.cost(setting):.3g}",
            " ".join(filter(None, flags)),
            style="bold" if setting is report.best else "",
        )
    return found


def heading(report: Report) -> str:
    """`2026-11-22_20-00-00: 4 done, 1 failed, 1 waiting`."""
    states = Counter(trial.state for trial in report.sweep.trials)
    counts = [f"{states[state]} {state}" for state in COLORS if state in states]
    return f"{report.sweep.title}: {', '.join(counts)}"
