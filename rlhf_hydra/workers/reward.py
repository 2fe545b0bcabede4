"""The reward: rules, functions and reward models, or their sum; texts and tokens in, floats out."""

from collections.abc import Sequence

import torch
from transformers import AutoTokenizer

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.layout import eval_reward
from rlhf_hydra.config.schema import ModelReward, RunConfig
from rlhf_hydra.data.packing import partition
from rlhf_hydra.models.hub import resolve
from rlhf_hydra.models.packed import pack
from rlhf_hydra.models.value import ValueModel
from rlhf_hydra.rewards.base import RewardError, Sample, Scores
from rlhf_hydra.rewards.build import build
from rlhf_hydra.strategy.base import Rank, dtype_of


class RewardWorker:
    def __init__(self, run: RunConfig, folder: str, rank: Rank) -> None:
        self.scorer = build(run.reward, lambda reward: RewardModel(reward, run, folder))
        self.judge = self.scorer
        if run.eval.every and eval_reward(run) is not run.reward:
            self.judge = build(eval_reward(run), lambda reward: RewardModel(reward, run, folder))

    def score(self, samples: list[Sample]) -> Scores:
        return self.scorer(samples)

    def evaluate(self, samples: list[Sample]) -> Scores:
        """By `eval.reward`."""
        return self.judge(samples)

    def close(self) -> None:
        self.scorer.close()
        self.judge.close()


class RewardModel:
    """Scores the last token of prompt and response. Tokens are reused if the model shares the policy's vocabulary."""

    def __init__(self, cfg: ModelReward, run: RunConfig, policy_folder: str) -> None:
        folder = resolve(cfg.path, cfg.hub, cfg.revision)
        self.name, self.max_tokens = cfg.name, cfg.tokens_per_microbatch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = ValueModel.load(folder, trust_remote_code=run.model.trust_remote_code)
        self.model.to(self.device, dtype_of(run.strategy.dtype)).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.shares_tokens = self.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(policy_folder).get_vocab()

    def __call__(self, samples: Sequence[Sample]) -> Scores:
        tokens = [s.tokens for s in samples]
        if samples and not self.shares_tokens:
            texts = [s.prompt + s.response for s in samples]
            tokens = [list(t) for t in self.tokenizer(texts, add_special_tokens=False).input_ids]
        if not all(tokens):
            raise RewardError(f"{self.name}: row {tokens.index([])} has no text for the reward model to read")
        rows = RolloutBatch.from_sequences(tokens, [[] for _ in tokens], group=[s.group for s in samples])
        scores = torch.zeros(len(samples))
        (bins,) = partition(rows.lengths.tolist(), 1, self.max_tokens)
        for bin_ in filter(None, bins):
            packed = pack(rows[bin_].to(self.device))
            ends = torch.tensor(packed.lengths, device=self.device).cumsum(0) - 1
            with torch.no_grad():
                scores[bin_] = self.model.score(packed, ends).cpu()
        return Scores(total=scores.tolist(), parts={self.name: scores.tolist()})
