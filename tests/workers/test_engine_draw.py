"""The sampler of the `hf` engine: inverse CDF, one number a token."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.workers.engine.base import Sampling
from rlhf_hydra.workers.engine.sampling import draw, uniforms

PROBS = torch.tensor([[0.2, 0.5, 0.3]])


def drawn(u: float, **sampling) -> tuple[int, float]:
    barred = sampling.pop("barred", ())
    token, logprob = draw(PROBS.log(), torch.tensor([u], dtype=torch.float64), Sampling(**sampling), barred)
    return token.item(), logprob.item()


@pytest.mark.parametrize(
    ("u", "sampling", "token"),
    [
        (0.19, {}, 0),  # cumulative: 0.2, 0.7, 1.0
        (0.21, {}, 1),
        (0.71, {}, 2),
        (1.0, {}, 2),
        (0.62, {"top_p": 0.7}, 1),  # 0.5 and 0.3 remain, in falling order: 0.625, 1.0
        (0.63, {"top_p": 0.7}, 2),
        (1.0, {"top_p": 0.5}, 1),  # 0.5 alone reaches it
        (0.62, {"top_k": 2}, 1),
        (1.0, {"top_k": 1}, 1),
        (0.39, {"barred": [1]}, 0),  # 0.2 / 0.5 = 0.4
        (0.41, {"barred": [1]}, 2),
        (1e-17, {"barred": [0]}, 1),  # never the barred one, however small u is
    ],
)
def test_the_token_and_its_logprob_over_the_whole_vocabulary(u, sampling, token):
    assert drawn(u, **sampling) == (token, pytest.approx(math.log(PROBS[0, token]), abs=1e-6))


def test_temperature_sharpens_the_distribution():
    # at 0.5 probabilities are squared: 4 : 25 : 9, so 4/38 = 0.105
    assert drawn(0.10, temperature=0.5) == (0, pytest.approx(math.log(4 / 38), abs=1e-6))
    assert drawn(0.11, temperature=0.5) == (1, pytest.approx(math.log(25 / 38), abs=1e-6))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.999999)])
def test_frequencies_are_the_probabilities(sampling):
    rows, probs = 20_000, torch.tensor([0.02, 0.4, 0.08, 0.25, 0.25])
    tokens, _ = draw(probs.log().expand(rows, -1), uniforms(range(rows), 1)[:, 0], sampling)
    count = Counter(tokens.tolist())
    chi2 = sum((count[i] - rows * p) ** 2 / (rows * p) for i, p in enumerate(probs.tolist()))
    assert chi2 < 18.5  # 0.999 of chi2 with 4 degrees of freedom


@given(seed=st.integers(0, 2**63 - 1), short=st.integers(1, 20), long=st.integers(20, 40))
def test_the_stream_of_a_seed_does_not_depend_on_its_length_or_row(seed, short, long):
    stream = uniforms([1, seed], long)[1]
    assert torch.equal(uniforms([seed], short)[0], stream[:short])
    assert (stream > 0).all()
    assert (stream <= 1).all()


@given(
    logits=st.lists(st.floats(-20, 20), min_size=2, max_size=12),
    u=st.floats(1e-18, 1.0),
    top_p=st.floats(0.05, 1.0),
    top_k=st.integers(0, 12),
)
def test_what_is_drawn_is_among_the_allowed(logits, u, top_p, top_k):
    scores = torch.tensor([logits])
    token, _ = draw(scores, torch.tensor([u], dtype=torch.float64), Sampling(top_p=top_p, top_k=top_k))
    likelier = scores[0] > scores[0, token] + 1e-4  # closer than that, either may come first
    assert likelier.sum() < (top_k or len(logits))
    if not top_k:
        assert scores.softmax(-1)[0][likelier].sum() < top_p + 1e-5
