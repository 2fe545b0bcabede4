import pytest

from rlhf_hydra.config.schema import CompositeReward, FunctionReward, RuleReward
from rlhf_hydra.rewards.answers import answer_of, math_answer, plain_answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("5 apples.\n#### 1,000\nbye 7", "1000"),
        (r"so \boxed{\frac{1}{2}} or \boxed{\frac{1}{3}}, that is 8", r"\frac{1}{3}"),
        ("it costs $1,234.50, then $18.", "18"),
        ("minus -3/4", "-3/4"),
        ("no idea", None),
        ("####", None),
        ("", None),
    ],
)
def test_the_answer_of_a_mathematical_response(response, answer):
    assert math_answer(response) == answer


def test_the_reward_decides_how_answers_are_read():
    math = RuleReward(name="rule", rule="math")
    assert answer_of(math) is answer_of(CompositeReward(name="sum", parts={"a": math})) is math_answer
    assert answer_of(FunctionReward(name="f", path="a.py:b")) is plain_answer
    assert plain_answer(" abc\n") == "abc" and plain_answer(" ") is None
