"""The reward: rules, functions and reward models, or their sum; texts and tokens in, floats out."""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.layout import eval_reward
from rlhf_hydra.config.schema import ModelReward, ProcessReward, RunConfig
from rlhf_hydra.data.packing import partition
from rlhf_hydra.models.hub import resolve
from rlhf_hydra.models.packed import Packed, pack
from rlhf_hydra.models.policy import PolicyModel
from rlhf_hydra.models.value import ValueModel
from rlhf_hydra.rewards.base import RewardError, Sample, Scores, Step
from rlhf_hydra.rewards.build import build
from rlhf_hydra.strategy.base import Rank, dtype_of


class RewardWorker:
    def __init__(self, run: RunConfig, folder: str, rank: Rank) -> None:
        self.scorer = build(run.reward, lambda reward: load(reward, run, folder))
        self.judge = self.scorer
        if run.eval.every and eval_reward(run) is not run.reward:
            self.judge = build(eval_reward(run), lambda reward: load(reward, run, folder))

    def score(self, samples: list[Sample]) -> Scores:
        """A worker may get none of a small batch; what judges whole batches is not asked about nothing."""
        return self.scorer(samples) if samples else Scores([])

    def evaluate(self, samples: list[Sample]) -> Scores:
        """By `eval.reward`."""
        return self.judge(samples) if samples else Scores([])

    def close(self) -> None:
        self.scorer.close()
        self.judge.close()


def load(cfg: ModelReward, run: RunConfig, policy_folder: str) -> "RewardModel | ProcessModel":
    return (
        ProcessModel(cfg, run, policy_folder)
        if isinstance(cfg, ProcessReward)
        else RewardModel(cfg, run, policy_folder)
    )


class Reader:
    """A model that reads prompts and responses; their tokens are reused if it shares the policy's vocabulary."""

    def __init__(self, cfg: ModelReward, model: nn.Module, folder: str, policy_folder: str) -> None:
        self.name, self.max_tokens = cfg.name, cfg.tokens_per_microbatch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = model.to(self.device).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.shares_tokens = self.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(policy_folder).get_vocab()

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def microbatches(self, tokens: list[list[int]]) -> Iterator[tuple[list[int], Packed]]:
        """Row numbers, and those rows."""
        rows = RolloutBatch.from_sequences(tokens, [[] for _ in tokens], group=range(len(tokens)))
        (bins,) = partition(rows.lengths.tolist(), 1, self.max_tokens)
        for bin_ in filter(None, bins):
            yield bin_, pack(rows[bin_].to(self.device))


class RewardModel(Reader):
    """Scores the last token of prompt and response."""

    def __init__(self, cfg: ModelReward, run: RunConfig, policy_folder: str) -> None:
        folder = resolve(cfg.path, cfg.hub, cfg.revision, "reward.path")
        dtype = dtype_of(run.strategy.dtype)
        model = ValueModel.load(folder, trust_remote_code=run.model.trust_remote_code, dtype=dtype)
        super().__init__(cfg, model, folder, policy_folder)

    def __call__(self, samples: Sequence[Sample]) -> Scores:
        tokens = [s.tokens if self.shares_tokens else self.encode(s.prompt + s.response) for s in samples]
        if not all(tokens):
            raise RewardError(f"{self.name}: row {tokens.index([])} has no text for the reward model to read")
        scores = torch.zeros(len(samples))
        for rows, packed in self.microbatches(tokens):
            ends = torch.tensor(packed.lengths, device=self.device).cumsum(0) - 1
            with torch.no_grad():
                scores[rows] = self.model.score(packed, ends).cpu()
        return Scores(total=scores.tolist(), parts={self.name: scores.tolist()})


OUTCOMES: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "mean": fmean,
    "min": min,
    "last": lambda rewards: rewards[-1],
}


class ProcessModel(Reader):
    """Scores each step of a response: p(good) = sigmoid(z_good - z_bad), of the logits after the step (2312.08935).

    White space between two separators is no step. The outcome of a response without steps is 0.
    """

    def __init__(self, cfg: ProcessReward, run: RunConfig, policy_folder: str) -> None:
        folder = resolve(cfg.path, cfg.hub, cfg.revision, "reward.path")
        model = PolicyModel.load(folder, run.model.trust_remote_code, dtype=dtype_of(run.strategy.dtype)).lm
        super().__init__(cfg, model, folder, policy_folder)
        self.cfg = cfg
        self.good, self.bad = (self._token(word, "step_tokens") for word in cfg.step_tokens)
        self.mark = None if cfg.placeholder is None else self._token(cfg.placeholder, "placeholder")

    def _token(self, word: str, key: str) -> int:
        tokens = self.encode(word)
        if len(tokens) != 1 or tokens[0] == self.tokenizer.unk_token_id:
            raise RewardError(f"{self.name}: {key}: {word!r} is not one token of this model; take one that is")
        return tokens[0]

    def __call__(self, samples: Sequence[Sample]) -> Scores:
        spans = [step_spans(s.response, self.cfg.separator) for s in samples]
        read = [self._read(sample, its) for sample, its in zip(samples, spans, strict=True)]
        rewards: list[list[float]] = [[] for _ in samples]
        for rows, packed in self.microbatches([tokens for tokens, _ in read]):
            judged = [read[row][1] for row in rows]
            for row, found in zip(rows, self._judge(packed, judged), strict=True):
                rewards[row] = found.tolist()
        if self.cfg.outcome == "none":
            pairs = [zip(its, found, strict=True) for its, found in zip(spans, rewards, strict=True)]
            steps = [[Step(end, reward) for (_, end), reward in its] for its in pairs]
            return Scores([0.0] * len(samples), steps=steps)
        outcome = OUTCOMES[self.cfg.outcome]
        total = [outcome(its) if its else 0.0 for its in rewards]
        return Scores(total, {self.name: total})

    def _read(self, sample: Sample, spans: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
        """The tokens that the model reads, and the positions at which it judges each step."""
        prompt = sample.tokens[: sample.prompt_tokens] if self.shares_tokens else self.encode(sample.prompt)
        tokens, judged = list(prompt), list[int]()
        for start, end in spans:
            piece = self.encode(self.cfg.template.replace("{step}", sample.response[start:end]))
            back = piece[::-1].index(self.mark) if self.mark in piece else 0
            tokens += piece
            judged.append(len(tokens) - 1 - back)
        return tokens, judged

    def _judge(self, packed: Packed, judged: list[list[int]]) -> tuple[Tensor, ...]:
        """p(good) at these positions of each row."""
        starts = torch.tensor([0, *packed.lengths]).cumsum(0)
        flat = [int(start) + place for start, places in zip(starts, judged, strict=False) for place in places]
        at = torch.tensor(flat, dtype=torch.long, device=self.device)
        with torch.no_grad():
            logits = self.model(**packed.model_inputs(), use_cache=False, logits_to_keep=at).logits[0].float()
        return (logits[:, self.good] - logits[:, self.bad]).sigmoid().cpu().split([len(places) for places in judged])


def step_spans(response: str, separator: str) -> list[tuple[int, int]]:
    """First character of each step, and the one after its last; separators belong to none.

    >>> step_spans("a = 1;;b = 2", ";")
    [(0, 5), (7, 12)]
    """
    spans, start = [], 0
    for piece in response.split(separator) if separator else response:
        if piece.strip():
            spans.append((start, start + len(piece)))
        start += len(piece) + len(separator)
    return spans
