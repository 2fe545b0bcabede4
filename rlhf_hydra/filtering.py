"""Dynamic sampling: which prompts a step keeps."""

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch

from rlhf_hydra.algos.masked import group_stats
from rlhf_hydra.algos.sampling import informative
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import Filter
from rlhf_hydra.rewards.base import RewardError, Sample
from rlhf_hydra.rewards.function import load, reason

Criterion = Callable[[RolloutBatch, Sequence[Sample], Sequence[float]], list[bool]]
"""(batch, samples, rewards), of rows that lie group by group -> for each group, whether it is accepted."""


def criterion(cfg: Filter) -> Criterion | None:
    """What `algo.filter` asks for; None: everything is accepted."""
    if cfg.by == "none":
        return None
    return partial(by_function, str(cfg.path)) if cfg.by == "function" else partial(by_statistic, cfg)


def by_statistic(cfg: Filter, batch: RolloutBatch, samples: Sequence[Sample], rewards: Sequence[float]) -> list[bool]:
    valid = batch.response_mask.any(1)
    keep = informative(torch.tensor(rewards), batch.group, valid, cfg.by, cfg.low, cfg.high)
    return keep[firsts(batch.group.tolist())].tolist()


def by_function(path: str, batch: RolloutBatch, samples: Sequence[Sample], rewards: Sequence[float]) -> list[bool]:
    """RewardError if the function says anything but True or False."""
    function = loaded(path)
    starts = firsts(batch.group.tolist())
    verdicts: list[bool] = []
    for start, end in zip(starts, [*starts[1:], len(samples)], strict=True):
        try:
            verdict = function(list(samples[start:end]), list(rewards[start:end]))
        except Exception as error:
            raise RewardError(f"algo.filter.path={path} failed on prompt {len(verdicts)}: {reason(error)}") from error
        if not isinstance(verdict, bool):
            raise RewardError(f"algo.filter.path={path} returned {verdict!r}; expected True or False")
        verdicts.append(verdict)
    return verdicts


loaded = cache(partial(load, key="algo.filter.path"))
"""The user's function, whose file is run once."""


def firsts(group: Sequence[int]) -> list[int]:
    """The row at which each group begins."""
    return [row for row, g in enumerate(group) if row == 0 or g != group[row - 1]]


def choose(accepted: Sequence[bool], rewards: Sequence[float], wanted: int) -> list[int]:
    """Numbers of `wanted` prompts: the first that are accepted, then rejected ones, the largest deviation first.

    `rewards`: of all rows, equally many for each prompt.

    >>> choose([False, True, False], [0.0, 0.0, 0.5, 0.7, 1.0, 0.0], 2)
    [1, 2]
    """
    group = torch.arange(len(accepted)).repeat_interleave(len(rewards) // len(accepted))
    _, _, std = group_stats(torch.tensor(rewards), group, torch.ones_like(group, dtype=torch.bool))
    spread = dict(zip(group.tolist(), std.tolist(), strict=True))
    order = sorted(range(len(accepted)), key=lambda i: (not accepted[i], 0 if accepted[i] else -spread[i], i))
    return sorted(order[:wanted], key=lambda prompt: (not accepted[prompt], prompt))
