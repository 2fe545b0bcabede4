"""What the run is asked to do, how it is judged, and when it ends."""

from collections.abc import Iterator

from rlhf_hydra.config.conditions import parse_condition
from rlhf_hydra.config.errors import Problem
from rlhf_hydra.config.schema import OptunaSweep, RunConfig, Supervised

READ_RUNS = ("resume", "sweep_resume", "rerun", "export", "report", "compare")


def resume(run: RunConfig) -> Iterator[Problem]:
    folders = {"resume": "a run", "sweep_resume": "a sweep"}
    if run.task.name in folders and run.run is None:
        says = f"task={run.task.name} needs the folder of {folders[run.task.name]}"
        yield Problem("", "run", says, "Add run=outputs/ALGO-MODEL/TIME.")
    if run.task.name not in READ_RUNS and run.run is not None:
        yield Problem("", "run", f"task={run.task.name} starts a new run", "Drop it, or add task=resume.")


def runs_to_read(run: RunConfig) -> Iterator[Problem]:
    """A report has at least one folder, a comparison two."""
    folders = run_folders(run)
    if folders is None:
        yield Problem("", "run", "must be a folder or a list of folders", "Write run=FOLDER or run=[FOLDER,FOLDER].")
    elif run.task.name == "report" and not folders:
        fix = "Add run=outputs/sweep/TIME, or run=[FOLDER,FOLDER]."
        yield Problem("", "run", "task=report needs the folder of a sweep, or those of runs", fix)
    elif run.task.name == "compare" and len(folders) != 2:
        yield Problem("", "run", "task=compare needs two folders of runs", "Add run=[outputs/A,outputs/B].")


def run_folders(run: RunConfig) -> list[str] | None:
    """The folders in `run`; None where it is neither a folder nor a list of them."""
    found = [] if run.run is None else run.run if isinstance(run.run, list) else [run.run]
    return found if all(isinstance(folder, str) for folder in found) else None


def sweep(run: RunConfig) -> Iterator[Problem]:
    """Conditions can be read, and a search knows what it is for."""
    cfg = run.sweep
    for text in cfg.constraints:
        try:
            parse_condition(text)
        except ValueError as error:
            fix = "Write 'sweep.constraints=[\"kl <= 15\"]', for example."
            yield Problem("", "sweep.constraints", f"cannot be read: {error}", fix)
    if cfg.backend == "slurm":
        yield from slurm(run)
    if not isinstance(cfg, OptunaSweep):
        return
    if cfg.objective is None and not run.eval.every:
        training = "train/loss" if isinstance(run.algo, Supervised) else "reward/mean"
        fix = f"Set eval.every=10, or name a metric, as in sweep.objective={training}."
        yield Problem("", "sweep.objective", "the search needs to know what is good, and nothing is evaluated", fix)
    if cfg.against and cfg.pruner != "none":
        yield Problem("", "sweep.pruner", "two objectives cannot be pruned", "Drop it, or sweep.against.")


def slurm(run: RunConfig) -> Iterator[Problem]:
    """Each trial is alone in a job on one node."""
    if run.cluster.address:
        says = "each trial of sweep.backend=slurm starts Ray in its own job"
        yield Problem("", "cluster.address", says, "Drop it, or sweep.backend=slurm.")
    if run.cluster.nodes > 1:
        says = "a trial of sweep.backend=slurm has one node"
        fix = "Take a cluster of one node, or start Ray in a job of yours and the sweep on it (launchers/slurm.sbatch)."
        yield Problem("", "cluster.nodes", says, fix)
    cfg = run.sweep.slurm
    if cfg.save_s >= 60 * cfg.time_min:
        says = f"a job of {cfg.time_min} min would be told to save {cfg.save_s} s before its end, so at once"
        yield Problem("", "sweep.slurm.save_s", says, "Lower it, or raise sweep.slurm.time_min.")
    if "requeue" in cfg.options:
        says = "a trial that Slurm takes back is submitted again by the sweep"
        yield Problem("", "sweep.slurm.options", says, "Drop requeue.")
    if isinstance(run.sweep, OptunaSweep) and not run.sweep.max_parallel:
        says = "Optuna chooses by what has ended, so not all trials can wait in Slurm's queue"
        yield Problem("", "sweep.max_parallel", says, "Set it to how many it may keep there, such as 4.")


def evaluation(run: RunConfig) -> Iterator[Problem]:
    samples = run.eval.samples_per_prompt
    if run.eval.every and not all(1 <= k <= samples for k in run.eval.k):
        says = f"pass@k needs k from 1 to eval.samples_per_prompt={samples}"
        yield Problem("", "eval.k", says, f"Set eval.samples_per_prompt={max(1, *run.eval.k)}, or smaller k.")


def best_metric(run: RunConfig) -> Iterator[Problem]:
    best = run.checkpoint.best
    if best is not None and best.startswith("eval/") and not run.eval.every:
        yield Problem("", "checkpoint.best", "the run evaluates nothing", "Set eval.every=10, for example.")


def patience(run: RunConfig) -> Iterator[Problem]:
    cfg = run.checkpoint
    if cfg.patience is not None and not (cfg.best or "").startswith("eval/"):
        fix = "Set checkpoint.best=eval/loss, for example."
        yield Problem("", "checkpoint.patience", "counts evaluations without a better checkpoint.best", fix)


def endless_patience(run: RunConfig) -> Iterator[Problem]:
    if run.checkpoint.patience is not None:
        says = f"algo={run.algo.name} does all of its steps"
        yield Problem("", "checkpoint.patience", says, "Drop it; the best checkpoint is kept anyway.")
