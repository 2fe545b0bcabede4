"""Learning from given texts: one run, read top to bottom. What is learned is an argument, the objective."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rlhf_hydra import checkpoint, provenance
from rlhf_hydra.algos.guards import Watch
from rlhf_hydra.algos.objectives import objective
from rlhf_hydra.checkpoint import Keeper
from rlhf_hydra.cluster.crew import start_learner, start_reference
from rlhf_hydra.cluster.roles import Learner, TokenModel
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.layout import eval_data
from rlhf_hydra.config.schema import Data, RunConfig
from rlhf_hydra.data.examples import Examples, load_examples
from rlhf_hydra.data.store import cache_folder
from rlhf_hydra.driver import Clock, settle, tracked
from rlhf_hydra.exam import Exam, with_deviation
from rlhf_hydra.interrupts import Interrupts
from rlhf_hydra.lessons import REFERENCE, Lessons, Passes, refer
from rlhf_hydra.models.hub import of_the_family, resolve

Note = Callable[[str], None]


class Diverged(Failure):
    """Loss or gradient has not been finite for many steps."""


def train(run: RunConfig, folder: Path, command: str, resume: bool = False) -> None:
    """Learn batch after batch, until `run.steps` or `algo.epochs` is reached; what is left of it lies in `folder`."""
    start = checkpoint.latest(folder) if resume else None
    with tracked(run, folder, command, start) as tracker, Interrupts() as interrupts:
        model = resolve(run.model.path, run.model.hub, run.model.revision)
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=run.model.trust_remote_code)
        lessons, held_out, sources = prepare(run, tokenizer, tracker.note)
        provenance.add(folder, data=sources, model=provenance.model_record(run.model, model))
        run = replace(run, steps=run.steps or run.supervised.epochs * math.ceil(len(lessons) / size_of(run)))
        tracker.expect(run.steps)
        passes, watch = Passes(lessons, size_of(run), run.seed), Watch(run.guard)
        if start:  # other data is refused before anything is asked about it
            passes.load_state(checkpoint.remembered(start, "passes"))
        lessons.wanted = passes.first(run.steps * size_of(run))
        consult(run, model, {"train": lessons, "eval": held_out}, folder / REFERENCE, tracker.note)

        with start_learner(run, lessons.unit, model, tracker.note) as learner:
            exam = Exam(run, learner, held_out, tracker.note)
            parts: dict[str, checkpoint.Stateful] = {"passes": passes, "watch": watch, "eval": exam}
            with Keeper(folder, run.checkpoint, run.steps, learner, parts, tracker.note) as keeper:
                done = keeper.resume(start) if start else 0
                settle(exam.evaluate, keeper, tracker, interrupts, {})

                for step in range(done + 1, run.steps + 1):
                    if keeper.is_out_of_patience:
                        tracker.note(f"{run.checkpoint.best} has stopped improving: the run ends after step {step - 1}")
                        break
                    clock = Clock()
                    with interrupts.held():
                        metrics = learn(learner, lessons, passes.take())
                        clock.lap("train")
                        tracker.log({**metrics, **clock.times()}, step)
                        stop_if_broken(watch, metrics, step)
                        keeper.mark(step)
                    settle(exam.evaluate, keeper, tracker, interrupts, metrics)
            with interrupts.held(), checkpoint.writing(folder / "model"):
                learner.export(folder.resolve() / "model")
            if learner.facts:
                tracker.note(exam.advice(folder / "model"))


def size_of(run: RunConfig) -> int:
    """Examples of an optimizer step."""
    return run.policy.samples_per_update


def prepare(run: RunConfig, tokenizer: Any, note: Note) -> tuple[Lessons, Lessons | None, dict[str, Any]]:
    """Examples to learn from; those of the evaluation, which are taken from the same data unless it has its own; and
    what tells whether another run has the same."""
    sources: dict[str, Any] = {}

    def load(data: Data, name: str) -> Examples:
        limit = run.model.context_tokens
        examples, report = load_examples(data, run.supervised, tokenizer, limit, run.seed, cache_folder(), note)
        note(f"{'evaluation: ' if name == 'eval' else ''}{report}")
        sources[name] = report.record()
        return examples

    def lessons(examples: Examples, limit: int | None = None) -> Lessons:
        return Lessons(examples, objective(run.supervised), run.seed, run.model.context_tokens, limit)

    examples = load(run.data, "train")
    if not run.eval.every:
        return lessons(examples), None, sources
    if run.eval.data is not None:
        return lessons(examples), lessons(load(eval_data(run), "eval")), sources
    examples, held_out = examples.split(run.eval.holdout, run.seed)
    note(f"{len(held_out)} of them are held out for evaluation (eval.holdout)")
    return lessons(examples), lessons(held_out, run.eval.limit), sources


def consult(run: RunConfig, model: str, sets: dict[str, Lessons | None], file: Path, note: Note) -> None:
    """Let the reference, if the objective reads one, say once what it thinks of all examples; then it goes."""
    if not objective(run.supervised).needs_reference:
        return
    other = run.reference.path
    path = of_the_family("reference.path", other, model, run.model.hub) if other else model
    with ExitStack() as stack:

        def ask() -> TokenModel:
            note(f"asking the reference about {sum(len(its.wanted) for its in given.values()):,} examples")
            return stack.enter_context(start_reference(run, path, note))

        given = {name: lessons for name, lessons in sets.items() if lessons is not None}
        refer(given, file, path, size_of(run), ask, note)


def learn(learner: Learner, lessons: Lessons, items: list[int]) -> dict[str, float]:
    """One optimizer step on these examples."""
    batch = lessons.batch(items)
    totals = replace(lessons.count(batch), kl=lessons.kl(learner, items, len(items)))
    metrics = with_deviation(learner.learn(batch, totals).get())
    return metrics | {"tokens/trained": float(batch.lengths.sum())}


def stop_if_broken(watch: Watch, metrics: dict[str, float], step: int) -> None:
    if why := watch.skipped_too_often(metrics | {"policy/updates": 1}):
        raise Diverged(f"step {step}: {why}. Lower policy.optim.lr, or look at the data of these steps")
