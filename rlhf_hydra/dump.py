"""A step that went wrong, kept so that it can be looked at and run again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from rlhf_hydra.algos.guards import Watch
from rlhf_hydra.algos.table import algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.crew import Crew, start_crew
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.saved import load_run_yaml, save_run_yaml
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.learning import learn
from rlhf_hydra.models.hub import resolve


class Guarded(Failure):
    """A guard has stopped the run."""


class Guardian:
    """Warns or stops at what a `Watch` says; whoever is stopped finds a dump."""

    def __init__(self, watch: Watch, run: RunConfig, folder: Path, crew: Crew, note: Callable[[str], None]) -> None:
        self.watch, self.run, self.folder, self.crew, self.note = watch, run, folder, crew, note

    def check(
        self,
        metrics: Mapping[str, float],
        batch: RolloutBatch,
        step: int,
        kl_coef: float,
        texts: RolloutBatch | None = None,
    ) -> None:
        """After the updates of `step`, made with these `texts` beside. Guarded if the run must stop."""
        fatal = self.watch.skipped_too_often(metrics)
        for limit in self.watch.limits(metrics):
            self.note(f"step {step}: {limit}")
            fatal = fatal or (limit if self.run.guard.action == "stop" else None)
        if fatal:
            dump = self.folder / "dumps" / f"step-{step:06d}"
            write(dump, self.run, self.crew, batch, step, kl_coef, texts)
            raise Guarded(f"step {step}: {fatal}. `python -m rlhf_hydra.dump {dump}` runs its updates again")


def write(
    folder: Path,
    run: RunConfig,
    crew: Crew,
    batch: RolloutBatch,
    step: int,
    kl_coef: float,
    texts: RolloutBatch | None = None,
) -> None:
    """The batch and the given texts as dicts of tensors, the run, and the weights and optimizers as they are now."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("batch", batch), ("texts", texts)):
        if rows is not None:
            torch.save(tensors(rows), folder / f"{name}.pt")
    save_run_yaml(run, folder / "run.yaml", f"python -m rlhf_hydra.dump {folder}")
    (folder / "step.json").write_text(json.dumps({"step": step, "kl_coef": kl_coef}) + "\n")
    crew.save(folder.resolve())


def tensors(batch: RolloutBatch) -> dict[str, Any]:
    """The fields that are there; images as lists."""
    return {f.name: getattr(batch, f.name) for f in fields(batch) if getattr(batch, f.name) is not None}


def written(file: Path) -> RolloutBatch | None:
    return RolloutBatch(**torch.load(file, weights_only=True)) if file.exists() else None


def replay(folder: Path) -> dict[str, float]:
    """Make the dumped step's updates again, in roles started as the run's were; their metrics."""
    run = load_run_yaml(folder / "run.yaml")
    about = json.loads((folder / "step.json").read_text())
    batch, texts = (written(folder / f"{name}.pt") for name in ("batch", "texts"))
    assert batch is not None, f"{folder} holds no batch.pt"
    model = resolve(run.model.path, run.model.hub, run.model.revision)
    with start_crew(run, algorithm(run.rl, run.rollout), model, print) as crew:
        crew.load(folder.resolve())
        return learn(crew, batch, run, about["step"], about["kl_coef"], texts)


if __name__ == "__main__":
    import sys

    print(json.dumps(replay(Path(sys.argv[1])), indent=1))
