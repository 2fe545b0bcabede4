"""Which prompts are worth a training step."""

from torch import Tensor

from rlhf_hydra.algos.masked import group_stats


def informative(rewards: Tensor, group: Tensor, valid: Tensor, by: str, low: float, high: float) -> Tensor:
    """Dynamic sampling (DAPO, arXiv 2503.14476): rows whose group is kept. [B] each -> [B] bool.

    by `mean`: low < mean of the group < high, both strict, so that 0 and 1 keep prompts that are neither hopeless nor
    solved; `std`: low < standard deviation (n - 1) of the group < high. Groups without a valid row are not kept.
    """
    n, mean, std = group_stats(rewards, group, valid)
    measure = mean if by == "mean" else std
    return (n > 0) & (low < measure) & (measure < high)
