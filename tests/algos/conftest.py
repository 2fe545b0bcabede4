"""Small batches, the same for every test of the room."""

from collections.abc import Callable

import pytest
import torch

from rlhf_hydra.batch import RolloutBatch


def _random_batch(rows: int = 6, width: int = 7, seed: int = 0) -> RolloutBatch:
    """Groups of two, gaps inside the responses, one row without a response token; 0 outside the mask."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, width, generator=g) < 0.7
    mask[:, 0] = False
    mask[:, -1] |= ~mask.any(1)
    mask[rows // 2] = False

    def noise(scale: float) -> torch.Tensor:
        return torch.randn(rows, width, generator=g) * scale * mask

    old = noise(1.0)
    return RolloutBatch(
        tokens=torch.randint(9, (rows, width), generator=g),
        lengths=torch.full((rows,), width),
        response_mask=mask,
        group=torch.arange(rows) // 2,
        truncated=torch.rand(rows, generator=g) < 0.5,
        rewards=torch.randn(rows, generator=g),
        old_logprobs=old,
        rollout_logprobs=old + noise(0.2),
        ref_logprobs=old + noise(0.5),
        values=noise(1.0),
    )


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., RolloutBatch]:
    return _random_batch
