"""The terminal: what the run is, how far it is, and where everything ended up."""

import atexit
import shlex
import statistics
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from rlhf_hydra.config.layout import unread_parts
from rlhf_hydra.config.schema import RunConfig, Section
from rlhf_hydra.config.secrets import redact
from rlhf_hydra.tracking import jsonl
from rlhf_hydra.tracking.tracker import Status, Tracker

KEYS = {
    "reward/mean": "reward",
    "policy/kl": "kl",
    "response/tokens_mean": "tokens",
    "train/loss": "loss",
    "train/accuracy": "accuracy",
    "train/kl": "kl",
    "eval/loss": "eval loss",
    "eval/accuracy": "eval accuracy",
    "eval/mean": "eval",
    "eval/pass@1": "pass@1",
}
"""The metrics that a person watches, and what they are called on a line."""

CONTENTS = {
    "model": "the trained model, a Hugging Face folder",
    "model-ema": "the moving average of its weights",
    "checkpoints/best/model": "the best model, by checkpoint.best",
    "curves.png": "curves",
    "metrics.jsonl": "all metrics, one line a step",
    "samples.jsonl": "responses with their rewards",
    "checkpoints": "to go on from",
    "run.yaml": "the resolved config",
}
"""What may lie in a run folder, in the order in which one looks."""

COLORS = {"done": "green", "stopped": "yellow", "failed": "red"}


class Terminal(Tracker):
    """A progress bar with rate, ETA and the key numbers on a terminal; elsewhere one plain line a step."""

    def __init__(self, run: RunConfig, folder: Path, command: str, console: Console | None = None) -> None:
        self._console = console or Console(width=None if sys.stdout.isatty() else 120)
        self._steps = run.steps
        self._folder = folder
        self._command = command
        self._step_s: deque[float] = deque(maxlen=20)
        self._bar = _bar(self._console)
        self._task: TaskID | None = None
        self._console.print(config_tree(run), "")

    def log(self, metrics: dict[str, float], step: int) -> None:
        if "time/step_s" in metrics:
            self._step_s.append(metrics["time/step_s"])
        numbers, rate = key_numbers(metrics), self._rate(step)
        if not self._console.is_terminal:
            self._console.print(f"step {step}/{self._steps}  {numbers}  {rate}", highlight=False)
            return
        if self._task is None:
            self._task = self._bar.add_task("step", total=self._steps, numbers=numbers, rate=rate)
            atexit.register(self._bar.stop)  # gives the cursor back should nobody call `finish`
            self._bar.start()
        self._bar.update(self._task, completed=step, numbers=numbers, rate=rate)

    def _rate(self, step: int) -> str:
        """Usual seconds per step of the last 20 (the first one often compiles), and what is left at that rate."""
        if not self._step_s:
            return ""
        pace = statistics.median(self._step_s)
        return f"{pace:.2f} s/step  ETA {duration(pace * (self._steps - step))}"

    def expect(self, steps: int) -> None:
        self._steps = steps

    def note(self, text: str) -> None:
        self._say(Text.assemble(("· ", "dim"), redact(text)))

    def finish(self, status: Status, detail: str = "") -> None:
        self._bar.stop()
        rows = jsonl.read(self._folder / jsonl.METRICS)
        parts: list[RenderableType] = [Text(detail, style=COLORS[status])] if detail else []
        parts += [curves(rows)] if rows else []
        done = rows[-1]["step"] if rows else 0
        title = f"[bold]{status}[/] after {done} of {self._steps} steps, {_spent(rows)}"
        panel = Panel(Group(*parts), title=title, title_align="left", border_style=COLORS[status], expand=False)
        self._console.print("", panel)
        self._say_places(status)

    def _say_places(self, status: Status) -> None:
        """The folder, what is in it, and the commands that repeat the run or go on with it."""
        self._say(Text.assemble(("folder  ", "bold"), str(self._folder)))
        found = [name for name in CONTENTS if holds_something(self._folder / name)]
        for name in found:
            self._say(Text.assemble(f"        {name:<{max(map(len, found))}}  ", (CONTENTS[name], "dim")))
        self._say(Text.assemble(("repeat  ", "bold"), self._command))
        if any(self._folder.glob("checkpoints/step-*[0-9]")) and status != "done":
            again = f"python -m rlhf_hydra task=resume run={shlex.quote(str(self._folder))}"
            self._say(Text.assemble(("go on   ", "bold"), again))

    def _say(self, text: Text) -> None:
        """A line that the terminal may wrap, so that paths and commands can be copied whole."""
        self._console.print(text, soft_wrap=True)


def holds_something(place: Path) -> bool:
    return place.is_dir() or (place.is_file() and place.stat().st_size > 0)


def config_tree(run: RunConfig) -> Tree:
    """What the run reads: a branch per section, its values behind its name, bright where they are not the schema's."""
    usual = type(run)()
    tree = Tree(_label("run", run, usual), guide_style="dim")
    _grow(tree, run, usual, unread_parts(run))
    return tree


def _grow(tree: Tree, section: Section, reference: Section, hidden: Sequence[str] = ()) -> None:
    usual = _values(reference)
    for key, value in _values(section).items():
        for name, child in _sections(key, value):
            if name in hidden:
                continue
            default = usual.get(key)
            like = default if type(default) is type(child) else type(child)()
            _grow(tree.add(_label(name, child, like)), child, like)


def _label(name: str, section: Section, reference: Section) -> Text:
    usual = _values(reference)
    leaves = [_leaf(k, redact(v, k), usual.get(k)) for k, v in _values(section).items() if not _sections(k, v)]
    return Text.assemble((f"{name}  ", "bold cyan"), Text(" · ", style="dim").join(leaves))


def _sections(key: str, value: Any) -> list[tuple[str, Section]]:
    """The sections in a value of a config, if any: itself, or the values of a dict of sections."""
    if isinstance(value, Section):
        return [(key, value)]
    children = value.items() if isinstance(value, Mapping) else []
    return [(f"{key}.{name}", child) for name, child in children if isinstance(child, Section)]


def _values(section: Section) -> dict[str, Any]:
    return {field.name: vars(section)[field.name] for field in fields(section)}  # type: ignore[arg-type]


def _leaf(key: str, value: Any, usual: Any) -> Text:
    yaml_words = {"None": "null", "True": "true", "False": "false"}
    shown = yaml_words.get(str(value), str(value))
    return Text.assemble((f"{key} ", "dim"), (shown, "dim" if value == usual else "bold white"))


def key_numbers(metrics: Mapping[str, float]) -> str:
    """`reward 0.812  kl 0.0031  tokens 4`."""
    return "  ".join(f"{name} {metrics[key]:.3g}" for key, name in KEYS.items() if key in metrics)


def curves(rows: list[dict[str, Any]]) -> Table:
    """First and last value of the key metrics, and the way between as a line of blocks."""
    table = Table.grid(padding=(0, 2))
    for key, name in KEYS.items():
        values = [row[key] for row in rows if row.get(key) is not None]
        if values:
            table.add_row(f"[bold]{name}", f"{values[0]:.3g}", f"[cyan]{sparkline(values)}", f"{values[-1]:.3g}")
    return table


def sparkline(values: list[float], width: int = 48) -> str:
    """`values` in at most `width` blocks between their least and largest; each block is the mean of its share."""
    count = min(width, len(values))
    edges = [i * len(values) // count for i in range(count + 1)]
    means = [statistics.fmean(values[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    low, span = min(means), max(means) - min(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (mean - low) / span) if span else 0] for mean in means)


def duration(seconds: float) -> str:
    """`75.2` as `1:15`, `3661` as `1:01:01`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _spent(rows: list[dict[str, Any]]) -> str:
    return duration(sum(row.get("time/step_s") or row.get("time/eval_s") or 0.0 for row in rows))


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]step {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=24),
        TextColumn("[cyan]{task.fields[numbers]}"),
        TextColumn("[dim]{task.fields[rate]}"),
        console=console,
    )
