"""Online reinforcement learning: one run, read top to bottom."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rlhf_hydra import checkpoint, experience, provenance, sampling
from rlhf_hydra.algos.guards import Watch
from rlhf_hydra.algos.kl import KLController
from rlhf_hydra.algos.shaping import RewardNormalizer
from rlhf_hydra.algos.table import algorithm as build_algorithm
from rlhf_hydra.checkpoint import Keeper
from rlhf_hydra.cluster.crew import start_crew
from rlhf_hydra.cluster.weight_sync import push, refresh, verify
from rlhf_hydra.config.arithmetic import parity_tolerance, texts_per_step
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import SFT, RunConfig
from rlhf_hydra.data.examples import load_examples
from rlhf_hydra.data.prompts import PromptStream, load_prompts, shown
from rlhf_hydra.data.store import cache_folder
from rlhf_hydra.data.texts import TextStream
from rlhf_hydra.dump import Guardian
from rlhf_hydra.evaluate import Evaluator
from rlhf_hydra.interrupts import Interrupts, Stopped
from rlhf_hydra.learning import learn
from rlhf_hydra.models.hub import resolve
from rlhf_hydra.tracking import Tracker
from rlhf_hydra.tracking import build as build_tracker

PROBES = 4
"""Sequences whose log-probabilities are compared after each weight sync."""


def train(run: RunConfig, folder: Path, command: str, resume: bool = False) -> None:
    """Sample, score, learn, until `run.steps`; whatever is left of the run lies in `folder`."""
    start = checkpoint.latest(folder) if resume else None
    with tracked(run, folder, command, start) as tracker, Interrupts() as interrupts:
        model = resolve(run.model.path, run.model.hub, run.model.revision)
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=run.model.trust_remote_code)
        rows, report = load_prompts(run.data, tokenizer, run.rollout.max_prompt_tokens, run.seed, tracker.note)
        tracker.note(str(report))
        provenance.add(folder, data=report.record(), model=provenance.model_record(run.model, model))

        algorithm = build_algorithm(run.rl, run.rollout)
        prompts, kl = PromptStream(rows, run.seed), KLController(run.rl.kl)
        reserve = sampling.Reserve(rows, tokenizer)
        rewards, watch = RewardNormalizer(run.rl.shaping), Watch(run.guard)
        tolerance = parity_tolerance(run)
        evaluator = Evaluator(run, tokenizer, tracker.note)
        parts: dict[str, checkpoint.Stateful] = {"prompts": prompts, "kl": kl, "rewards": rewards}
        parts |= {"reserve": reserve, "watch": watch, "eval": evaluator}
        if (texts := mixed_in(run, tokenizer, tracker.note)) is not None:
            parts["texts"] = texts
        with (
            start_crew(run, algorithm, model, tracker.note) as crew,
            Keeper(folder, run.checkpoint, run.steps, crew, parts, tracker.note) as keeper,
        ):
            guardian = Guardian(watch, run, folder, crew, tracker.note)
            done = keeper.resume(start) if start else 0
            with interrupts.held():  # an engine may serve another run after this one: never with half an update
                push(crew.policy, crew.engine, version=done)
            first = rows[:PROBES]
            verify(crew.policy, crew.engine, [row.tokens for row in first], done, tolerance, shown(first))
            evaluate = partial(evaluator.evaluate, crew)
            settle(evaluate, keeper, tracker, interrupts, {})

            for step in range(done + 1, run.steps + 1):
                clock = Clock()
                with crew.engine.awake():
                    sampled, found = sampling.collect(crew, prompts, reserve, tokenizer, algorithm, run, step)
                clock.lap("generate")
                batch, scored = experience.evaluate(crew, sampled, tokenizer, algorithm, run)
                clock.lap("score")
                with interrupts.held():
                    batch, credit = algorithm.assign_credit(batch, kl.coef, rewards)
                    given = texts.take(texts_per_step(run, step)) if texts else None
                    learned = learn(crew, batch, run, step, kl.coef, given)
                    clock.lap("train")
                    refresh(crew, run, step)
                    push(crew.policy, crew.engine, version=step)
                    probes = [sample.tokens for sample in sampled.samples[:PROBES]]
                    seen = (batch.images or ())[:PROBES]
                    parity = verify(crew.policy, crew.engine, probes, step, tolerance, seen)
                    clock.lap("sync")

                    metrics = experience.describe(batch) | scored | credit | learned | found | {"engine/parity": parity}
                    tracker.samples(experience.rows(sampled.samples, batch), step)
                    tracker.log({**metrics, "kl/coef": kl.coef, **clock.times()}, step)
                    guardian.check(metrics, batch, step, kl.coef, given)
                    kl.update(metrics.get("policy/kl", math.nan), len(batch))
                    keeper.mark(step)
                settle(evaluate, keeper, tracker, interrupts, metrics)
            with interrupts.held(), checkpoint.writing(folder / "model"):
                crew.export(folder.resolve() / "model")


@contextmanager
def tracked(run: RunConfig, folder: Path, command: str, start: Path | None) -> Iterator[Tracker]:
    """The run's tracker, told in the end how it went."""
    done = checkpoint.step_of(start) if start else None
    first = done + 1 if done else done  # a run that was stopped before its first step evaluates again
    tracker = build_tracker(run, folder, resume_step=first, command=command)
    try:
        yield tracker
    except Stopped as stop:
        tracker.finish("stopped", str(stop))
        raise SystemExit(stop.code) from None
    except Failure as failure:
        with suppress(OSError):  # where the disk is full there may be no room for the curves either
            tracker.finish("failed", str(failure))
        raise SystemExit(1) from failure
    except BaseException as error:
        tracker.finish("failed", f"{type(error).__name__}: {error}")
        raise
    tracker.finish("done")


def mixed_in(run: RunConfig, tokenizer: Any, note: Callable[[str], None]) -> TextStream | None:
    """The texts of `algo.ptx`."""
    ptx = run.rl.ptx
    if ptx.data is None or ptx.coef == 0:
        return None
    algo, limit = SFT(name="ptx", learn=ptx.learn), run.model.context_tokens
    texts, report = load_examples(ptx.data, algo, tokenizer, limit, run.seed, cache_folder(), note)
    note(f"mixed in: {report}")
    return TextStream(texts, run.seed)


def settle(
    evaluate: Callable[[int], dict[str, float]],
    keeper: Keeper,
    tracker: Tracker,
    interrupts: Interrupts,
    metrics: dict[str, float],
) -> None:
    """Evaluate the step that was marked last if that is due, and save. A stop in the evaluation makes a resumed run
    begin with it."""
    clock = Clock()
    evaluation = evaluate(keeper.step)
    clock.lap("eval")
    with interrupts.held():
        if evaluation:
            tracker.log({**evaluation, **clock.laps}, keeper.step)
        keeper.keep({**metrics, **evaluation})


class Clock:
    """Seconds of the phases of one step."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.laps[f"time/{phase}_s"] = now - self.last
        self.last = now

    def times(self) -> dict[str, float]:
        return {**self.laps, "time/step_s": self.last - self.start}
