import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.cluster.group import LocalGroup
from rlhf_hydra.cluster.roles import TokenModel, shards
from rlhf_hydra.config.schema import PPO, Critic, ModelReward, Optim, Shaping
from rlhf_hydra.models.packed import pack
from rlhf_hydra.models.value import ValueModel
from rlhf_hydra.strategy.base import Rank
from rlhf_hydra.workers.critic import CriticWorker

MAX_TOKENS = 20


@pytest.fixture
def run(make_run):
    critic = Critic(samples_per_update=8, optim=Optim(lr=3e-3, schedule="constant", warmup_ratio=0))
    return make_run(algo=PPO(name="ppo"), critic=critic, steps=30)


def test_values_do_not_depend_on_the_number_of_workers(run, tiny, rollout):
    found = []
    for size, budget in ((1, 1000), (1, MAX_TOKENS), (2, MAX_TOKENS), (3, MAX_TOKENS)):
        group = LocalGroup("critic", lambda rank: CriticWorker(run, tiny, Rank()), size)
        found.append(TokenModel(group, budget).values(rollout).get())
    for values in found[1:]:
        torch.testing.assert_close(values, found[0], atol=1e-5, rtol=0)
    assert (found[0] != 0).equal(rollout.response_mask)


def test_sharded_equals_unsharded(run, tiny, rollout):
    def gradients(size, budget):
        total = {}
        parts, _ = shards(rollout, size, budget)
        for part in parts:
            worker = CriticWorker(run, tiny, Rank())
            for name, parameter in worker.trainer.model.named_parameters():
                parameter.register_hook(lambda g, n=name: total.__setitem__(n, total.get(n, 0) + g))
            worker.step(part, StepTotals.of(rollout))
        return total

    wanted, found = gradients(1, 1000), gradients(2, MAX_TOKENS)
    assert max(g.abs().max() for g in wanted.values()) > 1e-3
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=0, msg=name)


def test_learns_the_returns(run, tiny, rollout):
    """With old values that follow, the clip lets it move; the squared error falls to a tenth."""
    worker = CriticWorker(run, tiny, Rank())
    (part,), rows = shards(rollout, 1, MAX_TOKENS)
    mask = part.batch.response_mask

    def error():
        return ((worker.values(part) - part.batch.returns)[mask] ** 2).mean().item()

    before = error()
    for _ in range(30):
        moving = type(part)(part.batch.replace(values=worker.values(part)), part.microbatches)
        metrics = worker.step(moving, StepTotals.of(rollout))
    assert error() < before / 10
    assert metrics["critic/lr"] == 3e-3


def test_the_head_follows_the_seed_of_the_run(make_run, tiny):
    heads = [
        CriticWorker(make_run(algo=PPO(name="ppo"), seed=seed), tiny, Rank()).trainer.model.classifier.score.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_goes_on_exactly_after_save_and_load(run, tiny, rollout, tmp_path):
    (part,), _ = shards(rollout, 1, MAX_TOKENS)
    straight = CriticWorker(run, tiny, Rank())
    straight.step(part, StepTotals.of(rollout))
    straight.save(tmp_path)
    metrics = straight.step(part, StepTotals.of(rollout))
    resumed = CriticWorker(run, tiny, Rank())
    resumed.load(tmp_path)
    assert resumed.step(part, StepTotals.of(rollout)) == metrics
    assert torch.equal(resumed.values(part), straight.values(part))


@pytest.mark.parametrize("normalize", ["none", "stored"])
def test_starts_from_the_runs_reward_model(make_run, tiny, tmp_path, rollout, normalize):
    """`critic.path` is the reward's: head included, on the scale on which the rewards will be."""
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(tiny, num_labels=1)
    AutoModelForSequenceClassification.from_pretrained(tiny, config=config).save_pretrained(tmp_path)
    algo = PPO(name="ppo", shaping=Shaping(normalize=normalize, mean=0.5, std=2.0))
    run = make_run(algo=algo, reward=ModelReward(name="model", path=str(tmp_path)), critic=Critic(path=str(tmp_path)))
    (part,), _ = shards(rollout, 1, MAX_TOKENS)
    values = CriticWorker(run, str(tmp_path), Rank()).values(part)
    packed = pack(part.batch)
    with torch.no_grad():
        scores = packed.unpack(ValueModel.load(str(tmp_path)).eval()(packed))
    wanted = scores if normalize == "none" else (scores - 0.5) / 2 * part.batch.response_mask
    torch.testing.assert_close(values, wanted, atol=1e-5, rtol=0)
