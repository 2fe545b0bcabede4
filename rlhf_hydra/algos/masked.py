"""Statistics over the entries that count."""

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """sum(x * m) / sum(m) over all entries, a scalar; 0 for an empty mask. `x` may hold anything outside the mask."""
    return x.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """sum((x - mean)^2 * m) / sum(m), the biased variance, a scalar; 0 for an empty mask."""
    return masked_mean((x - masked_mean(x, mask)).square(), mask)


def group_sum(x: Tensor, group: Tensor) -> Tensor:
    """Each row's group total: y_i = sum of x_j over rows j of i's group. `x` [B], `group` [B] -> [B]."""
    _, index = torch.unique(group, return_inverse=True)
    totals = x.new_zeros(int(index.max()) + 1 if len(index) else 0)
    return totals.index_add(0, index, x)[index]


def group_stats(x: Tensor, group: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and standard deviation (n - 1) of each row's group over its valid rows. [B] each -> [B] float64.

    A group without valid rows has mean 0; one with fewer than two has standard deviation 0.
    """
    x = x.double().masked_fill(~valid, 0)
    n = group_sum(valid.double(), group)
    mean = group_sum(x, group) / n.clamp(min=1)
    squares = group_sum((x - mean).square().masked_fill(~valid, 0), group)
    return n, mean, (squares / (n - 1).clamp(min=1)).sqrt()


def whiten(x: Tensor, mask: Tensor, how: str, group: Tensor | None = None) -> Tensor:
    """`mean`: x - mean; `std`: (x - mean) / sqrt(max(var, 1e-8)), both over the masked entries; `none`: x.

    `x`, `mask` [B, T] -> [B, T]. With `group` [B] the statistics are those of the entry's own group. The variance is
    biased (divides by the count) and taken in float64. Entries outside the mask, and of an empty mask, become 0.
    """
    if how == "none":
        return x
    rows = torch.zeros(len(x), dtype=torch.long, device=x.device) if group is None else group
    count = group_sum(mask.sum(1).double(), rows).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return (group_sum(values.masked_fill(~mask, 0).sum(1), rows) / count)[:, None]

    centred = x.double()
    centred = centred - mean(centred)
    if how == "std":
        centred = centred * mean(centred.square()).clamp(min=1e-8).rsqrt()
    return centred.masked_fill(~mask, 0).to(x.dtype)
