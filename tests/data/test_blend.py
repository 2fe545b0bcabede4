"""Several sources in one: by weight, counted, and the same every time."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import letters

from rlhf_hydra.config.schema import SFT, Blend, Data, ToyData
from rlhf_hydra.data.blend import picks
from rlhf_hydra.data.examples import load_examples
from rlhf_hydra.data.files import DataError
from rlhf_hydra.data.prompts import load_prompts


def blend(*weights: float, until: str = "first", **keys: object) -> Blend:
    sources = {f"s{i}": Data(name="x", weight=weight) for i, weight in enumerate(weights)}
    return Blend(name="b", sources=sources, until=until, **keys)


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=4)


@settings(deadline=None)
@given(sizes=SIZES, until=st.sampled_from(["first", "all", "once"]), seed=st.integers(0, 3))
def test_it_ends_as_asked(sizes, until, seed):
    drawn = picks(blend(*range(1, len(sizes) + 1), until=until), sizes, seed)
    counts = Counter(source for source, _ in drawn)
    used_up = [counts[source] >= size for source, size in enumerate(sizes)]
    if until == "once":
        assert drawn == [(source, item) for source, size in enumerate(sizes) for item in range(size)]
    elif until == "all":
        assert all(used_up)
        assert set(drawn) == {(source, item) for source, size in enumerate(sizes) for item in range(size)}
    else:
        assert sum(used_up) == 1 and counts[drawn[-1][0]] == sizes[drawn[-1][0]]
        assert len(set(drawn)) == len(drawn)  # nothing twice


@settings(deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 3))
def test_the_same_seed_draws_the_same(sizes, seed):
    cfg = blend(*[1.0] * len(sizes), until="all")
    assert picks(cfg, sizes, seed) == picks(cfg, sizes, seed)


def test_other_seeds_draw_others():
    assert picks(blend(1, 1), [50, 50], 0) != picks(blend(1, 1), [50, 50], 1)


def test_shares_follow_the_weights():
    drawn = picks(blend(3, 1), [9000, 9000], 0)
    share = sum(source == 0 for source, _ in drawn) / len(drawn)
    assert abs(share - 0.75) < 0.02  # standard deviation of a share of 12,000 draws: 0.004


def test_a_seeded_order_of_each_source_not_its_head():
    """Of the larger source, any row may come, not only the first ones."""
    drawn = [item for source, item in picks(blend(1, 1), [10, 1000], 0) if source == 1]
    assert max(drawn) > 100


def test_limit():
    assert len(picks(blend(1, 1, limit=7), [50, 50], 0)) == 7
    drawn = picks(blend(1, 1e-12, until="all", limit=7), [50, 50], 0)  # all of the second would take for ever
    assert [source for source, _ in drawn] == [0] * 7


TOYS = {"few": ToyData(name="toy", letters=2, rows=4), "many": ToyData(name="toy", letters=8, rows=80, weight=3.0)}


def test_examples_of_several_sources():
    cfg = Blend(name="b", sources=TOYS, until="once")
    examples, report = load_examples(cfg, SFT(name="sft"), letters(), 100)
    apart = [load_examples(toy, SFT(name="sft"), letters(), 100)[0] for toy in TOYS.values()]
    rows = examples.batch(range(84)).tokens.tolist()
    assert rows == apart[0].batch(range(4)).tokens.tolist() + apart[1].batch(range(80)).tokens.tolist()
    assert examples.lengths == apart[0].lengths + apart[1].lengths
    assert "few: 4 of 84 (4.8%), from 4 usable rows of data=toy" in str(report)


def test_each_source_has_its_own_columns(jsonl):
    own = Data(name="x", path=jsonl({"q": "x", "a": ""}, {"q": "x", "a": "y"}), prompt_column="q", response_column="a")
    cfg = Blend(name="b", sources={"own": own, **TOYS}, until="once")
    examples, report = load_examples(cfg, SFT(name="sft"), letters(), 100)
    assert len(examples) == 85
    assert report.dropped == {"own: column `a` is empty": 1}
    assert (report.read, report.used) == (86, 85)


def test_the_seed_is_part_of_the_fingerprint():
    cfg = Blend(name="b", sources=TOYS, until="all")
    prints = [load_examples(cfg, SFT(name="sft"), letters(), 100, seed=seed)[0].fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_prompts_of_several_sources():
    prompts, report = load_prompts(Blend(name="b", sources=TOYS, until="all"), letters(), 10)
    assert {prompt.text for prompt in prompts} == set("abcdefgh")
    assert report.source == "blend of 2 sources" and report.made == len(prompts) > 84
    assert f"84 of 84 rows, as {len(prompts)} prompts" in str(report)
    assert prompts == load_prompts(Blend(name="b", sources=TOYS, until="all"), letters(), 10)[0]


def test_a_blend_of_nothing_is_refused():
    with pytest.raises(DataError, match=r"data\.sources is empty"):
        load_examples(Blend(name="b"), SFT(name="sft"), letters(), 100)
