"""User functions and composites: what they may return, and what is said when they don't."""

import math
import sys

import pytest

from rlhf_hydra.config.schema import CompositeReward, FunctionReward, ModelReward, Reward, RuleReward
from rlhf_hydra.rewards.base import RewardError, Sample, Scores, Step
from rlhf_hydra.rewards.build import build

SAMPLES = [Sample("q", "a", label=1, group=0), Sample("q", "bbb", label=3, group=0)]

FUNCTIONS = """
import numpy, torch
from rlhf_hydra.rewards.base import Scores

def length(samples, scale=1.0): return [scale * len(s.response) for s in samples]
def array(samples): return numpy.array([1, 2])
def tensor(samples): return torch.tensor([1.0, 2.0])
def parts(samples): return {"total": [1, 2], "half": [0.5, 1.0]}
def scores(samples): return Scores([1, 2], {"half": [0.5, 1.0]})
def of_batch(samples): return [s.label - max(t.label for t in samples if t.group == s.group) for s in samples]

def no_total(samples): return {"half": [0.5, 1.0]}
def short(samples): return [1.0]
def nan(samples): return [1.0, float("nan")]
def none(samples): return [1.0, None]
def nothing(samples): pass
def raises(samples): return [1 / 0]
def needs(samples, k): return [0.0, 0.0]
answer = 42

def steps(samples): return {"total": [1, 2], "steps": [[], [(1, 0.5), [3, torch.tensor(-1.0)]]], "half": [0.5, 1.0]}
def same_steps(samples): return Scores([1, 2], {"half": [0.5, 1.0]}, [[], [(1, 0.5), (3, -1.0)]])
def late(samples): return {"total": [1, 2], "steps": [[(2, 1.0)], []]}
def early(samples): return {"total": [1, 2], "steps": [[], [(0, 1.0)]]}
def endless(samples): return {"total": [1, 2], "steps": [[], [(1, float("inf"))]]}
def few(samples): return {"total": [1, 2], "steps": [[]]}
def bare(samples): return {"total": [1, 2], "steps": [[1.0], []]}
"""


@pytest.fixture
def function(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FUNCTIONS)
    return lambda name, **kwargs: FunctionReward(name="function", path=f"{path}:{name}", kwargs=kwargs)


@pytest.mark.parametrize(
    ("name", "total", "parts"),
    [
        ("length", [1, 3], {}),
        ("array", [1, 2], {}),
        ("tensor", [1, 2], {}),
        ("parts", [1, 2], {"half": [0.5, 1]}),
        ("scores", [1, 2], {"half": [0.5, 1]}),
        ("of_batch", [-2, 0], {}),  # labels 1 and 3, against the best of their group, 3
    ],
)
def test_what_a_function_may_return(function, name, total, parts):
    assert build(function(name))(SAMPLES) == Scores(total, parts)


def test_kwargs_are_passed_on(function):
    assert build(function("length", scale=0.5))(SAMPLES).total == [0.5, 1.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_total", "without `total`; its keys: half"),
        ("short", "1 values for 2 samples"),
        ("nan", "row 1 is nan; response: 'bbb'"),
        ("none", "row 1 is no number"),
        ("nothing", "is a NoneType; expected one number per sample"),
        ("raises", r"failed on 2 samples: ZeroDivisionError: division by zero \(.*mine\.py, line 17\)"),
    ],
)
def test_a_bad_result_names_the_function(function, name, message):
    with pytest.raises(RewardError, match=message) as error:
        build(function(name))(SAMPLES)
    assert f"mine.py:{name}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("length", {"scal": 2}, r"mine.py:length\(samples, scale=1.0\) cannot be called as \(samples, scal=...\)"),
        ("needs", {}, "missing a required argument: 'k'"),
        ("lenght", {}, "has no function `lenght`; it has: length, array"),
        ("answer", {}, "has no function `answer`"),
    ],
)
def test_what_cannot_be_called_is_said_before_the_run(function, name, kwargs, message):
    with pytest.raises(RewardError, match=message):
        build(function(name, **kwargs))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.py:f", r"there is no file /.*gone\.py"),
        ("no.such.module:f", "cannot import no.such.module"),
        ("reward.py", "expected `file.py:function`"),
        ("math:", "expected `file.py:function`"),
    ],
)
def test_a_path_that_leads_nowhere(path, message):
    with pytest.raises(RewardError, match=message):
        build(FunctionReward(name="function", path=path))


def test_a_file_that_does_not_import_says_why(tmp_path):
    (tmp_path / "broken.py").write_text("import nonsense_of_mine\n")
    with pytest.raises(RewardError, match=r"broken\.py cannot be imported: .*nonsense_of_mine"):
        build(FunctionReward(name="function", path=f"{tmp_path / 'broken.py'}:f"))


def test_a_function_of_an_installed_module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def ones(samples): return [1] * len(samples)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert build(FunctionReward(name="function", path="my_rewards:ones"))(SAMPLES).total == [1, 1]
    sys.modules.pop("my_rewards")


def composite(**parts: Reward) -> CompositeReward:
    return CompositeReward(name="composite", parts=parts)


def test_composite_is_the_weighted_sum_and_keeps_every_part(function):
    half, length = function("parts"), function("length")
    half.weight, length.weight = 2.0, -0.5
    scores = build(composite(answer=half, length=length))(SAMPLES)
    assert scores.total == [2 * 1 - 0.5 * 1, 2 * 2 - 0.5 * 3]
    assert scores.parts == {"answer": [1, 2], "answer/half": [0.5, 1], "length": [1, 3]}


def test_composites_nest(function):
    inner = composite(length=function("length"))
    inner.weight = 10.0
    scores = build(composite(inner=inner))(SAMPLES)
    assert scores == Scores([10, 30], {"inner": [1, 3], "inner/length": [1, 3]})


def test_a_failing_part_names_itself(function):
    nested = composite(style=composite(length=function("raises")))
    with pytest.raises(
        RewardError, match="reward part `style`: reward part `length`: reward function .*:raises failed"
    ):
        build(nested)(SAMPLES)


def test_a_model_is_asked_through_what_the_caller_gives():
    cfg = ModelReward(name="model", path="acme/judge")
    asked = []

    def score_model(model: ModelReward):
        asked.append(model.path)
        return lambda samples: Scores([math.nan if s.response == "bbb" else 0.5 for s in samples])

    assert build(cfg, score_model)(SAMPLES[:1]).total == [0.5]
    assert asked == ["acme/judge"]
    with pytest.raises(RewardError, match="reward `model`: row 1 is nan"):
        build(cfg, score_model)(SAMPLES)
    with pytest.raises(RewardError, match="reward part `judge`: .*row 1 is nan"):
        build(composite(judge=cfg), score_model)(SAMPLES)


def test_what_cannot_be_built():
    with pytest.raises(RewardError, match="no model can be placed here"):
        build(ModelReward(name="model", path="acme/judge"))
    with pytest.raises(RewardError, match="composite without parts"):
        build(composite())
    with pytest.raises(RewardError, match="`mine` is none of rule, function, model, process, composite"):
        build(Reward(name="mine"))


def test_close_reaches_every_part():
    scorer = build(composite(a=RuleReward(name="rule", rule="math"), b=RuleReward(name="rule", rule="exact")))
    assert scorer([Sample("q", "7", 7)]).total == [2.0]
    scorer.close()
    scorer.close()


STEPS = [[], [Step(1, 0.5), Step(3, -1.0)]]


@pytest.mark.parametrize("name", ["steps", "same_steps"])
def test_a_function_may_reward_steps(function, name):
    scores = build(function(name))(SAMPLES)
    assert scores == Scores([1, 2], {"half": [0.5, 1]}, STEPS)
    assert scores.earned == [1, 1.5]  # 2 + 0.5 - 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("late", "a step of row 0 ends at 2, its response has 1 characters"),
        ("early", "a step of row 1 ends at 0"),
        ("endless", "a step of row 1 is inf"),
        ("few", "`steps` of 1 samples, not of 2"),
        ("bare", r"needs a list of \(end, reward\) for each sample"),
    ],
)
def test_steps_that_a_response_lacks_are_named(function, name, says):
    with pytest.raises(RewardError, match=says):
        build(function(name))(SAMPLES)


def test_a_composite_weighs_the_steps_of_its_parts(function):
    parts = {"a": function("steps"), "b": function("length"), "c": function("steps")}
    parts["a"].weight, parts["c"].weight = 2.0, -1.0
    scores = build(CompositeReward(name="sum", parts=parts))(SAMPLES)
    assert scores.total == [2 + 1 - 1, 4 + 3 - 2]
    assert scores.steps == [[], [Step(1, 1.0), Step(3, -2.0), Step(1, -0.5), Step(3, 1.0)]]


def test_scores_are_picked_and_joined():
    one, other = Scores([1.0, 2.0], {"a": [3.0, 4.0]}, STEPS), Scores([5.0])
    assert one[[1, 0]] == Scores([2.0, 1.0], {"a": [4.0, 3.0]}, STEPS[::-1])
    assert Scores.cat([one, other]) == Scores([1, 2, 5], {"a": [3, 4, 0]}, [*STEPS, []])
    assert Scores.cat([other, other]).steps is None
