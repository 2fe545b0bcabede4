"""The learner: for every objective, packed equals padded and sharded equals unsharded."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_hydra.algos.divergence import divergence
from rlhf_hydra.algos.objectives import Totals, objective
from rlhf_hydra.algos.table import algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.crew import recipes
from rlhf_hydra.cluster.group import LocalGroup
from rlhf_hydra.cluster.roles import Learner, Summed, shards
from rlhf_hydra.config.schema import (
    DPO,
    KD,
    KL,
    KTO,
    ORPO,
    PPO,
    PRM,
    RM,
    SFT,
    Critic,
    Data,
    Policy,
    Reference,
    SimPO,
    Strategy,
    Teacher,
    ToyData,
)
from rlhf_hydra.data.formats import rows_each
from rlhf_hydra.models.hub import OtherVocabulary
from rlhf_hydra.models.packed import pack
from rlhf_hydra.models.tiny import build_tiny
from rlhf_hydra.models.value import ValueModel
from rlhf_hydra.strategy.base import Rank
from rlhf_hydra.supervised import consult
from rlhf_hydra.workers.supervised import LearnerWorker, NoStepToken

MAX_TOKENS = 24
SIZES = [(3, 6), (2, 5), (4, 1), (1, 6), (3, 3), (2, 6), (5, 2), (1, 4)]
"""Tokens of prompt and response; of pairs, the chosen and the rejected one after the other."""

OBJECTIVES = {
    "sft": SFT(name="sft"),
    "rm": RM(name="rm"),
    "prm": PRM(name="prm"),
    "dpo": DPO(name="dpo", nll_coef=0.5),
    "simpo": SimPO(name="simpo"),
    "orpo": ORPO(name="orpo"),
    "kto": KTO(name="kto"),
    "kd": KD(name="kd", temperature=2.0),
    "kd top 3": KD(name="kd", direction="reverse", top_k=3),
}


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Another tiny model, of the same vocabulary."""
    return str(build_tiny(tmp_path_factory.mktemp("teacher"), seed=1))


@pytest.fixture(scope="session")
def lesson():
    g = torch.Generator().manual_seed(0)
    prompts, responses = zip(
        *[[torch.randint(3, 12, (n,), generator=g).tolist() for n in size] for size in SIZES], strict=True
    )
    batch = RolloutBatch.from_sequences(prompts, responses, group=range(len(SIZES)))
    return batch.replace(
        labels=torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
        step_labels=torch.rand(batch.tokens.shape, generator=g) * batch.response_mask,
        ref_totals=-3.0 * batch.response_mask.sum(1) + torch.rand(len(batch), generator=g),
    )


@pytest.fixture(params=OBJECTIVES)
def run(request, make_run, teacher):
    algo = OBJECTIVES[request.param]
    if isinstance(algo, KD):
        algo.teacher = Teacher(path=teacher)
    return make_run(algo=algo, data=ToyData(name="toy", step_tokens=["o", "n"]))


def totals_of(run, batch):
    return Totals(**{**vars(Totals.count(batch, unit_of(run) == 2)), "kl": 0.2})


def unit_of(run):
    return rows_each(run.supervised)


def padded(run, folder, batch, teacher):
    """What the objective reads, from plain transformers models on the padded batch, the head being the worker's."""
    attend = (torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]).long()
    if objective(run.supervised).output == "scores":
        worker = LearnerWorker(run, folder, Rank())
        body = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).base_model
        hidden = body(input_ids=batch.tokens, attention_mask=attend).last_hidden_state
        return worker.inner.score(hidden).squeeze(-1)[torch.arange(len(batch)), batch.lengths - 1]

    def logits(path):
        lm = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        return lm(input_ids=batch.tokens, attention_mask=attend).logits

    mine = logits(folder)
    if objective(run.supervised).output == "choices":
        good, bad = 17, 16  # o and n: letters follow 3 special tokens
        return (mine[..., good] - mine[..., bad]) * batch.response_mask
    before = torch.nn.functional.pad(mine[:, :-1], (0, 0, 1, 0))
    logprobs = before.log_softmax(-1).gather(-1, batch.tokens[..., None]).squeeze(-1) * batch.response_mask
    if objective(run.supervised).output == "logprobs":
        return logprobs
    theirs = torch.nn.functional.pad(logits(teacher)[:, :-1], (0, 0, 1, 0))
    cfg = run.algo
    distance = divergence(before.flatten(0, 1), theirs.flatten(0, 1), cfg.temperature, cfg.direction, cfg.top_k)
    return logprobs, distance.view(logprobs.shape) * batch.response_mask


def test_packed_equals_padded(run, tiny, teacher, lesson):
    totals = totals_of(run, lesson)
    with torch.no_grad():
        _, wanted = objective(run.supervised).loss(padded(run, tiny, lesson, teacher), lesson, totals, run.algo)
    group = LocalGroup("policy", lambda rank: LearnerWorker(run, tiny, rank), 1)
    found = Learner(group, MAX_TOKENS, unit_of(run)).evaluate(lesson, totals).get()
    assert found == {f"eval/{name}": pytest.approx(value.item(), abs=1e-5) for name, value in wanted.items()}
    assert wanted["loss"].abs() > 0.1


def passes(run, folder, batch, size, max_tokens):
    """Gradients of one step over `size` shards, and its metrics, added up as the driver does."""
    totals, gradients, metrics = totals_of(run, batch), {}, []
    for part in shards(batch, size, max_tokens, unit_of(run))[0]:
        worker = LearnerWorker(run, folder, Rank())
        for name, parameter in worker.inner.named_parameters():
            parameter.register_hook(lambda g, n=name: gradients.__setitem__(n, gradients.get(n, 0) + g))
        metrics.append(worker.step(part, totals))

    class Found:
        def get(self):
            return metrics

    return gradients, Summed(Found()).get()


@pytest.mark.parametrize(("size", "max_tokens"), [(2, 1000), (3, MAX_TOKENS)])
def test_sharded_equals_unsharded(run, tiny, lesson, size, max_tokens):
    """Over three workers, one has fewer micro-batches with rows, and pairs stay together."""
    wanted, wanted_metrics = passes(run, tiny, lesson, 1, 1000)
    found, metrics = passes(run, tiny, lesson, size, max_tokens)
    assert max(g.abs().max() for g in wanted.values()) > 1e-3
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert metrics.keys() == wanted_metrics.keys()
    for name in metrics.keys() - {"policy/grad_norm"}:
        assert metrics[name] == pytest.approx(wanted_metrics[name], abs=1e-5), name


def test_a_worker_without_rows_adds_nothing(run, tiny, lesson):
    """Two examples over three workers."""
    batch = lesson[: 2 * unit_of(run)]
    idle = next(part for part in shards(batch, 3, 1000, unit_of(run))[0] if part.microbatches == [[]])
    worker = LearnerWorker(run, tiny, Rank())
    metrics = worker.step(idle, totals_of(run, batch))
    assert metrics.pop("policy/lr") > 0 and set(metrics.values()) == {0.0}


def test_evaluation_changes_nothing(run, tiny, lesson):
    worker = LearnerWorker(run, tiny, Rank())
    before = {name: tensor.clone() for name, tensor in worker.trainer.weights()}
    (part,), _ = shards(lesson, 1, MAX_TOKENS, unit_of(run))
    metrics = worker.evaluate(part, totals_of(run, lesson))
    assert worker.evaluate(part, totals_of(run, lesson)) == metrics
    assert all(torch.equal(before[name], tensor) for name, tensor in worker.trainer.weights())
    assert all(parameter.grad is None for parameter in worker.inner.parameters())


def test_logits_in_chunks_change_nothing(make_run, tiny, teacher, lesson):
    """Three tokens of the teacher and of the student at a time, made again in the backward pass."""
    run = make_run(algo=KD(name="kd", teacher=Teacher(path=teacher)))
    found = []
    for at_once in (2**28, 3 * 19):
        worker, gradients = LearnerWorker(run, tiny, Rank()), {}
        worker.trainer.model.logits_at_once = at_once
        for name, parameter in worker.inner.named_parameters():
            parameter.register_hook(lambda g, n=name, all=gradients: all.__setitem__(n, g.clone()))
        (part,), _ = shards(lesson, 1, 1000)
        metrics = worker.step(part, totals_of(run, lesson))
        found.append((metrics["train/kl"], gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_a_teacher_is_not_trained_and_not_saved(make_run, tiny, teacher, lesson, tmp_path):
    run = make_run(algo=KD(name="kd", teacher=Teacher(path=teacher)))
    worker = LearnerWorker(run, tiny, Rank())
    before = {name: tensor.clone() for name, tensor in worker.teaching.weights()}
    (part,), _ = shards(lesson, 1, MAX_TOKENS)
    worker.step(part, totals_of(run, lesson))
    assert all(torch.equal(before[name], tensor) for name, tensor in worker.teaching.weights())
    worker.export(tmp_path, {})
    assert AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters() == 300_416


def test_a_teacher_a_reference_or_a_critic_with_other_tokens_is_refused(make_run, tiny, tmp_path):
    build_tiny(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text().replace('"p"', '"q"')
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(OtherVocabulary, match="algo.teacher.path"):
        LearnerWorker(make_run(algo=KD(name="kd", teacher=Teacher(path=str(tmp_path)))), tiny, Rank())
    reference, critic = Reference(path=str(tmp_path)), Critic(path=str(tmp_path))
    with pytest.raises(OtherVocabulary, match="reference.path: .* has other tokens than the policy"):
        consult(make_run(algo=DPO(name="dpo"), reference=reference), tiny, {}, tmp_path / "said", print)
    for changes in ({"reference": reference}, {"critic": critic}):
        run = make_run(algo=PPO(name="ppo", kl=KL(coef=0.1)), **changes)
        with pytest.raises(OtherVocabulary, match=f"{next(iter(changes))}.path"):
            recipes(run, algorithm(run.rl, run.rollout), tiny)


def test_step_tokens_must_be_tokens(make_run, tiny):
    run = make_run(algo=PRM(name="prm"), data=Data(name="steps"))  # + and -, which tiny does not know
    with pytest.raises(NoStepToken, match=r"data.step_tokens: '\+'"):
        LearnerWorker(run, tiny, Rank())


def test_a_reward_model_is_an_ordinary_classifier(make_run, tiny, lesson, tmp_path):
    """Loaded by transformers, padded, it scores as the worker does; its statistics are in its config."""
    worker = LearnerWorker(make_run(algo=RM(name="rm")), tiny, Rank())
    (part,), _ = shards(lesson, 1, MAX_TOKENS, 2)
    worker.step(part, Totals.count(lesson, True))
    metrics = worker.evaluate(part, Totals.count(lesson, True))
    worker.export(tmp_path, {"mean": 0.5, "std": 2.0})
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert (model.config.num_labels, model.config.mean, model.config.std) == (1, 0.5, 2.0)
    attend = (torch.arange(lesson.tokens.shape[1]) < lesson.lengths[:, None]).long()
    with torch.no_grad():
        scores = model(input_ids=lesson.tokens, attention_mask=attend).logits.squeeze(-1)
    assert metrics["eval/chosen_reward"] == pytest.approx(scores[0::2].mean().item(), abs=1e-5)
    assert metrics["eval/rejected_reward"] == pytest.approx(scores[1::2].mean().item(), abs=1e-5)
    assert ValueModel.load(str(tmp_path)).classifier.num_labels == 1


@pytest.mark.parametrize(("pad", "unk", "exported"), [("<eos>", "<unk>", 2), (None, "<unk>", 2), ("<eos>", "<eos>", 0)])
def test_a_reward_model_whose_texts_end_in_padding_is_read_at_their_end(make_run, tmp_path, pad, unk, exported):
    """Plain transformers reads the last token that is not padding: in a text with EOS, 1, that is to be EOS."""
    base, folder = build_tiny(tmp_path / "base"), tmp_path / "rm"
    tokenizer, config = AutoTokenizer.from_pretrained(base), AutoConfig.from_pretrained(base)
    tokenizer.pad_token, tokenizer.unk_token = pad, unk
    tokenizer.save_pretrained(base)
    config.pad_token_id = tokenizer.pad_token_id
    config.save_pretrained(base)
    worker = LearnerWorker(make_run(algo=RM(name="rm")), str(base), Rank())
    rows = [[3, 4, 5, 1], [4, 1], [5, 5, 1]]
    batch = RolloutBatch.from_sequences([row[:1] for row in rows], [row[1:] for row in rows], group=range(3))
    wanted = worker._read(pack(batch), train=False)[0].tolist()
    worker.export(folder, {})
    model, words = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.pad_token_id == words.pad_token_id == exported
    with torch.no_grad():
        found = model(**words.pad({"input_ids": rows}, return_tensors="pt")).logits.squeeze(-1)
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_a_reward_model_begins_with_a_small_head_that_the_seed_decides(make_run, tiny):
    heads = [
        LearnerWorker(make_run(algo=RM(name="rm"), seed=seed), tiny, Rank()).inner.score.weight for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert heads[0].std().item() == pytest.approx((128 + 1) ** -0.5, rel=0.2)


def test_goes_on_exactly_after_save_and_load(run, tiny, lesson, tmp_path):
    run.policy, run.steps = Policy(ema=0.5, optim=run.policy.optim), 8
    totals = totals_of(run, lesson)
    (part,), _ = shards(lesson, 1, MAX_TOKENS, unit_of(run))
    straight = LearnerWorker(run, tiny, Rank())
    straight.step(part, totals)
    straight.save(tmp_path)
    metrics = straight.step(part, totals)
    resumed = LearnerWorker(run, tiny, Rank())
    resumed.load(tmp_path)
    assert resumed.step(part, totals) == metrics
    for read in ("weights", "averages"):
        pairs = zip(getattr(straight.trainer, read)(), getattr(resumed.trainer, read)(), strict=True)
        assert all(torch.equal(one, other) for (_, one), (_, other) in pairs)


def test_gradient_checkpointing_changes_nothing(run, tiny, lesson):
    plain = passes(run, tiny, lesson, 1, 1000)[0]
    run.strategy = Strategy(gradient_checkpointing=True)
    again = passes(run, tiny, lesson, 1, 1000)[0]
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


def test_a_reward_models_experts_are_balanced(make_run, tiny_experts, lesson):
    """The router loss is weighted by the micro-batches' response tokens, and its gradient reaches the routers."""
    plain = passes(make_run(algo=RM(name="rm")), tiny_experts, lesson, 1, MAX_TOKENS)
    gradients, metrics = passes(
        make_run(algo=RM(name="rm"), policy=Policy(router_coef=0.5)), tiny_experts, lesson, 1, MAX_TOKENS
    )
    assert 1.8 < metrics["train/router_loss"] < 3 and "train/router_loss" not in plain[1]  # 2 where they are even
    assert metrics["train/loss"] == pytest.approx(plain[1]["train/loss"], rel=1e-5)
    gates = [name for name in gradients if name.endswith("gate.weight")]
    assert len(gates) == 2
    assert all((gradients[name] - plain[0][name]).abs().max() > 1e-4 for name in gates)
