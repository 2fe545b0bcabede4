import pytest

from rlhf_hydra.cluster.hardware import NotEnough, gpus_asked, gpus_here, preflight, require, seated, torn
from rlhf_hydra.config.layout import layout
from rlhf_hydra.config.schema import GPU, PPO, Cluster, Engine, Placement, Seat


@pytest.fixture
def run(make_run):
    """PPO on 2 nodes of 4: the policy and the critic on 0-3, two engines of two on 4-7."""
    placement = Placement(policy=Seat(gpus="0-3"), critic=Seat(gpus="0-3"), engine=Seat(gpus="4-7"))
    cluster = Cluster("big", nodes=2, gpus_per_node=4, gpu=GPU("A100", 80.0), placement=placement)
    return make_run(algo=PPO(name="ppo"), cluster=cluster, engine=Engine(name="vllm", tensor_parallel=2))


def table(message):
    """First cell -> the other cells of each row of the table in a message."""
    lines = [line.strip("│┃ ").replace("┃", "│").split("│") for line in message.splitlines() if "│" in line]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_asked_is_what_the_roles_use(run):
    everything = {"policy": {0, 1, 2, 3}, "critic": {0, 1, 2, 3}, "engine": {4, 5, 6, 7}, "reward": set()}
    assert gpus_asked(run) == everything


@pytest.mark.parametrize("nodes", [[4, 4], [8, 8], [0, 4, 4], [2, 4, 4, 1]])
def test_enough(run, nodes):
    require(run, nodes, "the cluster")


@pytest.mark.parametrize("nodes", [[], [0], [8], [4, 3], [2, 2, 2, 2]])
def test_not_enough(run, nodes):
    """Eight GPUs in one node are not 2 x 4, nor are four nodes of 2."""
    with pytest.raises(NotEnough, match=rf"cluster=big needs 8 GPUs \(2 x 4\), the cluster has {sum(nodes)}"):
        require(run, nodes, "the cluster")


def test_the_table_shows_asked_against_available(run):
    with pytest.raises(NotEnough) as error:
        require(run, [6], "this machine")
    assert "cluster=big on this machine" in str(error.value)
    rows = table(str(error.value))
    assert rows["policy"] == ["4", "0,1,2,3", "yes"]
    assert rows["engine"] == ["2", "4,5,6,7", "2 missing"]
    assert rows["reward"] == ["1", "-", "yes"]
    assert rows["all"] == ["", "8 x A100", "6"]


def test_roles_that_share_gpus_count_once(make_run):
    seats = Placement(policy=Seat(gpus="0-1"), engine=Seat(gpus="0-1"))
    run = make_run(cluster=Cluster("pair", gpus_per_node=2, placement=seats))
    require(run, [2], "this machine")


def test_a_run_without_gpus_needs_none(make_run):
    require(make_run(), [], "this machine")


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("2,3", 2), ("GPU-1a,GPU-2b", 2)])
def test_visible_devices_are_counted(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_here() == count


def test_preflight_looks_at_this_machine_unless_a_cluster_is_named(run, make_run, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(NotEnough, match="this machine has 1"):
        preflight(run)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    preflight(run)
    preflight(make_run())


def test_gpus_of_one_node_get_bundles_of_one_node():
    """Twelve GPUs of two nodes of eight: 0-3 and 8-15. Ray has put bundles 0-7 on `b`, and 8-11 on `a`."""
    nodes = {bundle: "b" if bundle < 8 else "a" for bundle in range(12)}
    gpus = [*range(4), *range(8, 16)]
    found = seated(gpus, 8, nodes)
    assert [found[gpu] for gpu in gpus] == [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]
    assert seated([], 0, {0: "a"}) == {}  # a worker without a GPU has a bundle too


def test_bundles_that_are_scattered_are_dealt_fullest_node_first():
    """Two nodes of four were asked for; Ray found five GPUs on one node and three on another."""
    nodes = dict(enumerate("xyyxyxyy"))
    assert list(seated(range(8), 4, nodes).values()) == [1, 2, 4, 6, 7, 0, 3, 5]


def test_an_engine_over_two_nodes_is_found(run):
    """Its engines are on GPUs 4 and 5, and 6 and 7; each policy is on one."""
    seats = layout(run)
    assert torn(seats, dict(enumerate("aaaabbbb"))) is None
    assert torn(seats, dict(enumerate("aaabbbba"))) == "the GPUs 6, 7 of the engine are on 2 nodes"
