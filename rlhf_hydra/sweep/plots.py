"""The plots of `report.md`, drawn with matplotlib into `plots/*.png`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rlhf_hydra.sweep import figures, findings
from rlhf_hydra.sweep.figures import FAINT, GRID, INK, columns, height, scales, title
from rlhf_hydra.sweep.overview import Report
from rlhf_hydra.sweep.scales import scale
from rlhf_hydra.sweep.words import short_key

PLOTS = "plots"
TICK: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 8}
TICK |= {"bbox": {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1}}


def draw(report: Report) -> dict[str, Path]:
    """Draw what there is data for: name -> file."""
    folder = report.folder / PLOTS
    folder.mkdir(exist_ok=True)
    painters: dict[str, Callable[[Report], Figure | None]] = {
        "kl_reward": kl_reward,
        "curves": curves,
        "parallel": parallel,
        "effects": main_effects,
    }
    found = {}
    for name, painter in painters.items():
        figure = painter(report)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=130)
            found[name] = folder / f"{name}.png"
    return found


def colors(report: Report) -> dict[str, str]:
    """Setting -> colour, by the swept key with the largest effect."""
    return next(iter(figures.colors(report).values()))


def kl_reward(report: Report) -> Figure | None:
    figure, (axes,) = sheet(1, 1, 8.5, 5.0)
    paint, drawn = colors(report), False
    for setting in report.settings:
        points = findings.path(setting, report.objective)
        if not points:
            continue
        drawn = True
        _, kl, values = zip(*points, strict=True)
        color = paint[setting.name]
        axes.plot(kl, values, color=color, linewidth=1.2, alpha=0.45, marker="o", markersize=2.5)
        bars = setting.deviation(report.objective), setting.deviation(findings.KL)
        axes.errorbar(kl[-1], values[-1], *bars, color=color, linewidth=1, capsize=2)
        symbol = "*" if setting is report.best else "o" if setting.state == "done" else "X"
        size = 240 if setting is report.best else 75
        axes.scatter(kl[-1], values[-1], s=size, marker=symbol, color=color, edgecolors="white", zorder=3)
        name = setting.name if figures.is_named(report, setting) else ""
        axes.annotate(name, (kl[-1], values[-1]), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    ends = [findings.path(setting, report.objective)[-1] for setting in report.frontier]
    axes.step([kl for _, kl, _ in ends], [value for *_, value in ends], ":", color=INK, linewidth=1.4, where="post")
    axes.set_xlabel(title(findings.KL), color=FAINT)
    axes.set_ylabel(title(report.objective), color=FAINT)
    key(figure, report)
    return figure if drawn else None


def curves(report: Report) -> Figure | None:
    metrics, paint = report.metrics, colors(report)
    if not metrics:
        return None
    figure, panels = sheet((len(metrics) + 1) // 2, 2, 10.0, 2.7 * ((len(metrics) + 1) // 2) + 0.4)
    for axes, metric in zip(panels, metrics, strict=False):
        for setting in report.settings:
            curve, band, color = setting.curve(metric), setting.band(metric), paint[setting.name]
            axes.plot(list(curve), list(curve.values()), color=color, linewidth=1.5)
            below, above = ([curve[step] + sign * width for step, width in band.items()] for sign in (-1, 1))
            axes.fill_between(list(band), below, above, color=color, alpha=0.15, linewidth=0)
        axes.set_title(title(metric), loc="left", fontsize=10, color=INK)
        axes.set_xlabel("step", fontsize=8, color=FAINT)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    key(figure, report)
    return figure


def parallel(report: Report) -> Figure | None:
    scales, paint = columns(report), colors(report)
    if not report.swept or not findings.finished(report.settings):
        return None
    figure, (axes,) = sheet(1, 1, 1.9 * len(scales) + 1.5, 4.0)
    for setting in findings.finished(report.settings):
        heights: list[Any] = [height(each, setting) for each in scales]
        if None not in heights:
            axes.plot(range(len(scales)), heights, color=paint[setting.name], linewidth=1.7, marker="o", markersize=5)
    for x, each in enumerate(scales):
        axes.axvline(x, color="#9aa5b1", linewidth=1, zorder=0)
        for place, text in each.ticks:
            axes.annotate(text, (x, place), (-6, 0), **TICK)
    axes.set_xticks(range(len(scales)), [short_key(each.key) for each in scales])
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.set_xlim(-0.4, len(scales) - 0.8)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    return figure


def main_effects(report: Report) -> Figure | None:
    if not report.effects:
        return None
    figure, panels = sheet((len(report.effects) + 2) // 3, min(3, len(report.effects)), 10.0, 3.0)
    for axes, effect in zip(panels, report.effects, strict=False):
        axis = scale(effect.key, report.swept[effect.key])
        for setting in findings.finished(report.settings):
            place, end = axis.places.get(setting.value(effect.key)), setting.last(report.objective)
            if place is not None and end is not None:
                axes.scatter(place, end, s=28, color="#7b8794", alpha=0.8, zorder=3)
        places = [axis.places[level.at] for level in effect.levels]
        axes.plot(places, effect.means, color=INK, linewidth=1.6)
        axes.scatter(places, effect.means, s=260, marker="_", color=INK, linewidth=2)
        axes.set_xticks(*zip(*axis.ticks, strict=True))
        axes.set_xlim(-0.05, 1.05)
        axes.set_title(effect.key, loc="left", fontsize=10, color=INK)
    panels[0].set_ylabel(title(report.objective), color=FAINT, fontsize=9)
    for axes in panels[len(report.effects) :]:
        axes.set_visible(False)
    return figure


# -------------------------------------------------------------------------------------------------------------- style


def sheet(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure with its panels, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.grid(color=GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#c5ccd3")
        axes.tick_params(length=0, labelsize=8, colors=FAINT)
        axes.set_axisbelow(True)
    return figure, list(panels.flat)


def key(figure: Figure, report: Report) -> None:
    """Which colour is which value."""
    if not report.swept:
        return
    name, axis = next(iter(scales(report).items()))
    lines = [Line2D([], [], color=color, linewidth=2.5) for _, color in axis.legend]
    names = [text for text, _ in axis.legend]
    figure.legend(lines, names, title=name, loc="outside right upper", frameon=False, fontsize=8)
