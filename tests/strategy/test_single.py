import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from rlhf_hydra.config.schema import Optim, Strategy
from rlhf_hydra.strategy.base import Rank, build_trainer
from rlhf_hydra.strategy.single import SingleTrainer

OPTIM = Optim(lr=0.1, schedule="constant", warmup_ratio=0.0, max_grad_norm=1.0, weight_decay=0.01)
X = torch.linspace(-1, 1, 12).view(4, 3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 1))


def trainer(dtype="float32", optim=OPTIM, total=10):
    return build_trainer(Strategy(dtype=dtype), network(), optim, total, Rank())


def update(t, parts=1, scale=1.0):
    """One step on the mean square of the output, from `parts` backward passes that add up to it."""
    for i, x in enumerate(X.chunk(parts)):
        loss = scale * t.forward(x, train=True).float().square().sum() / len(X)
        t.backward(loss, last=i == parts - 1)
    return t.step()


def snapshot(t):
    return {name: tensor.clone() for name, tensor in t.weights()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_backward_passes_add_up():
    whole, parts = trainer(), trainer()
    assert update(whole)["grad_norm"] == pytest.approx(update(parts, parts=4)["grad_norm"], rel=1e-6)
    for one, other in zip(snapshot(whole).values(), snapshot(parts).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_first_step_of_adam_by_hand():
    # w = 2, loss 3 w: g = 3. m / (1 - b1) = 3, v / (1 - b2) = 9: w <- 2 (1 - 0.1 * 0.5) - 0.1 * 3 / 3 = 1.8.
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optim = Optim(lr=0.1, schedule="constant", warmup_ratio=0, weight_decay=0.5, max_grad_norm=0)
    t = SingleTrainer(Strategy(), model, optim, 1, Rank())
    t.backward(3 * t.forward(torch.ones(1, 1), train=True).sum(), last=True)
    assert t.step() == {"grad_norm": pytest.approx(3.0), "lr": 0.1, "skipped": 0.0}
    assert model.weight.item() == pytest.approx(1.8, abs=1e-6)


@pytest.mark.parametrize(("limit", "factor"), [(1.0, 1 / 6), (0.0, 1.0), (100.0, 1.0)])
def test_gradients_are_clipped_after_their_norm_is_taken(limit, factor):
    """Gradient 6: eps = 6 makes Adam's update lr * cg / (cg + 6), with c = 1/6 where the limit is 1; 0: no limit."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    optim = Optim(lr=1.0, eps=6.0, schedule="constant", warmup_ratio=0, max_grad_norm=limit)
    t = SingleTrainer(Strategy(), model, optim, 1, Rank())
    t.backward(6 * t.forward(torch.ones(1, 1), train=True).sum(), last=True)
    assert t.step()["grad_norm"] == pytest.approx(6.0)
    assert model.weight.item() == pytest.approx(-6 * factor / (6 * factor + 6), rel=1e-5)


def test_rate_follows_the_schedule():
    optim = Optim(lr=1.0, schedule="linear", warmup_ratio=0.5, min_lr_ratio=0.0)
    t = trainer(optim=optim, total=4)
    assert [update(t)["lr"] for _ in range(4)] == pytest.approx([0.5, 1.0, 1.0, 0.5])


@pytest.mark.parametrize(
    ("dtype", "name"), [("float32", "adamw"), ("bfloat16", "adamw"), ("float16", "adamw"), ("float16", "muon")]
)
def test_goes_on_exactly_after_save_and_load(tmp_path, dtype, name):
    optim = replace(OPTIM, name=name)
    straight = trainer(dtype, optim)
    for _ in range(3):
        update(straight)
    straight.save(tmp_path / "state")
    metrics = [update(straight) for _ in range(2)]

    other = trainer(dtype, optim)
    other.load(tmp_path / "state")
    assert [update(other) for _ in range(2)] == metrics
    assert same(snapshot(other), snapshot(straight))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_computes_in_it_and_keeps_float32_weights(dtype):
    half, full = trainer(dtype), trainer()
    assert half.forward(X, train=False).dtype == getattr(torch, dtype)
    assert {tensor.dtype for tensor in snapshot(half).values()} == {torch.float32}
    wanted = update(full, scale=0.01)["grad_norm"]
    assert update(half, scale=0.01)["grad_norm"] == pytest.approx(wanted, rel=0.05)


def test_float16_leaves_out_a_step_that_overflows_and_lowers_its_scale():
    t = trainer("float16")
    before, scale = snapshot(t), t.scaler.get_scale()
    assert not math.isfinite(update(t, scale=1e6)["grad_norm"])
    assert same(snapshot(t), before)
    assert t.scaler.get_scale() == scale / 2


def test_float16_keeps_gradients_that_it_could_not_hold():
    """A loss of 1e-9: float16 has nothing below 6e-8, so without scaling the loss every gradient would be 0."""
    wanted = update(trainer(), scale=1e-9)["grad_norm"]
    assert update(trainer("float16"), scale=1e-9)["grad_norm"] == pytest.approx(wanted, rel=0.05)


def test_a_model_that_is_only_read_has_no_gradients():
    t = trainer(optim=None)
    assert not t.forward(X, train=False).requires_grad
    assert not any(p.requires_grad for p in t.model.parameters())


def test_several_workers_need_deepspeed():
    with pytest.raises(ValueError, match="strategy.name=deepspeed"):
        build_trainer(Strategy(), network(), OPTIM, 1, Rank(0, 2))
    build_trainer(Strategy(), network(), None, 1, Rank(0, 2))  # reading does


def test_the_moving_average_by_hand():
    # w = 2, 1, 0: the first step of Adam moves by lr = 1 whatever the gradient, and so does the second if it is equal.
    # e = 2; 0.75 * 2 + 0.25 * 1 = 1.75; 0.75 * 1.75 + 0.25 * 0 = 1.3125.
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optim = Optim(lr=1.0, schedule="constant", warmup_ratio=0, max_grad_norm=0)
    t = SingleTrainer(Strategy(), model, optim, 2, Rank(), ema=0.75)
    for wanted in (1.75, 1.3125):
        t.backward(t.forward(torch.ones(1, 1), train=True).sum(), last=True)
        t.step()
        assert dict(t.averages())["weight"].item() == pytest.approx(wanted, abs=1e-5)


def test_the_moving_average_is_saved_and_there_only_when_asked_for(tmp_path):
    def make(ema):
        return SingleTrainer(Strategy(), network(), OPTIM, 10, Rank(), ema=ema)

    first, second = make(0.9), make(0.9)
    update(first)
    first.save(tmp_path)
    second.load(tmp_path)
    for t in (first, second):
        update(t)
    assert same(dict(first.averages()), dict(second.averages()))
    assert not same(dict(first.averages()), snapshot(first))
    assert not list(make(0.0).averages())
