import pytest
import torch

from rlhf_hydra.batch import RolloutBatch

SIZES = [(3, 6), (2, 5), (4, 1), (1, 6), (3, 3), (2, 6), (5, 2), (1, 4)]


@pytest.fixture(scope="session")
def rollout():
    """Eight rows with all that policy and critic read; random, but of sizes that occur."""
    g = torch.Generator().manual_seed(0)
    prompts, responses = zip(
        *[[torch.randint(3, 12, (n,), generator=g).tolist() for n in size] for size in SIZES], strict=True
    )
    batch = RolloutBatch.from_sequences(prompts, responses, group=[i // 2 for i in range(len(SIZES))])

    def noise(scale, shift=0.0):
        return (torch.randn(batch.tokens.shape, generator=g) * scale + shift) * batch.response_mask

    return batch.replace(
        advantages=noise(1.0),
        old_logprobs=noise(0.1, -2.5),
        ref_logprobs=noise(0.1, -2.5),
        values=noise(0.1),
        returns=noise(1.0),
    )
