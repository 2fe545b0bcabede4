"""What a sweep leaves: `trials.csv`, `settings.csv`, `report.html`, `report.md` with its plots, and `best/`."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import ReportTask
from rlhf_hydra.config.store import new_folder
from rlhf_hydra.sweep import best
from rlhf_hydra.sweep.overview import Report, study
from rlhf_hydra.sweep.runs import SWEEP, Trial, read_sweep
from rlhf_hydra.sweep.settings import Setting
from rlhf_hydra.sweep.terminal import print_report
from rlhf_hydra.sweep.words import measured

TRIALS, SETTINGS = "trials", "settings"


def make_report(folders: Sequence[Path], task: ReportTask, outputs: Path, config_dir: str | None = None) -> Path:
    """`task=report`: write the report of a sweep into its folder, that of other runs into a new one, and print it."""
    sweep = read_sweep(folders)
    try:
        sweep = replace(sweep, objective=sweep.objective.changed(task))
    except ValueError as error:
        raise Failure(f"task.constraints: {error}, as in 'kl <= 0.2'") from None
    place = place_of(folders, outputs)
    report = write(study(sweep, place), config_dir)
    print_report(report, Console(width=None if sys.stdout.isatty() else 120))
    return place


def place_of(folders: Sequence[Path], outputs: Path) -> Path:
    """Where the report of these folders goes; from its root, as the commands in it are used anywhere."""
    if len(folders) == 1 and (folders[0] / SWEEP).exists():
        return folders[0].resolve()
    return Path(new_folder(str(outputs / "report" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"))).resolve()


def write(report: Report, config_dir: str | None = None) -> Report:
    """Write all files; what a package is missing for is noted, and left out."""
    report.folder.mkdir(parents=True, exist_ok=True)
    for name in (*best.FILES, f"{SETTINGS}.csv", f"{SETTINGS}.parquet"):
        (report.folder / name).unlink(missing_ok=True)  # an earlier report may have found another best, or any
    if report.best:
        value = f"{report.objective} {measured(report.best, report.objective)}"
        title = f"{report.best.name} of {report.sweep.title}: {value}"
        try:
            report = replace(report, command=best.write_best(report.folder, report.best, title, config_dir))
        except Failure as failure:
            report.notes.append(f"{failure}.")
    write_tables(report)
    missing = [name for name in ("matplotlib", "jinja2", "plotly", "pyarrow") if find_spec(name) is None]
    if missing:
        report.notes.append(f"Not installed: {', '.join(missing)}. For all of it: pip install 'rlhf_hydra[report]'.")
    if not {"matplotlib", "jinja2"} & set(missing):
        from rlhf_hydra.sweep.page import write_pages  # jinja2 and matplotlib are not part of every installation

        write_pages(report, is_interactive="plotly" not in missing)
    return report


def write_tables(report: Report) -> None:
    """A line for each trial, and where there are several seeds a line for each setting."""
    rows = {t.name: trial_row(report, setting, t) for setting in report.settings for t in setting.trials}
    write_table([rows[trial.name] for trial in report.sweep.trials], report.folder / TRIALS)
    if report.repeats:
        write_table([setting_row(report, setting) for setting in report.settings], report.folder / SETTINGS)


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """CSV, and the same as Parquet where pyarrow is installed."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    if find_spec("pyarrow"):
        import pyarrow
        from pyarrow import parquet

        table = {name: same_type([row.get(name) for row in rows]) for name in columns}
        parquet.write_table(pyarrow.table(table), path.with_suffix(".parquet"))


def trial_row(report: Report, setting: Setting, trial: Trial) -> dict[str, Any]:
    """Everything about a trial in one line: its swept values, and the last value of every metric."""
    row: dict[str, Any] = {"trial": trial.name, "state": trial.state}
    row |= {"setting": setting.name} if report.repeats else {}
    row |= {key: trial.value(key) for key in (*report.swept, *["seed"] * report.repeats)}
    row |= {"objective": trial.last(report.objective), "is_best": setting is report.best}
    row |= {"on_frontier": setting in report.frontier, "signs": "; ".join(report.signs.get(trial.name, []))}
    row |= costs(trial) | {metric: trial.last(metric) for metric in sorted(trial.curves)}
    return row | {"problems": "; ".join(trial.problems), "folder": str(trial.folder)}


def setting_row(report: Report, setting: Setting) -> dict[str, Any]:
    """Mean and standard deviation of every metric over the `n` seeds that are done."""
    row: dict[str, Any] = {"setting": setting.name, "state": setting.states}
    row |= {key: setting.value(key) for key in (*report.swept, "seed")} | {"n": len(setting.counted)}
    values = {"objective": report.objective} | {metric: metric for metric in sorted(setting.metrics)}
    for name, metric in values.items():
        row |= {name: setting.last(metric), f"{name}_std": setting.deviation(metric)}
    row |= {"is_best": setting is report.best, "on_frontier": setting in report.frontier}
    row |= {"signs": "; ".join(report.signs_of(setting))} | costs(setting)
    return row | {"trials": " ".join(trial.name for trial in setting.trials)}


def costs(of: Trial | Setting) -> dict[str, float]:
    return {"seconds": of.seconds, "gpu_hours": of.gpu_hours, "core_hours": of.core_hours}


def same_type(values: list[Any]) -> list[Any]:
    """Values that Arrow can put into one column: as they are, or all as text."""
    kinds = {type(value) for value in values if value is not None}
    return values if len(kinds) <= 1 or kinds == {int, float} else [None if v is None else str(v) for v in values]
