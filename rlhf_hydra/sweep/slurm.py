"""Trials as elements of Slurm job arrays, through submitit; the only file that knows it.

The sweep goes on watching the folders of its trials, which must therefore be on a file system that the nodes share.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from rlhf_hydra.cluster.hardware import bundles
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.sweep.child import Child
from rlhf_hydra.sweep.place import POLL_S, Command, command_of, environment
from rlhf_hydra.sweep.room import Amounts, Room
from rlhf_hydra.sweep.status import OUTPUT, Status
from rlhf_hydra.sweep.trial import Trial

STOP = ".stop"
"""File that asks a trial to save and end."""
LAG_S = 15.0
"""How long the exit code of a job that has ended may take to be seen on another machine."""
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "READY", "UNKNOWN"}
TAKEN_BACK = {"PREEMPTED", "TIMEOUT", "NODE_FAIL"}
"""States of a job that has ended through no fault of its own."""
STOPPED, KILLED = 128 + signal.SIGTERM, -signal.SIGKILL
NO_LIMIT = 100_000


def parameters(run: RunConfig) -> dict[str, Any]:
    """What an array of trials like `run` asks of sbatch, under submitit's names."""
    cfg, is_ray = run.sweep.slurm, run.cluster.backend == "ray"
    reserved = bundles(run) if is_ray else []
    gpus = sum("GPU" in bundle for bundle in reserved) if is_ray else min(1, run.cluster.gpus_per_node)
    cores = 1 + math.ceil(round(sum(bundle["CPU"] for bundle in reserved), 6))
    asked = {
        "job_name": "rlhf_hydra",
        "partition": cfg.partition,
        "account": cfg.account,
        "qos": cfg.qos,
        "constraint": cfg.constraint,
        "time": cfg.time_min,
        "nodes": 1,
        "ntasks_per_node": 1,
        "gpus_per_node": cfg.gpus_per_node or gpus or None,
        "cpus_per_task": cfg.cpus_per_task or cores,
        "mem": f"{cfg.mem_gib:g}G" if cfg.mem_gib else None,
        "signal_delay_s": cfg.save_s,
        "array_parallelism": run.sweep.max_parallel or NO_LIMIT,
        "stderr_to_stdout": True,
        "setup": list(cfg.setup) or None,
        # The sweep itself begins a trial again that was taken back.
        "additional_parameters": {**cfg.options, "no-requeue": True},
    }
    return {name: value for name, value in asked.items() if value is not None}


def run_trial(command: Sequence[str], folder: str, attempt: int) -> int:
    """What a job does: the trial as a sweep runs it on its own machine; its exit code.

    SIGTERM (preemption, scancel), SIGUSR2 (the time limit is near) and the file `.stop` let it save and end.
    """
    stop = Path(folder) / STOP
    stop.unlink(missing_ok=True)
    variables = {name: value for name, value in environment(None, 1).items() if name != "RAY_ADDRESS"}
    child = Child(command, Path(folder), variables, attempt)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: child.stop())
    try:
        while (code := child.poll()) is None:
            if stop.exists():
                stop.unlink()
                child.stop()
            time.sleep(POLL_S)
        return code
    finally:
        child.kill()


class Element:
    """The job of a trial; without one until the array is submitted."""

    def __init__(self, trial: Trial, attempt: int, job: Any = None) -> None:
        self.trial, self.attempt, self.job = trial, attempt, job
        self.code: int | None = None
        self.gone_at: float | None = None

    @property
    def handle(self) -> dict[str, Any]:
        return {"job": self.job and str(self.job.job_id)}

    def has_begun(self) -> bool:
        return self.job is not None and self.job.paths.stdout.exists()

    def poll(self) -> int | None:
        if self.code is None and self.job is not None:
            self.code = self._result() if self.job.paths.result_pickle.exists() else self._lost()
        return self.code

    def _result(self) -> int:
        error = self.job.exception()
        if error is not None:
            self._note(str(error))
        return 1 if error is not None else self.job.result()

    def _lost(self) -> int | None:
        """The exit code of a job that has ended without leaving one."""
        state = self.job.state.split()[0]  # "CANCELLED by 1000"
        if state in ALIVE:
            return None
        self.gone_at = self.gone_at or time.monotonic()
        if time.monotonic() - self.gone_at < LAG_S:
            return None
        self._note(f"Slurm says: {state}")
        return STOPPED if state in TAKEN_BACK else KILLED

    def _note(self, text: str) -> None:
        with (self.trial.folder / OUTPUT).open("a") as output:
            output.write(f"{text}\n")

    def stop(self) -> None:
        if self.has_begun():
            (self.trial.folder / STOP).touch()
        else:
            self._cancel(STOPPED)

    def kill(self) -> None:
        self._cancel(KILLED)

    def _cancel(self, code: int) -> None:
        if self.code is None and self.job is not None:
            self.job.cancel(check=False)
        self.code = code if self.code is None else self.code

    def wait(self) -> int:
        assert self.code is not None
        return self.code


class Slurm:
    """Submits those that begin together as one array, as far as they ask for the same.

    `executor` makes one of submitit's, which has a folder of its own.
    """

    takes_back = True

    def __init__(self, executor: Callable[[], Any], command: Command = command_of, poll_s: float = 2.0) -> None:
        self.executor, self.command, self.poll_s = executor, command, poll_s
        self.waiting: list[Element] = []

    def find(self, trial: Trial, before: Status) -> Element | None:
        """Jobs go on without the sweep."""
        if before.job is None:
            return None
        executor = self.executor()
        return Element(trial, before.attempt, executor.job_class(executor.folder, before.job))

    def begin(self, trial: Trial, attempt: int, env: Mapping[str, str]) -> Element:
        (trial.folder / OUTPUT).touch()  # to be read, even if it never leaves the queue
        self.waiting.append(Element(trial, attempt))
        return self.waiting[-1]

    def send(self) -> None:
        alike: dict[str, list[Element]] = {}
        for element in self.waiting:
            if element.code is None:
                alike.setdefault(repr(parameters(element.trial.run)), []).append(element)
        self.waiting = []
        for elements in alike.values():
            self._submit(elements)

    def _submit(self, elements: Sequence[Element]) -> None:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = self.executor()
        executor.update_parameters(**parameters(elements[0].trial.run))
        calls = [partial(run_trial, self.command(e.trial), str(e.trial.folder), e.attempt) for e in elements]
        try:
            jobs = executor.submit_array(calls)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise Failure(f"Slurm did not take the trials: {error}") from None
        for element, job in zip(elements, jobs, strict=True):
            element.job = job


class Queue(Room):
    """Slurm keeps who does not fit yet."""

    def fits(self, run: RunConfig, beside: Sequence[Amounts] = ()) -> bool:
        return not self.most or len(self.taken) < self.most


def require_slurm() -> None:
    """Failure if submitit is not installed, or there is no Slurm here."""
    if find_spec("submitit") is None:
        raise Failure("sweep.backend=slurm needs submitit: pip install 'rlhf_hydra[slurm]'")
    if which("srun") is None:
        fix = "start the sweep where sbatch and srun are, or leave sweep.backend=slurm out"
        raise Failure(f"there is no Slurm on this machine: {fix}")


def on_slurm(folder: Path) -> Slurm:
    """Where this machine submits to; what submitit writes goes to `folder`."""
    require_slurm()
    from submitit import SlurmExecutor

    return Slurm(lambda: SlurmExecutor(folder))
