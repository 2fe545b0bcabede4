"""The steps of one rollout, with the whole crew in this process: HF engine, plain trainers, rules as reward."""

import pytest
import torch
from transformers import AutoTokenizer

from rlhf_hydra import experience, sampling
from rlhf_hydra.algos.table import algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.crew import start_crew
from rlhf_hydra.cluster.roles import shards
from rlhf_hydra.cluster.weight_sync import push
from rlhf_hydra.config.schema import GRPO, KL, PPO, Optim, Policy
from rlhf_hydra.data.prompts import load_prompts
from rlhf_hydra.learning import learn, mean, minibatches

MAX_TOKENS = 16


def policy(samples_per_update=8):
    return Policy(samples_per_update=samples_per_update, tokens_per_microbatch=MAX_TOKENS, optim=Optim(lr=1e-3))


class Step:
    """One pass of the loop, and the forwards that policy, reference and critic made in it."""

    def __init__(self, run, tiny):
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        rows, _ = load_prompts(run.data, tokenizer, run.rollout.max_prompt_tokens)
        self.algorithm = algorithm(run.rl, run.rollout)
        self.forwards = {}
        with start_crew(run, self.algorithm, tiny, print) as crew:
            push(crew.policy, crew.engine, 0)
            self.roles = {name: getattr(crew, name) for name in ("policy", "reference", "critic")}
            for name, role in self.roles.items():
                if role is not None:
                    self._count(name, role.group.workers[0].trainer.model)
            asked = rows[: run.rollout.prompts_per_step]
            sampled = sampling.sample(crew, asked, tokenizer, self.algorithm, run, 1)
            batch, self.scored = experience.evaluate(crew, sampled, tokenizer, self.algorithm, run)
            self.batch, self.credit = self.algorithm.assign_credit(batch, run.rl.kl.coef)
            self.learned = learn(crew, self.batch, run, 1, run.rl.kl.coef)
        (part,), _ = shards(self.batch, 1, MAX_TOKENS)
        self.microbatches = len(part.microbatches)

    def _count(self, name, model):
        self.forwards[name] = []
        model.register_forward_hook(lambda *_: self.forwards[name].append(torch.is_grad_enabled()))


def test_on_policy_grpo_costs_one_forward_per_microbatch(make_run, tiny):
    """No second pass for old_logprobs, no reference, no critic."""
    step = Step(make_run(policy=policy()), tiny)
    assert step.microbatches > 1
    assert step.forwards == {"policy": [True] * step.microbatches}
    assert step.batch.old_logprobs is None and step.batch.ref_logprobs is None


def test_the_engine_said_what_the_policy_says(make_run, tiny):
    step = Step(make_run(policy=policy()), tiny)
    assert step.learned["engine/logprob_diff"] < 1e-5
    assert step.learned["policy/ratio"] == pytest.approx(1.0)


def test_kl_as_a_loss_asks_the_reference_once_and_the_policy_no_more(make_run, tiny):
    algo = GRPO(name="grpo", kl=KL(coef=0.1, estimator="k3", where="loss"))
    step = Step(make_run(policy=policy(), algo=algo), tiny)
    assert step.forwards == {"policy": [True] * step.microbatches, "reference": [False] * step.microbatches}
    assert step.learned["policy/kl"] == pytest.approx(0.0, abs=1e-5)


def test_several_updates_need_the_old_logprobs_once(make_run, tiny):
    """Two epochs of two minibatches of 4 rows: one pass over all rows without gradient, then four updates."""
    step = Step(make_run(policy=policy(4), algo=GRPO(name="grpo", epochs=2)), tiny)
    forwards = step.forwards["policy"]
    assert forwards[: step.microbatches] == [False] * step.microbatches
    assert all(forwards[step.microbatches :]) and len(forwards) >= step.microbatches + 4
    assert step.learned["policy/ratio"] != 1.0


def test_ppo_asks_everyone(make_run, tiny):
    step = Step(make_run(policy=policy(), algo=PPO(name="ppo", kl=KL(coef=0.1))), tiny)
    assert set(step.forwards) == {"policy", "reference", "critic"}
    assert set(step.forwards["reference"]) == {False}
    assert step.forwards["critic"].count(False) >= 1 and step.forwards["critic"].count(True) >= 1
    assert {"critic/loss", "critic/lr", "policy/loss", "policy/lr"} <= step.learned.keys()
    assert all(value == value for value in step.learned.values())


def rows(count):
    return RolloutBatch.from_sequences([[i + 1] for i in range(count)], [[9]] * count, group=range(count))


def read(batches):
    return [batch.tokens[:, 0].tolist() for batch in batches]


def test_one_update_takes_the_rollout_as_it_is(make_run):
    batch = rows(8)
    (only,) = minibatches(batch, 8, make_run(), 1)
    assert only is batch


def test_each_epoch_meets_every_row_once_in_another_order(make_run):
    run = make_run(algo=GRPO(name="grpo", epochs=2))
    found = read(minibatches(rows(8), 4, run, 1))
    assert list(map(len, found)) == [4] * 4
    assert sorted(found[0] + found[1]) == sorted(found[2] + found[3]) == list(range(1, 9))
    assert found[0] + found[1] != found[2] + found[3]


def test_the_order_follows_seed_and_step(make_run):
    def order(seed, step):
        return read(minibatches(rows(8), 4, make_run(seed=seed), step))

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(2, 1) and order(1, 1) != order(1, 2)


class Known:
    def __init__(self, **metrics):
        self.metrics = metrics

    def get(self):
        return self.metrics


def test_metrics_are_means_over_updates():
    assert mean([Known(loss=1.0, lr=0.5), Known(loss=3.0, lr=0.3)]) == {"loss": 2.0, "lr": 0.4}
    assert mean([]) == {}
