"""Which trial follows which, with berths that are only written down."""

import pytest

from rlhf_hydra.cluster.berth import EngineSpec, Fit
from rlhf_hydra.config.check import checked_run
from rlhf_hydra.sweep.berths import Berths
from rlhf_hydra.sweep.room import MEMORY, Room

ROOM = {"CPU": 2.0, "GPU": 0.0, MEMORY: 64.0}
TRIAL = ["model=tiny", "cluster=cpu", "cluster.cpus_per_worker=0.2"]
"""Engine, reward, reference and policy: 0.8 CPUs."""


class Pool(Berths):
    """Knows which of its berths there are."""

    def __init__(self, most: int = 0) -> None:
        super().__init__(Room(ROOM, most), self.note)
        self.there: list[str] = []

    def note(self, run, name):
        self.there.append(name)
        return lambda: self.there.remove(name)


@pytest.fixture(scope="module")
def trial(composer):
    return lambda *changes: checked_run([*TRIAL, "algo=grpo", *changes], composer)


def test_a_trial_follows_one_that_had_the_same_engine(trial):
    pool = Pool()
    first = pool.take(trial("seed=1"))
    assert pool.idle == [] and first.env == {"RLHF_HYDRA_BERTH": first.name}
    pool.give_back(first, is_sound=True)
    assert pool.take(trial("seed=2", "policy.optim.lr=1e-4")) is first and pool.idle == []
    assert pool.take(trial("seed=3")) is not first, "it is taken"
    assert len(pool.there) == 2


def test_what_did_not_end_well_is_not_passed_on(trial):
    pool = Pool()
    first = pool.take(trial())
    pool.give_back(first, is_sound=False)
    assert pool.there == [] and pool.idle == [] and pool.room.taken == []
    assert pool.take(trial()).name != first.name


def test_an_idle_berth_stands_in_nobodys_way(trial):
    """Two trials of 0.8 CPUs fit into 2; a third one, which needs another engine, takes the place of the older."""
    pool, others = Pool(), ["engine.max_sequences=8", "engine.max_sequences=9", "engine.max_sequences=10"]
    one, two = (pool.take(trial(other)) for other in others[:2])
    pool.give_back(one, is_sound=True)
    pool.give_back(two, is_sound=True)
    three = pool.take(trial(others[2]))
    assert pool.there == [two.name, three.name]
    large = trial("cluster.cpus_per_worker=0.5")  # 2 CPUs: all that there is, once three has ended
    pool.give_back(three, is_sound=True)
    assert pool.room.fits(large)
    assert pool.there == [pool.take(large).name]


def test_one_at_a_time_is_one_engine_at_a_time(trial):
    pool = Pool(most=1)
    pool.give_back(pool.take(trial("engine.max_sequences=8")), is_sound=True)
    assert pool.there == [pool.take(trial()).name]


def test_nothing_is_left(trial):
    pool = Pool()
    for berth in [pool.take(trial()), pool.take(trial())]:
        pool.give_back(berth, is_sound=True)
    assert len(pool.there) == 2
    pool.close()
    assert pool.there == [] and pool.idle == []


@pytest.mark.parametrize("change", ["cluster.backend=local", "algo=sft"])
def test_without_an_engine_that_could_stay_there_is_no_berth(trial, change):
    pool = Pool()
    berth = pool.take(trial(change))
    assert berth.env == {} and pool.there == [] and len(pool.room.taken) == 1
    pool.give_back(berth, is_sound=True)
    assert pool.idle == [] and pool.room.taken == []


def test_cold_starts_pass_nothing_on(trial):
    pool = Berths(Room(ROOM))
    berth = pool.take(trial())
    pool.give_back(berth, is_sound=True)
    assert berth.env == {} and pool.idle == []


SAME = ["seed=7", "policy.optim.lr=1e-5", "rollout.temperature=0.7", "rollout.top_p=0.9"]
SAME += ["rollout.samples_per_prompt=8", "rollout.prompts_per_step=256", "rollout.stop=[c]", "rollout.top_k=3"]
SAME += ["eval.every=1", "data.rows=8", "steps=5", "engine.parity_tolerance=0.1", "cluster.start_timeout_s=9"]
OTHER = ["model=qwen2.5-0.5b", "model.path=elsewhere", "model.revision=main", "model.hub=modelscope"]
OTHER += ["model.trust_remote_code=true", "engine.name=hf", "engine.dtype=bfloat16", "engine.max_sequences=8"]
OTHER += ["engine.kv_cache_gib=2", "engine.enforce_eager=false", "engine.memory_fraction=0.4"]
OTHER += ["rollout.max_prompt_tokens=17", "rollout.max_response_tokens=17", "algo.kl.coef=0"]
OTHER += ["cluster.placement.engine.workers=2", "cluster.placement.policy.workers=2", "cluster.cpus_per_worker=0.1"]


def test_what_goes_with_each_request_or_is_about_training_may_differ(trial):
    assert [change for change in SAME if Fit.of(trial(change)) != Fit.of(trial())] == []


def test_what_decides_the_engine_or_the_seats_may_not_differ(trial):
    assert [change for change in OTHER if Fit.of(trial(change)) == Fit.of(trial())] == []


def test_an_engine_has_room_for_what_is_asked_up_to_the_context(trial):
    asked = ["rollout.max_prompt_tokens=20", "rollout.max_response_tokens=30"]
    assert EngineSpec.of(trial(*asked)).room_tokens == 50
    longer = trial("model.context_tokens=40", "rollout.max_prompt_tokens=20", "rollout.max_response_tokens=20")
    assert EngineSpec.of(longer).room_tokens == 40
