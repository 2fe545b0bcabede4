"""Each value can say where it comes from."""

import pytest

from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.explain import explain
from rlhf_hydra.config.store import find_conf_dir


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(find_conf_dir().parent)


def test_a_key_tells_its_whole_story(composer):
    assert explain(composer.compose(["algo.kl.coef=0.05"]), "algo.kl.coef").splitlines() == [
        "algo.kl.coef = 0.05",
        "    a number, at least 0 and at most 10",
        "    Weight of the KL penalty to the reference, beta. 0: no penalty, and no reference model is built.",
        "    default               0.0",
        "    conf/algo/ppo.yaml:7  0.01",
        "    command line          0.05",
    ]


@pytest.mark.parametrize(
    ("overrides", "key", "lines"),
    [
        # 8B in bfloat16 is 15 GiB, and a half of 80 GiB holds it: 0 becomes 1
        (
            ["model=llama3-8b", "cluster=a100x8"],
            "engine.tensor_parallel",
            ["conf/cluster/a100x8.yaml:27  0", "resolved                     1"],
        ),
        (["algo=dapo"], "algo.loss.clip_high", ["default                 0.2", "conf/algo/dapo.yaml:7   0.28"]),
        ([], "reward.rule", ["default   ${data.rule}", "resolved  echo"]),
        (
            ["policy.optim={lr: 0.1}"],
            "policy.optim.lr",
            ["conf/model/tiny.yaml:28  0.004", "command line             0.1"],
        ),
        (["reward=function", "reward.path=a:b", "reward.kwargs.x=1"], "reward.kwargs.x", ["command line  1"]),
    ],
)
def test_the_last_words_of_a_story(composer, overrides, key, lines):
    told = explain(composer.compose(overrides), key).splitlines()
    assert [line.split() for line in told[-len(lines) :]] == [line.split() for line in lines]


def test_a_section_lists_its_keys_and_their_origin(composer):
    lines = explain(composer.compose(["algo.kl.target=0.2"]), "algo.kl").splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["algo.kl.coef", "algo.kl.estimator"]
    assert lines[0].endswith("conf/algo/ppo.yaml:7") and lines[1].endswith("default")
    assert "algo.kl.target = 0.2" in lines[-2] and lines[-2].endswith("command line")
    assert len(explain(composer.compose(), "all").splitlines()) > 100


def test_an_unknown_key_gets_a_suggestion(composer):
    with pytest.raises(ConfigError, match="Did you mean algo.kl.coef"):
        explain(composer.compose(), "algo.kl.cof")
