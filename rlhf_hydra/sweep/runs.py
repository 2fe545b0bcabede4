"""Run folders as plain records. A file that is missing or broken is named in `problems`, and the rest is read."""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rlhf_hydra.config.conditions import parse_condition
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.layers import leaves
from rlhf_hydra.config.layout import layout
from rlhf_hydra.config.saved import LOADER, command_in, look_at_run_yaml
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.status import OUTPUT, STATUS, last_lines
from rlhf_hydra.tracking.jsonl import METRICS

SWEEP, RUN = "sweep.json", "run.yaml"
LOGS = (OUTPUT, "run.log")
"""Where the last lines of a failed run are, unless its status says them."""
UNTROUBLED = ("done", "waiting", "queued", "running")
"""States of a trial that has nothing to explain."""
STALE_S = 120.0
"""Age of the last heartbeat from which a trial that says it is running is doubted."""

Curve = dict[int, float]
"""Step -> value, in the order of the steps."""
Value = Any
"""Of a config key: a number, or its text as YAML writes it. None: not known."""


@dataclass(frozen=True)
class Trial:
    """One run folder, as far as it can be read."""

    name: str
    folder: Path
    state: str
    """waiting, queued, running, done, failed, killed, stopped, pruned, or unfinished: nobody said how it ended."""
    overrides: dict[str, str]
    """What was asked for: `{"algo.kl.coef": "0.01"}`."""
    words: list[str]
    """The command line that repeats it, from the program on; [] if unknown."""
    config: dict[str, Value]
    """Every key of the resolved config, defaults included; {} if the run did not get that far."""
    run: RunConfig | None
    """The same typed; None if this version cannot read it."""
    curves: dict[str, Curve]
    seconds: float
    detail: str
    """Last lines of output of a run that did not finish."""
    problems: tuple[str, ...]

    def value(self, key: str) -> Value:
        """Of a dotted key, or the choice of a group such as `algo`; None if it is not known."""
        for name in (key, f"{key}.name"):
            if name in self.config:
                return self.config[name]
        return as_value(self.overrides[key]) if key in self.overrides else None

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The last value of each that was logged."""
        return {metric: next(reversed(curve.values())) for metric, curve in self.curves.items()}

    def last(self, metric: str) -> float | None:
        return self.metrics.get(metric)

    @property
    def gpus(self) -> int:
        """GPUs that its roles sit on; those that are shared count once."""
        roles = layout(self.run).values() if self.run else ()
        return len({gpu for role in roles for gpu in role.all_gpus})

    @property
    def cores(self) -> float:
        """CPU cores that it sets aside where it has no GPU: one, or `cluster.cpus_per_worker` for each Ray worker."""
        if self.run is None or self.gpus:
            return 0
        workers = sum(role.workers for role in layout(self.run).values())
        return workers * self.run.cluster.cpus_per_worker if self.run.cluster.backend == "ray" else 1

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.seconds / 3600

    @property
    def core_hours(self) -> float:
        return self.cores * self.seconds / 3600


@dataclass(frozen=True)
class Sweep:
    """Trials that are looked at together: those of one sweep, or any set of runs."""

    title: str
    trials: list[Trial]
    command: str = ""
    axes: tuple[str, ...] = ()
    """Keys that were swept; () where nobody wrote them down."""
    objective: Objective = field(default_factory=Objective)
    refused: Mapping[str, str] = field(default_factory=dict)
    """What a search has passed over, since it is no sound run -> why."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run."""
        return all(trial.state in ("done", "pruned") for trial in self.trials)


def read_sweep(folders: Sequence[Path]) -> Sweep:
    """A sweep folder, or run folders.

    Raises:
        Failure: a folder is not there, or is neither of the two.
    """
    if len(folders) == 1 and (folders[0] / SWEEP).exists():
        return read_sweep_folder(folders[0])
    for folder in folders:
        if not any((folder / name).exists() for name in (RUN, METRICS, STATUS)):
            says = "there is no such folder" if not folder.is_dir() else f"has no {RUN}, {METRICS} or {SWEEP}"
            raise Failure(f"run={folder}: {says}; give a sweep folder, or run folders: run=[outputs/A,outputs/B]")
    trials = [read_trial(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]
    title = f"{len(trials)} runs" if len(trials) > 1 else trials[0].name
    return Sweep(title, trials, objective=objective_of(trials))


def read_sweep_folder(folder: Path) -> Sweep:
    """A folder with `sweep.json` and `trials/KEY/`; a trial that has not begun is a trial without curves."""
    try:
        facts = json.loads((folder / SWEEP).read_text())
        planned = sorted(facts["trials"].items(), key=lambda item: item[1]["number"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{folder / SWEEP} is not a sweep's: {error!r}; give its run folders instead") from error
    trials = [read_trial(folder / "trials" / key, f"#{trial['number']}", trial["overrides"]) for key, trial in planned]
    return Sweep(
        title=folder.name,
        trials=trials,
        command=facts.get("command") or "",
        axes=tuple(facts.get("axes") or ()),
        objective=replace(
            objective_of(trials[:1]),  # as the sweep took it from its first run
            metric=facts.get("objective"),
            direction=facts.get("direction") or "max",
            conditions=tuple(map(parse_condition, facts.get("constraints") or ())),
        ),
        refused=facts.get("refused") or {},
    )


def objective_of(trials: Sequence[Trial]) -> Objective:
    """What the first run that is evaluated, or names what decides, is for."""
    found = [Objective.of(trial.run) for trial in trials if trial.run]
    return next((each for each in found if each.metric), found[0] if found else Objective())


def read_trial(folder: Path, name: str, overrides: Sequence[str] = ()) -> Trial:
    problems: list[str] = []
    status = read_json(folder / STATUS, problems)
    has_begun = status.get("state") != "waiting" and folder.is_dir()
    is_planned = has_begun or (folder / RUN).exists()
    run, config, words = read_run(folder / RUN, problems) if is_planned else (None, {}, [])
    curves = read_curves(folder / METRICS, problems) if has_begun else {}
    if status and status.get("state") != "done":
        nothing = (f"{METRICS}: missing", f"{METRICS}: empty")  # it did not get that far
        problems = [problem for problem in problems if problem not in nothing]
    state = str(status.get("state") or infer_state(run, curves, folder, has_begun))
    state = "pruned" if status.get("pruned") else state
    if state == "running" and (silent_s := time.time() - (status.get("heartbeat") or 0.0)) > STALE_S:
        problems.append(f"{STATUS}: says running, but was last written {silent_s / 60:.0f} minutes ago")
    return Trial(
        name=name,
        folder=folder,
        state=state,
        overrides=split(overrides or status.get("overrides") or words[3:]),
        words=words,
        config=config,
        run=run,
        curves=curves,
        seconds=(duration(status) or stepping(curves)) if has_begun else 0,
        detail="" if state in UNTROUBLED else str(status.get("detail") or last_words(folder)),
        problems=tuple(problems),
    )


# ------------------------------------------------------------------------------------------------------ its files


def read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    """A JSON object; {} if there is no such file."""
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
        problems.append(f"{path.name}: not a JSON object")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        problems.append(f"{path.name}: {error}")
    return {}


def read_run(path: Path, problems: list[str]) -> tuple[RunConfig | None, dict[str, Value], list[str]]:
    """The run of a `run.yaml`, its keys, and its command line; as much of it as can be read."""
    config: dict[str, Value] = {}
    words: list[str] = []
    try:
        text = path.read_text()
        words = shlex.split(command_in(text))
        config = flat(yaml.load(text, LOADER))
        return look_at_run_yaml(path), config, words
    except FileNotFoundError:
        problems.append(f"{path.name}: missing")
    except ConfigError as error:
        problems.append(f"{path.name}: {error.problems[0].says}")
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        problems.append(f"{path.name}: {str(error).splitlines()[0]}")
    return None, config, words


def flat(config: dict[str, Any]) -> dict[str, Value]:
    """The dotted keys of a resolved config."""
    return {key: worded(value) for key, value in leaves(config) if not key.endswith("_schema_")}


def worded(value: Any) -> Value:
    words = {True: "true", False: "false", None: "null"}
    if value is None or isinstance(value, bool):
        return words[value]
    return value if isinstance(value, int | float) else str(value)


def read_curves(path: Path, problems: list[str]) -> dict[str, Curve]:
    """Every metric of `metrics.jsonl`; lines that cannot be read are named, values that are not finite left out."""
    curves: dict[str, Curve] = {}
    for row in read_rows(path, problems):
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                curves.setdefault(name, {})[row["step"]] = value
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def read_rows(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        problems.append(f"{path.name}: {'missing' if isinstance(error, FileNotFoundError) else error}")
        return
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            says = "cut short" if number == len(lines) else "not JSON"
            problems.append(f"{path.name}, line {number}: {says}, left out")
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row
        else:
            problems.append(f"{path.name}, line {number}: no step, left out")
    if not lines:
        problems.append(f"{path.name}: empty")


def last_words(folder: Path) -> str:
    """The end of the first log that is there."""
    log = next((folder / name for name in LOGS if (folder / name).is_file()), None)
    return last_lines(log) if log else ""


# ----------------------------------------------------------------------------------------------------- small things


def infer_state(run: RunConfig | None, curves: Mapping[str, Curve], folder: Path, has_begun: bool) -> str:
    """Of a run that nobody watched: done if its last step was logged, or, where data or patience end it, its model is
    there."""
    if not has_begun:
        return "waiting"
    reached = max((step for curve in curves.values() for step in curve), default=0)
    is_done = run and (0 < run.steps <= reached or (folder / "model").is_dir())
    return "done" if is_done else "unfinished"


def split(overrides: Sequence[str]) -> dict[str, str]:
    """`["a.b=1"]` -> `{"a.b": "1"}`; flags and their values are left out."""
    pairs = (line.lstrip("+").partition("=") for line in overrides if not line.startswith("-"))
    return {key: value for key, sign, value in pairs if sign}


def as_value(text: str) -> Value:
    """The value that an override's text stands for."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")


def duration(status: Mapping[str, Any]) -> float:
    """Seconds of all attempts, until the end or the last heartbeat; 0 if they were not written down."""
    started, ended = status.get("started"), status.get("ended") or status.get("heartbeat")
    return float(status.get("earlier_s", 0.0)) + (float(ended - started) if started and ended else 0.0)


def stepping(curves: Mapping[str, Curve]) -> float:
    """Seconds spent in steps and evaluations; the start of the run is not in it."""
    return sum(sum(curves.get(name, {}).values()) for name in ("time/step_s", "time/eval_s"))


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many parents as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = next((n for n in range(1, 20) if len({path[-n:] for path in parts}) == len(set(parts))), 20)
    return ["/".join(path[-depth:]) for path in parts]
