"""HF engines and policies in this process."""

import pytest

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.group import LocalGroup
from rlhf_hydra.cluster.roles import Engines, TokenModel
from rlhf_hydra.cluster.weight_sync import OutOfStep, difference, push, verify
from rlhf_hydra.config.schema import Engine
from rlhf_hydra.workers.engine.hf import HFEngine
from rlhf_hydra.workers.policy import PolicyWorker

PROBES = [[3, 4, 5, 6], [7, 8], [9, 3, 3, 3, 3, 1], [5]]


@pytest.fixture
def roles(tiny, make_run):
    run = make_run()
    policy = TokenModel(LocalGroup("policy", lambda rank: PolicyWorker(run, tiny, rank), 1), 1000)
    engines = Engines(LocalGroup("engine", lambda rank: HFEngine(tiny, Engine(), 64), 2))
    return policy, engines


def train(policy):
    batch = RolloutBatch.from_sequences([[3, 4]], [[5, 6, 7]], group=[0])
    batch = batch.replace(advantages=-5.0 * batch.response_mask)
    for _ in range(3):
        policy.group.workers[0].step(_whole(batch), StepTotals.of(batch), 0.0)


def _whole(batch):
    from rlhf_hydra.cluster.roles import shards

    return shards(batch, 1, 1000)[0][0]


def test_after_a_push_every_engine_speaks_like_the_policy(roles):
    policy, engines = roles
    train(policy)
    push(policy, engines, version=3)
    assert verify(policy, engines, PROBES, 3, tolerance=1e-5) < 1e-5
    assert engines.group.all("version").get() == [3, 3]


def test_a_stale_engine_is_out_of_step(roles):
    policy, engines = roles
    push(policy, engines, version=0)
    train(policy)
    assert difference(policy, engines, PROBES) > 1e-3
    with pytest.raises(OutOfStep, match=r"sync 0 \(engine.parity_tolerance=0.001\). Likely causes: engine.dtype"):
        verify(policy, engines, PROBES, 0, tolerance=1e-3)


def test_one_stale_engine_of_two_is_enough(roles):
    policy, engines = roles
    push(policy, engines, version=0)
    train(policy)
    first = Engines(LocalGroup("engine", lambda rank: engines.group.workers[0], 1))
    push(policy, first, version=0)
    assert difference(policy, first, PROBES) < 1e-5
    with pytest.raises(OutOfStep):
        verify(policy, engines, PROBES, 0, tolerance=1e-3)


def test_a_wrong_version_is_out_of_step(roles):
    policy, engines = roles
    push(policy, engines, version=0)
    with pytest.raises(OutOfStep, match=r"weights \[0, 0\], the policy is at 1"):
        verify(policy, engines, PROBES, 1, tolerance=1.0)


def test_a_model_that_says_nothing_is_out_of_step(roles):
    """NaN is no agreement."""
    policy, engines = roles
    for parameter in policy.group.workers[0].lm.parameters():
        parameter.data.fill_(float("nan"))
    push(policy, engines, version=0)
    with pytest.raises(OutOfStep):
        verify(policy, engines, PROBES, 0, tolerance=1.0)


def test_difference_by_hand(roles):
    """An engine that is off by 0.5 on one token of the four that count: 0.5 / 4."""
    policy, engines = roles
    push(policy, engines, version=0)

    class Off(LocalGroup):
        def all(self, method, *args):
            found = super().all(method, *args)
            if method == "logprobs":
                found.results[1][0][1] += 0.5
            return found

    group = Off("engine", lambda rank: engines.group.workers[rank.index], 2)
    found = difference(policy, Engines(group), [[3, 4, 5], [6, 7, 8]])
    assert found == pytest.approx(0.5 / 4, abs=1e-5)
