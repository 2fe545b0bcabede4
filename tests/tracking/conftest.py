import pytest

from rlhf_hydra.config.schema import (
    GAE,
    PPO,
    Cluster,
    Model,
    Rollout,
    RuleReward,
    RunConfig,
    Task,
    ToyData,
    Tracking,
)


@pytest.fixture
def run(tmp_path):
    return RunConfig(
        task=Task(name="train"),
        algo=PPO(name="ppo", advantage=GAE(lam=0.9)),
        model=Model("tiny", "builtin:tiny", context_tokens=64, layers=2, hidden_size=64, heads=4, kv_heads=2),
        cluster=Cluster(name="local", backend="local"),
        data=ToyData(name="toy"),
        reward=RuleReward(name="rule", rule="echo"),
        tracking=Tracking(name="none"),
        rollout=Rollout(samples_per_prompt=4),
        steps=6,
        outputs=str(tmp_path),
    )
