"""`report.html`, one file that opens offline, and `report.md`."""

import json
import os
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, select_autoescape

from rlhf_hydra.sweep import findings
from rlhf_hydra.sweep.figures import colors, figures, scales, title
from rlhf_hydra.sweep.overview import Report
from rlhf_hydra.sweep.plots import draw
from rlhf_hydra.sweep.runs import LOGS, METRICS, RUN, Trial
from rlhf_hydra.sweep.words import SHORT_NAMES, measured, short_key, shown
from rlhf_hydra.tracking.console import duration

LINKS = {RUN: "config", METRICS: "metrics", "samples.jsonl": "samples"}
"""Files of a run that a reader may want to open, and what the link says."""


def write_pages(report: Report, is_interactive: bool = True) -> None:
    """Both pages and their plots; without Plotly the page shows the plots as they are."""
    plots = draw(report)
    page = contents(report) | {"plots": plots, "is_interactive": is_interactive}
    if is_interactive:
        from plotly.offline import get_plotlyjs

        page |= {"plotly": get_plotlyjs(), "data": embedded(report)}
    else:
        page |= {"pictures": {name: b64encode(file.read_bytes()).decode() for name, file in plots.items()}}
    templates = Environment(
        loader=PackageLoader("rlhf_hydra.sweep"),
        autoescape=select_autoescape(["html.jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {word.__name__: word for word in (shown, measured, short_key, duration, cell)}
    for name in ("report.html", "report.md"):
        text = templates.get_template(f"{name}.jinja").render(page)
        (report.folder / name).write_text(text, encoding="utf-8")


def contents(report: Report) -> dict[str, Any]:
    """What both templates read."""
    trials = report.sweep.trials
    return {
        "report": report,
        "sweep": report.sweep,
        "best": report.best,
        "number": {setting.name: number for number, setting in enumerate(report.settings)},
        "titles": {metric: title(metric) for metric in (*report.metrics, report.objective, findings.KL)},
        "states": states(trials),
        "total_gpu_hours": sum(trial.gpu_hours for trial in trials),
        "total_core_hours": sum(trial.core_hours for trial in trials),
        "links": {trial.name: links(report.folder, trial) for trial in trials},
        "names": SHORT_NAMES,
        "rules": findings,
    }


def states(trials: list[Trial]) -> dict[str, int]:
    """State -> number of trials, most first."""
    names = [trial.state for trial in trials]
    return {name: names.count(name) for name in sorted(set(names), key=lambda name: (-names.count(name), name))}


def links(folder: Path, trial: Trial) -> list[tuple[str, str]]:
    """(text, address) of the trial's folder and of the files in it, relative to the report."""
    files = LINKS | {next((log for log in LOGS if (trial.folder / log).exists()), LOGS[0]): "log"}
    found = [("folder", trial.folder)] + [(text, trial.folder / name) for name, text in files.items()]
    here = folder.resolve()
    return [(text, quote(os.path.relpath(path.resolve(), here))) for text, path in found if path.exists()]


def embedded(report: Report) -> str:
    """Everything that `page.js` reads, as JSON that cannot end its script element."""
    found = {
        "figures": figures(report),
        "colors": {key: list(paint.values()) for key, paint in colors(report).items()},
        "legends": {key: axis.legend for key, axis in scales(report).items()},
    }
    return json.dumps(found, separators=(",", ":")).replace("</", "<\\/")


def cell(text: Any) -> str:
    """Text inside a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")
