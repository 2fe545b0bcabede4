"""Process rewards on their way from characters to tokens."""

import pytest
from driving import SMALL, run
from test_loop import SIZES
from transformers import AutoTokenizer

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.experience import column_of, placed
from rlhf_hydra.rewards.base import Sample, Step


class Syllables:
    """Tokens of 3, 1 and 2 characters, and one that is not shown."""

    def decode(self, tokens, skip_special_tokens):
        return "".join({3: "abc", 4: "d", 5: "ef", 1: ""}[token] for token in tokens)


SAMPLE = Sample("?", "abcdefd", tokens=[9, 9, 3, 4, 5, 4, 1], prompt_tokens=2)


@pytest.mark.parametrize(("end", "column"), [(1, 2), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5)])
def test_a_step_ends_at_the_token_that_holds_its_last_character(end, column):
    assert column_of(end, SAMPLE, Syllables()) == column


def test_rewards_of_steps_stand_at_their_tokens():
    other = Sample("?", "d", tokens=[9, 4], prompt_tokens=1)
    batch = RolloutBatch.from_sequences([[9, 9], [9]], [[3, 4, 5, 4, 1], [4]], group=[0, 1])
    steps = [[Step(3, 0.5), Step(7, 2.0), Step(2, 0.25)], []]
    found = placed(steps, [SAMPLE, other], Syllables(), batch)
    assert found.tolist() == [[0, 0, 0.75, 0, 0, 2, 0], [0] * 7]


def test_letters_are_found_again(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokens = tokenizer("cabcd").input_ids + [tokenizer.eos_token_id]
    sample = Sample("c", "abcd", tokens=tokens, prompt_tokens=1)
    assert [column_of(end, sample, tokenizer) for end in (1, 2, 3, 4)] == [1, 2, 3, 4]


BY_LETTER = """
def right(samples):
    steps = [[(i + 1, (letter == s.prompt) / 2) for i, letter in enumerate(s.response)] for s in samples]
    return {"total": [0.0 for _ in samples], "steps": steps}
"""


@pytest.mark.parametrize("algo", ["ppo", "reinforce_pp"])
def test_learns_from_rewards_of_steps_alone(algo, tmp_path):
    reward = tmp_path / "reward.py"
    reward.write_text(BY_LETTER)
    options = [*SIZES, f"algo={algo}", "reward=function", f"reward.path={reward}:right"]
    rows = run(tmp_path / "run", *options, "rollout.min_response_tokens=2")
    rewards = [row["reward/mean"] for row in rows]  # of two letters, at most 1
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1


def test_an_algorithm_that_compares_responses_takes_no_steps(tmp_path, capsys):
    reward = tmp_path / "reward.py"
    reward.write_text(BY_LETTER)
    with pytest.raises(SystemExit):
        run(tmp_path / "run", *SMALL, "algo=grpo", "reward=function", f"reward.path={reward}:right", "steps=1")
    said = " ".join(capsys.readouterr().out.split())
    assert "algo=grpo compares whole responses, and the reward gives `steps`: add them to `total`" in said
