"""The interactive figures of the page, as Plotly's own JSON; `templates/page.js` draws, colours and toggles them.

Every trace says in `meta` which setting it belongs to (its number in the report), so one click hides it everywhere.
"""

from typing import Any

from rlhf_hydra.sweep import findings
from rlhf_hydra.sweep.objective import LOSS
from rlhf_hydra.sweep.overview import Report
from rlhf_hydra.sweep.runs import Curve
from rlhf_hydra.sweep.scales import KINDS, Scale, scale, spread
from rlhf_hydra.sweep.settings import Setting
from rlhf_hydra.sweep.words import shown

Figure = dict[str, Any]

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
INK, FAINT, GRID = "#1f2933", "#66727f", "#e8ebef"
CROWD = 20
"""Settings from which their names would cover each other."""
TITLES = {
    findings.KL: "KL to the reference, nats per token",
    findings.REWARD: "training reward",
    findings.EVAL: "evaluation: mean reward",
    findings.LENGTH: "response tokens",
    findings.ENTROPY: "entropy, nats per token",
    LOSS: "training loss",
    "eval/loss": "evaluation: loss",
    "train/accuracy": "training accuracy",
    "eval/accuracy": "evaluation: accuracy",
    "train/margin": "training: reward of chosen less rejected",
    "eval/margin": "evaluation: reward of chosen less rejected",
    "train/kl": "training: divergence, nats",
    "eval/kl": "evaluation: divergence, nats",
}


def title(metric: str) -> str:
    return TITLES.get(metric, metric)


def scales(report: Report) -> dict[str, Scale]:
    """Places and colours of every swept key, the one with the largest effect first."""
    order = [effect.key for effect in report.effects] + list(report.swept)
    return {key: scale(key, report.swept[key]) for key in dict.fromkeys(order)}


def colors(report: Report) -> dict[str, dict[str, str]]:
    """What the settings can be coloured by: key -> setting -> colour."""
    found = {
        key: {setting.name: each.colors.get(setting.value(key), FAINT) for setting in report.settings}
        for key, each in scales(report).items()
    }
    return found | {"trial": {each.name: KINDS[number % len(KINDS)] for number, each in enumerate(report.settings)}}


def label(report: Report, setting: Setting) -> str:
    """A setting with its swept values, a line each."""
    values = [f"{key} = {shown(setting.value(key))}" for key in report.swept]
    seeds = [f"mean of seeds {setting.value('seed')}"] if len(setting.trials) > 1 else []
    return "<br>".join([f"<b>{setting.name}</b> {setting.states}", *values, *seeds])


def figures(report: Report) -> dict[str, Figure]:
    """Name -> figure; a figure without data is left out."""
    found = {"kl_reward": kl_reward(report)}
    found |= {f"curve-{metric}": curves(report, metric) for metric in report.metrics}
    found |= {"parallel": parallel(report)}
    found |= {f"effect-{effect.key}": main_effect(report, effect) for effect in report.effects}
    return {name: figure for name, figure in found.items() if figure["data"]}


# ------------------------------------------------------------------------------------------------- KL against reward


def kl_reward(report: Report) -> Figure:
    """Each setting's way through KL and objective, its end, and the frontier of the ends."""
    data = [stairs(report)] if report.frontier else []
    for number, setting in enumerate(report.settings):
        points = findings.path(setting, report.objective)
        if points:
            data += [way(report, number, setting, points), end(report, number, setting, points[-1])]
    y = {"title": {"text": title(report.objective)}}
    return {"data": data, "layout": layout(480, xaxis={"title": {"text": title(findings.KL)}}, yaxis=y)}


def way(report: Report, number: int, setting: Setting, points: list[tuple[int, float, float]]) -> Figure:
    steps, kl, values = zip(*points, strict=True)
    return trace(number, kl, values, "lines+markers") | {
        "opacity": 0.45,
        "line": {"width": 1.6},
        "marker": {"size": 4},
        "text": [f"step {step}" for step in steps],
        "hovertemplate": f"{label(report, setting)}<br>%{{text}}: KL %{{x:.4g}}, %{{y:.4g}}<extra></extra>",
    }


def end(report: Report, number: int, setting: Setting, point: tuple[int, float, float]) -> Figure:
    """The last step; over several seeds a bar of one standard deviation to each side."""
    is_best, is_done = setting is report.best, setting.state == "done"
    bars = {"error_x": setting.deviation(findings.KL), "error_y": setting.deviation(report.objective)}
    symbol = "star" if is_best else "circle" if is_done else "x"
    return trace(number, [point[1]], [point[2]], "markers+text") | {
        "marker": {"size": 18 if is_best else 12, "symbol": symbol, "line": {"color": "white", "width": 1.5}},
        "text": [setting.name if is_named(report, setting) else ""],
        "textposition": "top center",
        "textfont": {"size": 11, "color": FAINT},
        "hovertemplate": f"{label(report, setting)}<br>end: KL %{{x:.4g}}, %{{y:.4g}}<extra></extra>",
        **{name: {"array": [bar], "thickness": 1.2, "width": 3} for name, bar in bars.items() if bar is not None},
    }


def is_named(report: Report, setting: Setting) -> bool:
    """Whether its name stands beside its point: of many settings, only on the frontier."""
    return len(report.settings) <= CROWD or setting in report.frontier


def stairs(report: Report) -> Figure:
    """The frontier: what is reached at most up to each KL."""
    points = [findings.path(setting, report.objective)[-1] for setting in report.frontier]
    return trace(-1, [point[1] for point in points], [point[2] for point in points], "lines") | {
        "line": {"color": INK, "width": 1.6, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }


# ------------------------------------------------------------------------------------------ curves, parallel, effects


def curves(report: Report, metric: str) -> Figure:
    """A line a setting, and over several seeds a band of one standard deviation to each side."""
    data = []
    for number, setting in enumerate(report.settings):
        if band := setting.band(metric):
            data.append(shade(number, setting.curve(metric), band))
        if curve := setting.curve(metric):
            data.append(
                trace(number, list(curve), list(curve.values()), "lines" if len(curve) > 40 else "lines+markers")
                | {
                    "line": {"width": 1.8},
                    "marker": {"size": 4},
                    "hovertemplate": f"{label(report, setting)}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
                }
            )
    return {"data": data, "layout": layout(250, title=title(metric), xaxis={"title": {"text": "step"}})}


def shade(number: int, curve: Curve, band: Curve) -> Figure:
    """The area between mean - deviation and mean + deviation: there along one edge, and back along the other."""
    above = [curve[step] + deviation for step, deviation in band.items()]
    below = [curve[step] - deviation for step, deviation in band.items()]
    found = trace(number, [*band, *reversed(band)], [*above, *reversed(below)], "lines")
    return found | {"fill": "toself", "line": {"width": 0}, "opacity": 0.3, "hoverinfo": "skip"}


def columns(report: Report) -> list[Scale]:
    """The axes of the parallel coordinates: the swept keys, the KL, and the objective last."""
    found = list(scales(report).values())
    for metric in dict.fromkeys((findings.KL, report.objective)):
        ends = [value for each in findings.finished(report.settings) if (value := each.last(metric)) is not None]
        if ends:
            found.append(Scale(metric, *spread(ends, is_log=False), {}))
    return found


def parallel(report: Report) -> Figure:
    """One line a finished setting, through its swept values to what it reached."""
    axes = columns(report)
    data = []
    for number, setting in enumerate(report.settings):
        heights = [height(axis, setting) for axis in axes]
        if setting.state == "done" and report.swept and None not in heights:
            data.append(
                trace(number, list(range(len(axes))), heights, "lines+markers")
                | {
                    "line": {"width": 2},
                    "marker": {"size": 7},
                    "hovertemplate": f"{label(report, setting)}<extra></extra>",
                }
            )
    return {"data": data, "layout": parallel_layout(axes)}


def height(axis: Scale, setting: Setting) -> float | None:
    """Where the setting's line meets an axis; None if it has no value there."""
    return axis.places.get(setting.value(axis.key) if axis.colors else setting.last(axis.key))


def parallel_layout(axes: list[Scale]) -> Figure:
    """Upright axes with their ticks."""
    ticks = [
        {"x": x, "y": place, "text": text, "showarrow": False, "xanchor": "right", "xshift": -9}
        | {"font": {"size": 11, "color": FAINT}, "bgcolor": "rgba(255,255,255,0.85)", "borderpad": 1}
        for x, axis in enumerate(axes)
        for place, text in axis.ticks
    ]
    upright = {"type": "line", "y0": 0, "y1": 1, "line": {"color": "#9aa5b1", "width": 1.2}, "layer": "below"}
    lines = [upright | {"x0": x, "x1": x} for x in range(len(axes))]
    names = [wrapped(axis.key) for axis in axes]
    xaxis = {"tickvals": list(range(len(axes))), "ticktext": names, "side": "top", "showgrid": False, "zeroline": False}
    xaxis |= {"range": [-0.45, len(axes) - 0.75], "tickfont": {"size": 12, "color": INK}, "fixedrange": True}
    found = layout(380, xaxis=xaxis, yaxis={"visible": False, "range": [-0.06, 1.06], "fixedrange": True})
    return found | {"annotations": ticks, "shapes": lines, "margin": {"l": 50, "r": 20, "t": 50, "b": 16}}


def wrapped(key: str) -> str:
    """A dotted key on two lines, its last word in bold."""
    section, _, last = key.rpartition(".")
    return f"{section}<br><b>{last}</b>" if section else f"<b>{key}</b>"


def main_effect(report: Report, effect: findings.Effect) -> Figure:
    """The settings at each value, and the means."""
    axis = scale(effect.key, report.swept[effect.key])
    means = trace(-1, [axis.places[level.at] for level in effect.levels], effect.means, "lines+markers") | {
        "line": {"color": INK, "width": 2},
        "marker": {"symbol": "line-ew-open", "size": 22, "color": INK, "line": {"width": 2.5}},
        "text": [level.name for level in effect.levels],
        "hovertemplate": "%{text}: mean %{y:.4g}<extra></extra>",
    }
    dots = [
        trace(number, [axis.places.get(setting.value(effect.key))], [value], "markers")
        | {"marker": {"size": 9}, "hovertemplate": f"{label(report, setting)}<br>%{{y:.4g}}<extra></extra>"}
        for number, setting in enumerate(report.settings)
        if setting.state == "done" and (value := setting.last(report.objective)) is not None
    ]
    places, texts = zip(*axis.ticks, strict=True)
    xaxis = {"tickvals": places, "ticktext": texts, "range": [-0.05, 1.05], "showgrid": False}
    return {"data": [means, *dots], "layout": layout(250, title=effect.key, xaxis=xaxis)}


# -------------------------------------------------------------------------------------------------------------- style


def trace(number: int, x: Any, y: Any, mode: str) -> Figure:
    """A scatter of one setting; -1: of all of them."""
    return {"type": "scatter", "x": list(x), "y": list(y), "mode": mode, "meta": number, "showlegend": False}


def layout(height: int, title: str = "", **axes: Figure) -> Figure:
    found: Figure = {"height": height, "paper_bgcolor": "white", "plot_bgcolor": "white", "hovermode": "closest"}
    found["font"] = {"family": FONT, "size": 12, "color": INK}
    found["margin"] = {"l": 56, "r": 16, "t": 40 if title else 16, "b": 40}
    found["hoverlabel"] = {"bgcolor": "white", "bordercolor": "#c5ccd3", "font": {"color": INK}, "align": "left"}
    if title:
        found["title"] = {"text": title, "x": 0.01, "xanchor": "left", "font": {"size": 13, "color": INK}}
    for name in ("xaxis", "yaxis"):
        usual = {"gridcolor": GRID, "zeroline": False, "linecolor": "#c5ccd3", "tickfont": {"size": 11, "color": FAINT}}
        found[name] = usual | {"automargin": True} | axes.get(name, {})
        if "title" in found[name]:
            found[name]["title"] = found[name]["title"] | {"standoff": 6, "font": {"size": 11, "color": FAINT}}
    return found
