"""The curves of a run as one picture."""

from pathlib import Path
from typing import Any

from rlhf_hydra.tracking import jsonl
from rlhf_hydra.tracking.tracker import Status, Tracker

CURVES = "curves.png"

PANELS = {
    "reward/mean": ("reward", "#1a7f5a"),
    "policy/kl": ("KL to the reference, per token", "#b4532a"),
    "response/tokens_mean": ("response tokens", "#2f5f9e"),
    "train/loss": ("training loss", "#5b4a9b"),
    "train/accuracy": ("training accuracy", "#1a7f5a"),
    "train/margin": ("training: reward of the chosen less that of the rejected", "#b4532a"),
    "train/kl": ("training: KL", "#b4532a"),
    "eval/loss": ("evaluation loss", "#8a6d1d"),
    "eval/accuracy": ("evaluation accuracy", "#0f6f7a"),
    "eval/mean": ("evaluation: reward", "#0f6f7a"),
    "eval/pass@1": ("evaluation: pass@1", "#8a6d1d"),
}
"""Metric -> title and colour; a run gets a panel for each that it logged."""


class Curves(Tracker):
    """Draws curves.png when the run ends, however it ends."""

    def __init__(self, folder: Path, title: str) -> None:
        self._folder = folder
        self._title = title

    def finish(self, status: Status, detail: str = "") -> None:
        draw(jsonl.read(self._folder / jsonl.METRICS), self._folder / CURVES, self._title)


def draw(rows: list[dict[str, Any]], png: Path, title: str) -> bool:
    """Draw the `PANELS` that occur in `rows` below each other; False, and no file, if there are none."""
    keys = [key for key in PANELS if any(row.get(key) is not None for row in rows)]
    if not keys:
        return False
    from matplotlib.figure import Figure  # a second of import, for the end of a run only
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    figure = Figure(figsize=(8, 1.2 + 1.9 * len(keys)), dpi=120, layout=layout)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, fontweight="bold", color="#222222")
    axes = figure.subplots(len(keys), 1, sharex=True, squeeze=False)[:, 0]
    for axis, key in zip(axes, keys, strict=True):
        _panel(axis, key, [(row["step"], row[key]) for row in rows if row.get(key) is not None])
    axes[-1].set_xlabel("step", fontsize=9, color="#444444")
    figure.savefig(png)
    return True


def _panel(axis: Any, key: str, points: list[tuple[int, float]]) -> None:
    """One curve, its last value written at its end."""
    title, color = PANELS[key]
    steps, values = zip(*points, strict=True)
    axis.plot(steps, values, color=color, linewidth=1.8, marker="o" if len(points) < 30 else None, markersize=3)
    axis.annotate(
        f"{values[-1]:.3g}", (steps[-1], values[-1]), (6, 0), textcoords="offset points", color=color, fontsize=9
    )
    axis.set_title(title, loc="left", fontsize=9, color="#444444")
    axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color("#bbbbbb")
    axis.tick_params(length=0, labelsize=8, colors="#444444")
    axis.margins(x=0.02, y=0.15)
    axis.xaxis.get_major_locator().set_params(integer=True)
