"""Rules by hand, and the limits of the math rule with real processes."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.config.schema import RuleReward
from rlhf_hydra.rewards import math_pool
from rlhf_hydra.rewards.base import RewardError, Sample
from rlhf_hydra.rewards.build import build
from rlhf_hydra.rewards.math_pool import BAD_LABEL, RIGHT, WRONG, MathPool
from rlhf_hydra.rewards.rules import echo

BOMB = "it is $9^{9^{9^{9}}}$"
WAIT_S = 60
SOURCE = Path(math_pool.__file__)


def rule(name: str) -> RuleReward:
    return RuleReward(name="rule", rule=name)


@pytest.mark.parametrize(
    ("prompt", "response", "score"),
    [
        ("c", "cccc", 1.0),
        ("c", "ccxc", 0.75),  # 3 of 4
        ("c", "x", 0.0),
        ("c", "", 0.0),
        ("ab", "abab", 1.0),
        ("ab", "abba", 0.5),  # a b against b a at the end
    ],
)
def test_echo(prompt, response, score):
    assert echo(Sample(prompt, response)) == score


def test_echo_goes_by_the_label_where_there_is_one():
    assert echo(Sample("Repeat the letter c:", "cc", label="c")) == 1.0


@given(st.text(max_size=20), st.text(max_size=5))
def test_echo_is_a_share(response, prompt):
    assert 0.0 <= echo(Sample(prompt, response)) <= 1.0


def test_exact():
    samples = [Sample("q", " 42\n", 42), Sample("q", "42.", 42), Sample("q", "", "x")]
    assert build(rule("exact"))(samples).total == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["exact", "math"])
def test_a_rule_that_compares_needs_labels(name):
    with pytest.raises(RewardError, match=f"`{name}` compares with a label.*data.label_column"):
        build(rule(name))([Sample("q", "1")])


ANSWERS = [
    ("so 3+4 = <<3+4=7>>7\n#### 7", "He pays 3 and 4.\n#### 7", RIGHT),  # gsm8k on both sides
    ("#### 1,000", "It is $1000$ in 12 months.\n#### 1000 dollars", RIGHT),
    ("#### 5", "#### 6\n5 would be nice", WRONG),  # the marked line decides
    ("#### 72", "The answer is 72.", RIGHT),
    ("72", "first 71, then \\boxed{72}", RIGHT),
    ("72", "\\boxed{73}, or 72", WRONG),
    ("\\frac{1}{2}", "The answer is 0.5", RIGHT),
    ("$\\frac{3}{4}$", "\\boxed{\\frac34}", RIGHT),
    ("x^2 + 1", "$1 + x^2$", RIGHT),
    ("(1, 2)", "\\boxed{(1, 2)}", RIGHT),
    ("-3", "it is 3", WRONG),
    ("7", "", WRONG),
    ("7", "no idea", WRONG),
    ("2\\sqrt{3}", "so 2, no, 3", WRONG),
    ("18 dollars", "#### 18", RIGHT),
    ("3/4", "$0.75$", RIGHT),
    ("", "7", BAD_LABEL),
    ("#### ", "7", BAD_LABEL),
]


def test_math_answers():
    pool = MathPool(timeout_s=30, workers=2)
    verdicts = pool.judge([(label, response) for label, response, _ in ANSWERS])
    pool.close()
    assert verdicts == [verdict for *_, verdict in ANSWERS]


def test_an_answer_over_the_limit_is_wrong_and_counted_and_spares_the_others():
    math = build(RuleReward(name="rule", rule="math", timeout_s=0.5))
    responses = ["7", BOMB, "7", "$99999999!$", "7.0", "$10^{100000001}$", "8"]
    scores = math([Sample("q", response, 7) for response in responses])
    math.close()
    assert scores.total == [1, 0, 1, 0, 1, 0, 0]
    assert scores.parts["math/timeouts"][1] == 1
    assert {scores.parts["math/timeouts"][i] for i in (0, 2, 4, 6)} == {0}
    assert scores.parts["math/bad_labels"] == [0] * 7


def test_a_child_that_was_killed_is_replaced():
    pool = MathPool(timeout_s=30, workers=1)
    assert pool.judge([("1", "1")]) == [RIGHT]
    (child,) = pool._children
    os.kill(child._process.pid, signal.SIGKILL)
    assert pool.judge([("1", "1"), ("1", "2")]) == [RIGHT, WRONG]
    pool.close()


def test_close_ends_the_children_and_may_be_repeated():
    pool = MathPool(timeout_s=30, workers=1)
    pool.close()  # nothing has started yet
    pool.judge([("1", "1")])
    process = pool._children[0]._process
    pool.close()
    pool.close()
    assert process.returncode is not None


def test_a_child_at_work_ends_when_its_parent_is_killed():
    script = (
        "from rlhf_hydra.rewards.math_pool import Child\n"
        "child = Child(timeout_s=10_000)\n"
        "print(child._start().pid, flush=True)\n"
        f"child.judge([('1', '1'), ('1', {BOMB!r})])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=SOURCE.parents[2])
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    ended, _, _ = select.select([child], [], [], WAIT_S)
    os.close(child)
    parent.communicate()
    assert ended


def test_a_child_in_the_middle_of_a_computation_ends_with_the_pipe():
    child = math_pool.Child(timeout_s=10_000)
    process = child._start()
    print(f'[["1", "1"], ["1", "{BOMB}"]]', file=process.stdin, flush=True)
    assert process.stdout.readline() == "right\n"  # and the next thing that it does is the bomb
    os.close(child._life)
    assert process.wait(WAIT_S) == -signal.SIGIO
    process.communicate()


def test_children_do_not_load_torch():
    code = f"import sys; sys.path.append({str(SOURCE.parent)!r}); import math_child; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
