"""Whole supervised runs in this process."""

import math
from dataclasses import replace

import pytest
import torch
from driving import algorithms, compose, run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_hydra.algos.objectives import objective
from rlhf_hydra.cluster.group import LocalGroup
from rlhf_hydra.cluster.roles import Learner
from rlhf_hydra.config.schema import ProcessReward, Supervised
from rlhf_hydra.data.examples import load_examples
from rlhf_hydra.data.report import Progress
from rlhf_hydra.exam import measure
from rlhf_hydra.lessons import Lessons, Passes, others, watched
from rlhf_hydra.models.hub import resolve
from rlhf_hydra.models.packed import pack
from rlhf_hydra.rewards.base import Sample
from rlhf_hydra.supervised import prepare
from rlhf_hydra.tasks import begin
from rlhf_hydra.tracking import jsonl
from rlhf_hydra.workers.reward import ProcessModel
from rlhf_hydra.workers.supervised import LearnerWorker

QUICK = [
    "model=tiny",
    "data=toy",
    "data.rows=128",
    "data.letters=4",
    "policy.samples_per_update=32",
    "eval.every=10",
    "eval.holdout=0.1",
]

TARGETS = {
    # The tiny model cannot count equal letters, so a response ends with probability 1/5 after each of its tokens:
    # H(1/5) = 0.5004 nats a token are the least that is possible.
    "sft": 0.53,
    "rm": 0.05,
    "prm": 0.55,
    "dpo": 0.1,
    "ipo": 3.0,  # of 25 at the start, (1 / (2 * 0.1))^2
    "cdpo": 0.36,  # the least is H(0.1) = 0.3251
    "simpo": 0.1,
    "orpo": 0.60,  # the least is that of SFT
    "kto": 0.3,
    "kd": 0.01,
}
"""Evaluation loss that is reached in 40 steps; an objective that is not listed must halve it."""


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Folder of a model that knows the toy task."""
    folder = tmp_path_factory.mktemp("taught")
    run(folder, *QUICK, "algo=sft", "steps=20")
    return folder / "model"


def needed(algo, taught):
    return [f"algo.teacher.path={taught}", "algo.coef=1"] if algo == "kd" else []


def series(rows, name):
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize("algo", algorithms(Supervised))
def test_every_objective_learns_the_toy_task(algo, tmp_path, taught):
    rows = run(tmp_path, *QUICK, f"algo={algo}", "steps=40", *needed(algo, taught))
    losses = series(rows, "eval/loss")
    assert len(losses) == 5  # before the first step, and after 10, 20, 30, 40
    assert losses[-1] < TARGETS.get(algo, losses[0] / 2) < losses[0]
    accuracy = series(rows, "eval/accuracy")
    assert not accuracy or accuracy[-1] >= 0.6
    assert all(value is not None for row in rows for value in row.values())  # what is not finite is written as null
    assert len(series(rows, "train/loss")) == 40
    if algo == "prm":
        assert_judges_as_it_learned(tmp_path / "model", losses[-1])


def assert_judges_as_it_learned(folder, loss):
    """As a reward, a process model finds in the held-out steps the loss that the run ended with."""
    config, tokenizer = compose(*QUICK, "algo=prm"), AutoTokenizer.from_pretrained(folder)
    batch = prepare(config, tokenizer, print)[1].batch(range(13))
    texts = ["".join(tokenizer.convert_ids_to_tokens(tokens)) for tokens in batch.tokens]
    pairs = [(text[0], text[1:9:2]) for text in texts]  # c cpdpcpcp: prompt c, steps c d c c
    samples = [Sample(*pair, tokens=tokenizer("".join(pair)).input_ids, prompt_tokens=1) for pair in pairs]
    words = {"separator": "", "template": "{step}p", "placeholder": "p", "step_tokens": ["o", "n"]}
    scores = ProcessModel(ProcessReward("prm", path=str(folder), **words), config, str(folder))(samples)
    found = torch.tensor([step.reward for steps in scores.steps for step in steps])
    right = batch.step_labels[batch.response_mask]
    assert found.shape == (13 * 4,)
    assert torch.nn.functional.binary_cross_entropy(found, right).item() == pytest.approx(loss, abs=1e-4)
    assert found[right == 1].mean() > found[right == 0].mean() + 0.1


@pytest.mark.parametrize(
    "options",
    [
        ["algo=sft", "policy.ema=0.9", "strategy.name=deepspeed"],
        ["algo=rm"],
        ["algo=dpo"],
        ["algo=kto"],
    ],
)
def test_a_resumed_run_equals_one_that_never_stopped(options, tmp_path):
    """In the middle of a pass, whose last batch is smaller; what the reference said is read again, not asked again."""
    options = [*QUICK, *options, "steps=6", "eval.every=2"]
    straight = run(tmp_path / "straight", *options)
    run(tmp_path / "resumed", *options, "checkpoint.every=3", "checkpoint.keep=5")
    (tmp_path / "resumed/checkpoints/step-000006").rename(tmp_path / "away")
    kept = tmp_path / "resumed/reference.safetensors"
    before = kept.stat() if kept.exists() else None
    assert run(tmp_path / "resumed", *options, resume=True) == straight
    assert (kept.stat() if kept.exists() else None) == before
    for file in ("model/model.safetensors", "model/config.json"):
        assert (tmp_path / "resumed" / file).read_bytes() == (tmp_path / "straight" / file).read_bytes()


def test_a_run_does_not_go_on_with_other_data_or_weights_and_stays_what_it_was(tmp_path, capsys):
    options = [*QUICK, "algo=dpo", "steps=4"]
    begin(compose(*options), tmp_path, "as typed")
    kept = [tmp_path / name for name in ("run.yaml", "reference.safetensors", "metrics.jsonl")]
    before = [file.read_bytes() for file in kept]
    for other, says in (("data.rows=64", "the data has changed"), ("policy.lora.rank=2", "the saved weights are not")):
        with pytest.raises(SystemExit):
            begin(compose(*options, other, "steps=5"), tmp_path, "as typed", resume=True)
        assert f"cannot resume: {says}" in capsys.readouterr().out
        assert [file.read_bytes() for file in kept] == before
    begin(compose(*options, "steps=5"), tmp_path, "as typed", resume=True)
    assert "steps: 5" in (tmp_path / "run.yaml").read_text()


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path):
    options = [*QUICK, "algo=rm", "steps=3"]
    first = run(tmp_path / "first", *options)
    assert run(tmp_path / "second", *options) == first
    assert run(tmp_path / "other", *options, "seed=1") != first


def test_what_a_run_leaves(tmp_path):
    rows = run(tmp_path, *QUICK, "algo=dpo", "steps=0", "algo.epochs=2")
    assert rows[-1]["step"] == 8  # 115 pairs are 4 batches, twice
    assert [row["step"] for row in rows if "eval/loss" in row] == [0, 8]
    step = next(row for row in rows if row["step"] == 4 and "train/loss" in row)
    assert step.keys() >= {"train/loss", "train/accuracy", "train/margin", "policy/lr", "policy/grad_norm"}
    assert step["tokens/trained"] == (115 - 3 * 32) * 2 * 6  # what is left of the pass, in rows of six tokens
    assert "time/step_s" in jsonl.read(tmp_path / jsonl.METRICS)[1]
    assert (tmp_path / "curves.png").stat().st_size > 1000
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "model")("c", return_tensors="pt")
    assert model(**tokens).logits.shape[-1] == model.config.vocab_size


# ------------------------------------------------------------------------------------------------------- reference


def test_before_the_first_step_policy_and_reference_are_one(tmp_path, taught):
    own = run(tmp_path / "own", *QUICK, "algo=dpo", "steps=1")
    assert own[0]["eval/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert own[0]["eval/margin"] == pytest.approx(0, abs=1e-5)
    other = run(tmp_path / "other", *QUICK, "algo=dpo", "steps=1", f"reference.path={taught}")
    assert other[0]["eval/loss"] > 0.8  # the reference prefers what is chosen, and the policy does not yet
    assert other[0]["eval/margin"] < -0.2


def test_the_reference_is_asked_about_the_examples_that_the_run_meets(tmp_path, capsys):
    """Two steps of 32 pairs, of 115, and the 13 held-out pairs; a run that goes on asks about what it will meet."""
    options = [*QUICK, "algo=dpo", "eval.every=2"]
    rows = run(tmp_path, *options, "steps=2")
    assert "asking the reference about 77 examples" in capsys.readouterr().out
    said = load_file(tmp_path / "reference.safetensors")["train/own"].view(115, 2)
    assert said.isnan().any(1).sum() == 115 - 64
    assert all(math.isfinite(row[name]) for row in rows for name in row if name.endswith("loss"))
    more = run(tmp_path, *options, "steps=5", resume=True)
    assert "asking the reference about 128 examples" in capsys.readouterr().out
    assert len(series(more, "train/loss")) == 5 and all(map(math.isfinite, series(more, "train/loss")))


def test_a_long_pass_of_the_reference_says_when_it_ends():
    said = []
    progress = Progress("reference", said.append, total=3000)
    progress.began, progress.due = progress.began - 10, 0
    assert list(watched(iter([[0] * 2000, [1] * 1000]), progress)) == [[0] * 2000, [1] * 1000]
    assert said == ["reference: 2,000 of 3,000 rows in 10 s, 200 rows/s, 5 s left"]


@given(st.integers(2, 40), st.integers(0, 3))
def test_each_response_goes_to_one_other_prompt(count, seed):
    found = others(count, seed)
    assert sorted(found) == list(range(count))
    assert all(other != item for item, other in enumerate(found))


def lessons_of(*overrides):
    config = compose(*QUICK, *overrides)
    tokenizer = AutoTokenizer.from_pretrained(resolve(config.model.path))
    examples, _ = load_examples(config.data, config.supervised, tokenizer, config.model.context_tokens)
    return config, Lessons(examples, objective(config.supervised), seed=0, max_tokens=config.model.context_tokens)


def test_mismatched_rows_are_another_examples_response_to_the_own_prompt():
    _, lessons = lessons_of("algo=kto")
    rows = lessons.mismatched([0, 5])
    for row, item in enumerate((0, 5)):
        own, other = lessons.batch([item]), lessons.batch([lessons.others[item]])
        assert rows.tokens[row, 0] == own.tokens[0, 0]
        assert torch.equal(rows.tokens[row, 1:6], other.tokens[0, 1:6])
        assert rows.response_mask[row].tolist() == [False, *[True] * 5]


def test_mismatched_rows_are_cut_where_the_model_ends():
    _, lessons = lessons_of("algo=kto")
    lessons.max_tokens = 4
    assert lessons.mismatched([0]).lengths.tolist() == [4]


# ------------------------------------------------------------------------------------------------ order, evaluation


@given(st.integers(1, 128), st.integers(0, 5))
def test_a_pass_meets_every_example_once_in_an_order_of_its_own(size, seed):
    _, lessons = PLAIN
    passes = Passes(lessons, size, seed)
    rounds = []
    for _ in range(2):
        met = []
        while len(met) < len(lessons):
            taken = passes.take()
            assert len(taken) == min(size, len(lessons) - len(met))
            met += taken
        rounds.append(met)
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(len(lessons)))
    assert rounds[0] != rounds[1]


PLAIN = lessons_of("algo=sft", "data.rows=100")


@pytest.mark.parametrize("algo", ["sft", "rm", "kto"])
def test_an_evaluation_is_exact_whatever_the_batch_and_the_number_of_workers(algo):
    config, lessons = lessons_of(f"algo={algo}", "data.rows=25")
    folder = resolve(config.model.path)
    if lessons.goal.needs_reference:
        lessons.known = {name: torch.linspace(-9, -8, len(lessons)) for name in ("own", "mismatched")}
    found = []
    for workers, size, budget in ((1, 1000, 10_000), (1, 7, 10_000), (2, 4, 40), (3, 1, 40)):
        # As readers: only an update needs a process group.
        group = LocalGroup("policy", lambda rank: LearnerWorker(config, folder, replace(rank, size=1)), workers)
        found.append(measure(Learner(group, budget, lessons.unit), lessons, size))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def test_patience_ends_a_run_that_no_longer_improves(tmp_path):
    options = ["checkpoint.best=eval/loss", "checkpoint.patience=2"]
    rows = run(tmp_path, *QUICK, "algo=prm", "steps=200", "eval.every=4", "data.rows=48", *options)
    losses = series(rows, "eval/loss")
    least = losses.index(min(losses))
    assert len(losses) == least + 3 and rows[-1]["step"] < 200
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} >= {"best", f"step-{rows[-1]['step']:06d}"}
    assert run(tmp_path, *QUICK, "algo=prm", "steps=200", "eval.every=4", "data.rows=48", *options, resume=True) == rows


# ---------------------------------------------------------------------------------------------------- reward models


def test_a_reward_model_serves_as_reward_and_as_start_of_the_critic(tmp_path):
    rows = run(tmp_path / "rm", *QUICK, "algo=rm", "steps=10")
    folder = tmp_path / "rm/model"
    config = AutoModelForSequenceClassification.from_pretrained(folder).config
    assert (config.mean, config.std) == (rows[-1]["eval/reward_mean"], rows[-1]["eval/reward_std"])
    sizes = ["rollout.prompts_per_step=8", "rollout.samples_per_prompt=2", "policy.samples_per_update=16"]
    shaping = ["algo.shaping.normalize=stored", f"algo.shaping.mean={config.mean}", f"algo.shaping.std={config.std}"]
    model = ["reward=model", f"reward.path={folder}", f"critic.path={folder}", "critic.samples_per_update=16"]
    ppo = run(tmp_path / "ppo", "model=tiny", "data=toy", "algo=ppo", "steps=1", *sizes, *shaping, *model)
    assert ppo[0]["reward/mean"] < config.mean + 3 * config.std


def test_deviation_of_rewards_is_that_of_all_of_them(tmp_path):
    """Two halves: chosen and rejected. std^2 = mean of the squares less the square of the mean."""
    config, lessons = lessons_of("algo=rm", "data.rows=20")
    group = LocalGroup("policy", lambda rank: LearnerWorker(config, resolve(config.model.path), rank), 1)
    found = measure(Learner(group, 10_000, 2), lessons, 7)
    batch = lessons.batch(range(20))
    (worker,) = group.workers
    scores, _ = worker._read(pack(batch), train=False)
    assert found["eval/reward_mean"] == pytest.approx(scores.mean().item(), abs=1e-5)
    assert found["eval/reward_std"] == pytest.approx(scores.std(correction=0).item(), abs=1e-5)
