import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.group import LocalGroup
from rlhf_hydra.cluster.roles import Summed, TokenModel, shards
from rlhf_hydra.config.schema import GRPO, KL, PTX, Engine, Policy, PolicyLoss, Strategy
from rlhf_hydra.models.packed import pack
from rlhf_hydra.models.policy import PolicyModel
from rlhf_hydra.strategy.base import Rank
from rlhf_hydra.workers.policy import PolicyWorker, ReferenceWorker

MAX_TOKENS = 20
KL_IN_LOSS = GRPO(name="grpo", kl=KL(coef=0.1, estimator="k3", where="loss"), loss=PolicyLoss(entropy_coef=0.01))


def summed_gradients(worker):
    """Name -> sum of the gradients of all backward passes to come."""
    total = {name: torch.zeros_like(p) for name, p in worker.lm.named_parameters()}
    for name, parameter in worker.lm.named_parameters():
        parameter.register_hook(lambda gradient, name=name: total[name].add_(gradient))
    return total


def passes(run, folder, batch, size, max_tokens=MAX_TOKENS, texts=None):
    """Gradients of one step over `size` shards, and its metrics, added up as the driver does."""
    parts, _ = shards(batch, size, max_tokens)
    beside = [()] * size
    if texts is not None:
        beside = [(part, StepTotals.of(texts)) for part in shards(texts, size, max_tokens)[0]]
    gradients, metrics = [], []
    for part, other in zip(parts, beside, strict=True):
        worker = PolicyWorker(run, folder, Rank())
        gradients.append(summed_gradients(worker))
        metrics.append(worker.step(part, StepTotals.of(batch), run.rl.kl.coef, *other))
    joined = {name: sum(g[name] for g in gradients) for name in gradients[0]}

    class Found:
        def get(self):
            return metrics

    return joined, Summed(Found()).get()


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum"])
@pytest.mark.parametrize(("size", "max_tokens"), [(2, 1000), (2, MAX_TOKENS), (3, MAX_TOKENS), (1, 9)])
def test_sharded_equals_unsharded(tiny, make_run, rollout, aggregation, size, max_tokens):
    """Gradients and metrics, over 1, 2 and 3 workers and micro-batches of different budgets."""
    algo = GRPO(name="grpo", kl=KL_IN_LOSS.kl, loss=PolicyLoss(entropy_coef=0.01, aggregation=aggregation))
    run = make_run(algo=algo)
    wanted, wanted_metrics = passes(run, tiny, rollout, 1, 1000)
    found, metrics = passes(run, tiny, rollout, size, max_tokens)
    assert max(g.abs().max() for g in wanted.values()) > 1e-3
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=0, msg=name)
    assert metrics.keys() == wanted_metrics.keys()
    for name in metrics.keys() - {"policy/grad_norm"}:
        assert metrics[name] == pytest.approx(wanted_metrics[name], abs=1e-5), name


def test_a_worker_without_rows_adds_nothing(tiny, make_run, rollout):
    """Two rows over three workers: the third one's micro-batch is empty, and its gradients are 0."""
    run, batch = make_run(algo=KL_IN_LOSS), rollout[[0, 1]]
    parts, _ = shards(batch, 3, MAX_TOKENS)
    idle = next(part for part in parts if part.microbatches == [[]])
    worker = PolicyWorker(run, tiny, Rank())
    gradients = summed_gradients(worker)
    metrics = worker.step(idle, StepTotals.of(batch), 0.1)
    assert not any(gradient.any() for gradient in gradients.values())
    assert metrics.pop("policy/lr") > 0 and set(metrics.values()) == {0.0}
    assert not worker.logprobs(idle, 1.0).any()


def count_forwards(worker):
    calls = []
    worker.lm.base_model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    return calls


def test_a_step_is_one_forward_per_microbatch(tiny, make_run, rollout):
    worker = PolicyWorker(make_run(), tiny, Rank())
    calls = count_forwards(worker)
    (part,), _ = shards(rollout.only("advantages"), 1, MAX_TOKENS)
    assert len(part.microbatches) > 2
    worker.step(part, StepTotals.of(rollout), 0.0)
    assert calls == [True] * len(part.microbatches)


def test_logprobs_come_back_in_the_rows_order(tiny, make_run, rollout):
    run = make_run()
    lm = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    wanted = torch.zeros(rollout.tokens.shape)
    for row, (tokens, length) in enumerate(zip(rollout.tokens, rollout.lengths, strict=True)):
        with torch.no_grad():
            logits = lm(tokens[None, :length]).logits[0] / 0.7
        chosen = logits.log_softmax(-1)[:-1].gather(-1, tokens[1:length, None]).squeeze(-1)
        wanted[row, 1:length] = chosen * rollout.response_mask[row, 1:length]
    for size in (1, 2, 3):
        group = LocalGroup("reference", lambda rank: ReferenceWorker(run, tiny, rank), size)
        found = TokenModel(group, MAX_TOKENS).logprobs(rollout, 0.7).get()
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_the_first_update_has_ratio_one(tiny, make_run, rollout):
    """Without old_logprobs the update is on-policy: ratio 1, nothing clipped."""
    worker = PolicyWorker(make_run(), tiny, Rank())
    (part,), _ = shards(rollout.only("advantages"), 1, MAX_TOKENS)
    metrics = worker.step(part, StepTotals.of(rollout), 0.0)
    assert metrics["policy/ratio"] == pytest.approx(1.0) and metrics["policy/clip_frac"] == 0


def test_gradient_checkpointing_changes_nothing(tiny, make_run, rollout):
    plain = passes(make_run(), tiny, rollout, 1)[0]
    again = passes(make_run(strategy=Strategy(gradient_checkpointing=True)), tiny, rollout, 1)[0]
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


@pytest.mark.parametrize(("size", "max_tokens"), [(1, 1000), (2, MAX_TOKENS), (3, 9)])
def test_given_texts_add_their_mean_loss_times_coef(tiny, make_run, rollout, size, max_tokens):
    """Over 1, 2 and 3 workers with different budgets; two texts on three workers leave one without."""
    run = make_run(algo=GRPO(name="grpo", ptx=PTX(coef=0.3)))
    texts = RolloutBatch.from_sequences([[3], [4, 5]], [[6, 7, 8], [9]], group=[0, 1])
    plain, _ = passes(make_run(), tiny, rollout, 1)
    found, metrics = passes(run, tiny, rollout, size, max_tokens, texts)
    lm = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    nll = [-lm(torch.tensor([row])).logits[0, :-1].log_softmax(-1) for row in ([3, 6, 7, 8], [4, 5, 9])]
    loss = (nll[0][0, 6] + nll[0][1, 7] + nll[0][2, 8] + nll[1][1, 9]) / 4
    (0.3 * loss).backward()
    assert metrics["policy/ptx_loss"] == pytest.approx(loss.item(), abs=1e-5)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient - plain[name], lm.get_parameter(name).grad, atol=2e-6, rtol=0, msg=name)


def test_a_step_adds_the_router_loss_of_its_micro_batches(tiny_experts, make_run, rollout):
    """The metric is their mean weighted by response tokens; the gradient goes to the routers, coef times its own."""
    run = make_run(policy=Policy(samples_per_update=8, router_coef=0.5))
    plain, metrics = passes(make_run(), tiny_experts, rollout, 1)
    balanced, more = passes(run, tiny_experts, rollout, 1)
    (part,), _ = shards(rollout, 1, MAX_TOKENS)
    model, share = PolicyModel.load(tiny_experts, router=True), 0.0
    for batch in part:
        share = share + model(pack(batch), 1.0).router * batch.response_mask.sum() / rollout.response_mask.sum()
    share.backward()
    assert len(part.microbatches) > 2 and "policy/router_loss" not in metrics
    assert more["policy/router_loss"] == pytest.approx(share.item(), rel=1e-5)
    for name, gradient in balanced.items():
        own = model.lm.get_parameter(name).grad
        own = torch.zeros_like(gradient) if own is None else own
        torch.testing.assert_close(gradient - plain[name], 0.5 * own, atol=1e-5, rtol=1e-4, msg=name)


def test_weights_have_the_names_of_the_checkpoint_and_the_engines_type(tiny, make_run):
    worker = PolicyWorker(make_run(engine=Engine(dtype="bfloat16")), tiny, Rank())
    stored = AutoModelForCausalLM.from_pretrained(tiny).state_dict()
    found = dict(worker.weights())
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name].bfloat16()) for name in stored)
    sent = [pair for bucket in worker.weight_buckets(100_000) for pair in bucket]
    assert [name for name, _ in sent] == list(found)
    assert all(torch.equal(tensor, found[name]) for name, tensor in sent)


def test_only_the_first_rank_sends(tiny, make_run):
    assert list(ReferenceWorker(make_run(), tiny, Rank(1, 2)).trainer.weights())
    worker = PolicyWorker(make_run(), tiny, Rank())
    worker.rank = Rank(1, 2)
    assert list(worker.weight_buckets(100_000)) == []


def test_exports_an_ordinary_folder(tiny, make_run, rollout, tmp_path):
    worker = PolicyWorker(make_run(), tiny, Rank())
    (part,), _ = shards(rollout, 1, MAX_TOKENS)
    worker.step(part, StepTotals.of(rollout), 0.0)
    worker.export(tmp_path)
    stored = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, tensor in worker.weights():
        assert torch.equal(stored.state_dict()[name], tensor)
    assert stored.config._attn_implementation != worker.lm.config._attn_implementation
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == AutoTokenizer.from_pretrained(tiny).get_vocab()


def test_goes_on_exactly_after_save_and_load(tiny, make_run, rollout, tmp_path):
    run = make_run(steps=8)
    (part,), _ = shards(rollout, 1, MAX_TOKENS)
    straight = PolicyWorker(run, tiny, Rank())
    straight.step(part, StepTotals.of(rollout), 0.0)
    straight.save(tmp_path)
    metrics = straight.step(part, StepTotals.of(rollout), 0.0)
    resumed = PolicyWorker(run, tiny, Rank())
    resumed.load(tmp_path)
    assert resumed.step(part, StepTotals.of(rollout), 0.0) == metrics
    assert all(torch.equal(dict(resumed.weights())[name], tensor) for name, tensor in straight.weights())
