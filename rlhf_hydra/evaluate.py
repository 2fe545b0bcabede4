"""Evaluation during training: own prompts, own sampling, own judge; the training does not notice.

Every response has a seed that depends on its place alone, so two evaluations differ by the weights alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from rlhf_hydra.algos.passk import majority, pass_at_k
from rlhf_hydra.cluster.crew import Crew
from rlhf_hydra.config.layout import eval_data, eval_reward
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.config.seeds import derive
from rlhf_hydra.data.files import DataError
from rlhf_hydra.data.prompts import Prompt, load_prompts, shown
from rlhf_hydra.rewards.answers import answer_of
from rlhf_hydra.sampling import readable
from rlhf_hydra.workers.engine.base import Sampling

Metrics = dict[str, float]


@dataclass(frozen=True)
class Judged:
    """One response of an evaluation."""

    reward: float
    answer: str | None
    """Its vote in maj@k."""
    tokens: int
    truncated: bool


class Evaluator:
    """Evaluates when it is time, once: which step was last is part of the run's state."""

    def __init__(self, run: RunConfig, tokenizer: Any, note: Callable[[str], None]) -> None:
        self.run, self.tokenizer, self.last = run, tokenizer, -1
        self.prompts: list[Prompt] = []
        if run.eval.every:
            limit = run.rollout.max_prompt_tokens
            self.prompts, report = load_prompts(eval_data(run), tokenizer, limit, note=note)
            note(f"evaluation: {report}")
        self.sources = [source_of(prompt, run.eval.source_column) for prompt in self.prompts]

    def state(self) -> dict[str, int]:
        return {"last": self.last}

    def load_state(self, state: dict[str, int]) -> None:
        self.last = state["last"]

    def evaluate(self, crew: Crew, step: int) -> Metrics:
        """Metrics of the weights after `step`; none where no evaluation is due."""
        if not is_due(self.run, step, self.last):
            return {}
        judged, size = self._judged(crew), self.run.eval.samples_per_prompt
        groups = [judged[i : i + size] for i in range(0, len(judged), size)]
        metrics = self._measure(groups, "eval/")
        for source in dict.fromkeys(filter(None, self.sources)):
            own = [group for group, its in zip(groups, self.sources, strict=True) if its == source]
            metrics |= self._measure(own, f"eval/{source}/")
        self.last = step
        return metrics

    def _measure(self, groups: Sequence[Sequence[Judged]], prefix: str) -> Metrics:
        measured = measure(groups, self.run.eval.k, self.run.eval.correct_at)
        return {f"{prefix}{name}": value for name, value in measured.items()}

    def _judged(self, crew: Crew) -> list[Judged]:
        """The responses to the first prompt, to the second, ..."""
        rows = [i for i in range(len(self.prompts)) for _ in range(self.run.eval.samples_per_prompt)]
        seeds = [derive(self.run.seed, "eval", row) for row in range(len(rows))]
        with crew.engine.awake():
            asked, images = [self.prompts[i].tokens for i in rows], shown(self.prompts)
            responses = crew.engine.generate(asked, seeds, self._sampling(), [images[i] for i in rows if images])
        texts = self.tokenizer.batch_decode([r.tokens for r in responses], skip_special_tokens=True)
        given = zip(rows, responses, texts, strict=True)
        rewards = crew.reward.evaluate([readable(self.prompts[i], i, r, text) for i, r, text in given]).get().earned
        answer = answer_of(eval_reward(self.run))
        return [
            Judged(reward, answer(text), len(response.tokens), response.truncated)
            for reward, text, response in zip(rewards, texts, responses, strict=True)
        ]

    def _sampling(self) -> Sampling:
        cfg = self.run.eval
        return replace(Sampling.from_config(self.run.rollout), temperature=cfg.temperature, top_p=cfg.top_p)


def is_due(run: RunConfig, step: int, last: int) -> bool:
    """Whether to evaluate after `step`, where `last` was the step of the last evaluation."""
    every = run.eval.every
    return every > 0 and step != last and (step % every == 0 or step == run.steps)


def measure(groups: Sequence[Sequence[Judged]], ks: Sequence[int], correct_at: float) -> Metrics:
    """Means over the prompts, of which each group holds the responses to one.

    pass@k estimates from all responses of a group; maj@k is the vote of its first k.
    """
    flat = [judged for group in groups for judged in group]
    right = [[judged.reward >= correct_at for judged in group] for group in groups]
    votes = [[judged.answer for judged in group] for group in groups]
    metrics = {
        "mean": fmean(judged.reward for judged in flat),
        "tokens_mean": fmean(judged.tokens for judged in flat),
        "truncated_frac": fmean(judged.truncated for judged in flat),
    }
    metrics |= {f"pass@{k}": fmean(pass_at_k(len(r), sum(r), k) for r in right) for k in ks}
    pairs = list(zip(votes, right, strict=True))
    return metrics | {f"maj@{k}": fmean(majority(vote[:k], r[:k]) for vote, r in pairs) for k in ks if k > 1}


def source_of(prompt: Prompt, column: str | None) -> str:
    """The data source that a prompt comes from; empty where no column says so."""
    if column is None:
        return ""
    if column not in prompt.metadata:
        known = ", ".join(sorted(prompt.metadata)) or "none"
        raise DataError(
            f"eval.source_column: row {prompt.row} has no column `{column}`; besides prompt and label: {known}"
        )
    return str(prompt.metadata[column])
