"""Reward models; rules, functions and composites are tested in their own room."""

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from rlhf_hydra.config.schema import CompositeReward, FunctionReward, ModelReward, ProcessReward, RuleReward, Strategy
from rlhf_hydra.rewards.base import RewardError, Sample, Scores, Step
from rlhf_hydra.strategy.base import Rank
from rlhf_hydra.workers.reward import ProcessModel, RewardModel, RewardWorker, step_spans

TEXTS = [("ab", "abab"), ("c", "ccc"), ("abc", "d"), ("a", "abcdabcdabcd"), ("ab", "abab")]


def save_classifier(folder, tiny, labels=1, tokenizer=None):
    config = AutoConfig.from_pretrained(tiny, num_labels=labels)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny, config=config)
    torch.nn.init.normal_(model.score.weight, std=1.0)
    model.save_pretrained(folder)
    (tokenizer or AutoTokenizer.from_pretrained(tiny)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def scorer(tiny, tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("scorer"), tiny)


@pytest.fixture(scope="module")
def samples(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    return [
        Sample(prompt, response, group=i, tokens=tokenizer(prompt + response).input_ids)
        for i, (prompt, response) in enumerate(TEXTS)
    ]


def plain_scores(folder, rows):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return [model(torch.tensor([row])).logits.item() for row in rows]


@pytest.mark.parametrize("budget", [1, 14, 1000])
def test_scores_are_those_of_transformers(tiny, scorer, make_run, samples, budget):
    """In micro-batches of one row, of some, and all at once."""
    model = RewardModel(ModelReward("rm", path=scorer, tokens_per_microbatch=budget), make_run(), tiny)
    assert model.shares_tokens
    scores = model(samples)
    wanted = plain_scores(scorer, [s.tokens for s in samples])
    assert scores.total == pytest.approx(wanted, abs=1e-5) and scores.parts == {"rm": scores.total}
    assert scores.total[0] == pytest.approx(scores.total[4], abs=1e-6) and len({round(s, 3) for s in wanted}) == 4


def test_in_16_bits_a_model_still_counts_positions_in_32(tiny, scorer, make_run):
    run = make_run(strategy=Strategy(dtype="bfloat16"))
    model = RewardModel(ModelReward("rm", path=scorer), run, tiny).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


def other_vocabulary():
    """Letters in another order."""
    letters = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *reversed("abcdefgh")])}
    core = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def test_another_vocabulary_reads_the_text_again(tiny, make_run, samples, tmp_path):
    tokenizer = other_vocabulary()
    folder = save_classifier(tmp_path, tiny, tokenizer=tokenizer)
    model = RewardModel(ModelReward("rm", path=folder), make_run(), tiny)
    assert not model.shares_tokens
    wanted = plain_scores(folder, tokenizer([s.prompt + s.response for s in samples]).input_ids)
    assert model(samples).total == pytest.approx(wanted, abs=1e-5)
    assert wanted != pytest.approx(plain_scores(folder, [s.tokens for s in samples]), abs=1e-3)


@pytest.mark.parametrize("tokenizer", [None, other_vocabulary()])
def test_no_samples_have_no_scores(tiny, make_run, tmp_path, tokenizer):
    folder = save_classifier(tmp_path, tiny, tokenizer=tokenizer)
    assert RewardModel(ModelReward("rm", path=folder), make_run(), tiny)([]).total == []


def test_a_text_without_tokens_is_refused(tiny, make_run, tmp_path):
    folder = save_classifier(tmp_path, tiny, tokenizer=other_vocabulary())
    model = RewardModel(ModelReward("rm", path=folder), make_run(), tiny)
    with pytest.raises(ValueError, match="rm: row 1 has no text"):
        model([Sample("a", "b"), Sample("", "")])


def test_a_language_model_is_no_reward_model(tiny, make_run):
    with pytest.raises(ValueError, match="no scalar head"):
        RewardModel(ModelReward("rm", path=tiny), make_run(), tiny)


def test_several_outputs_are_refused(tiny, make_run, tmp_path):
    with pytest.raises(ValueError, match="2 outputs"):
        RewardModel(ModelReward("rm", path=save_classifier(tmp_path, tiny, labels=2)), make_run(), tiny)


def test_the_worker_adds_up_a_model_and_a_rule(tiny, scorer, make_run, samples):
    parts = {"rm": ModelReward("rm", weight=2.0, path=scorer), "echo": RuleReward("echo", weight=0.5, rule="echo")}
    worker = RewardWorker(make_run(reward=CompositeReward("both", parts=parts)), tiny, Rank())
    scores = worker.score(samples)
    worker.close()
    model = plain_scores(scorer, [s.tokens for s in samples])
    assert scores.parts["rm"] == pytest.approx(model, abs=1e-5)
    wanted = [2.0 * m + 0.5 * e for m, e in zip(model, scores.parts["echo"], strict=True)]
    assert scores.total == pytest.approx(wanted, abs=1e-4)


def process(path, **changes):
    """The model reads `abp` as steps `a` and `b`, each closed by a `p`; `o` stands for good and `n` for bad."""
    toy = dict(separator="", template="{step}p", placeholder="p", step_tokens=["o", "n"])
    return ProcessReward("prm", path=path, **{**toy, **changes})


def plain_steps(folder, prompt, steps):
    """p(o) against n, after each step's last token: one whole forward for each."""
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    good, bad = tokenizer.convert_tokens_to_ids(["o", "n"])
    found = []
    for count in range(1, len(steps) + 1):
        with torch.no_grad():
            logits = lm(**tokenizer(prompt + "".join(steps[:count]), return_tensors="pt")).logits[0, -1]
        found.append(torch.softmax(logits[[good, bad]], 0)[0].item())
    return found


@pytest.fixture(scope="module")
def solutions(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    made = [("ab", "abc"), ("c", ""), ("c", "p")]
    return [
        Sample(p, r, tokens=tokenizer(p + r).input_ids, prompt_tokens=len(p), group=i) for i, (p, r) in enumerate(made)
    ]


@pytest.mark.parametrize("budget", [1, 1000])
def test_a_process_model_judges_each_step(tiny, make_run, solutions, budget):
    scores = ProcessModel(process(tiny, tokens_per_microbatch=budget), make_run(), tiny)(solutions)
    assert scores.total == [0, 0, 0]
    assert [[step.end for step in steps] for steps in scores.steps] == [[1, 2, 3], [], [1]]
    wanted = plain_steps(tiny, "ab", ["ap", "bp", "cp"])
    assert [step.reward for step in scores.steps[0]] == pytest.approx(wanted, abs=1e-5)
    assert scores.steps[2][0].reward == pytest.approx(plain_steps(tiny, "c", ["pp"])[0], abs=1e-5)


def test_outcomes_of_steps(tiny, make_run, solutions):
    a, b, c = plain_steps(tiny, "ab", ["ap", "bp", "cp"])
    wanted = {"sum": a + b + c, "mean": (a + b + c) / 3, "min": min(a, b, c), "last": c}
    for outcome, value in wanted.items():
        scores = ProcessModel(process(tiny, outcome=outcome), make_run(), tiny)(solutions)
        assert scores.steps is None and scores.total[1] == 0
        assert scores.total[0] == pytest.approx(value, abs=1e-5) and scores.parts == {"prm": scores.total}


def test_without_a_placeholder_it_judges_at_the_end_of_a_step(tiny, make_run):
    sample = Sample("c", "abpdp", tokens=AutoTokenizer.from_pretrained(tiny)("cabpdp").input_ids, prompt_tokens=1)
    model = ProcessModel(process(tiny, separator="p", template="{step}e", placeholder=None), make_run(), tiny)
    assert model([sample]).steps[0] == [
        Step(end, pytest.approx(reward, abs=1e-5))
        for end, reward in zip([2, 4], plain_steps(tiny, "c", ["abe", "de"]), strict=True)
    ]


def test_a_word_that_is_not_one_token_is_named(tiny, make_run):
    with pytest.raises(RewardError, match="prm: step_tokens: 'ab' is not one token"):
        ProcessModel(process(tiny, step_tokens=["ab", "n"]), make_run(), tiny)
    with pytest.raises(RewardError, match="prm: placeholder: '!' is not one token"):
        ProcessModel(process(tiny, placeholder="!"), make_run(), tiny)


@pytest.mark.parametrize(
    ("response", "separator", "spans"),
    [("a\n\nbc\n", "\n", [(0, 1), (3, 5)]), (" \n a", "\n", [(2, 4)]), ("ab", "", [(0, 1), (1, 2)]), ("", "\n", [])],
)
def test_steps_of_a_response(response, separator, spans):
    assert step_spans(response, separator) == spans


def test_a_worker_without_rows_does_not_ask_a_function(tiny, make_run, tmp_path):
    file = tmp_path / "best.py"
    file.write_text(
        "def best(samples):\n    return [len(s.response) / max(len(t.response) for t in samples) for s in samples]\n"
    )
    worker = RewardWorker(make_run(reward=FunctionReward("f", path=f"{file}:best")), tiny, Rank())
    assert worker.score([]) == worker.evaluate([]) == Scores([])
