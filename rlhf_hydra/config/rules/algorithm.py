"""Of the algorithm."""

from collections.abc import Iterator

from rlhf_hydra.config.arithmetic import samples_per_step, updates_per_step
from rlhf_hydra.config.errors import Problem
from rlhf_hydra.config.layout import roles
from rlhf_hydra.config.rules.reward import check_function, named_parts
from rlhf_hydra.config.schema import DPO, GAE, FunctionReward, Greedy, Group, ProcessReward, Returns, RunConfig


def group_baseline(run: RunConfig) -> Iterator[Problem]:
    if isinstance(run.rl.advantage, Group) and run.rollout.samples_per_prompt < 2:
        says = f"algo={run.algo.name} compares the responses to one prompt and needs at least 2"
        yield Problem("", "rollout.samples_per_prompt", says, "Set rollout.samples_per_prompt=8, for example.")


def adaptive_kl(run: RunConfig) -> Iterator[Problem]:
    if run.rl.kl.controller == "adaptive" and run.rl.kl.coef == 0:
        yield Problem(
            "", "algo.kl.coef", "the adaptive controller multiplies it, so it would stay 0", "Set it above 0."
        )


def kl_as_a_loss(run: RunConfig) -> Iterator[Problem]:
    kl = run.rl.kl
    if kl.coef > 0 and kl.where == "loss" and kl.estimator == "k1":
        says = "k1 as a loss has a gradient that is zero on average, so it holds nothing back"
        yield Problem("", "algo.kl.estimator", says, "Set it to k2 or k3, or algo.kl.where=reward.")


def bounds(run: RunConfig) -> Iterator[Problem]:
    """Nothing lies between a lower bound and a smaller upper one."""
    correction, chosen = run.rl.correction, run.rl.filter
    pairs = [
        ("algo.correction.weight", correction.weight, correction.weight_low, correction.weight_high),
        ("algo.correction.mask", correction.mask, correction.mask_low, correction.mask_high),
    ]
    for key, used, low, high in pairs:
        if used != "none" and low > high:
            yield Problem("", f"{key}_low", f"is more than {key}_high={high:g}", "Lower it.")
    if chosen.by in ("mean", "std") and chosen.low >= chosen.high:
        yield Problem("", "algo.filter.low", f"leaves nothing below algo.filter.high={chosen.high:g}", "Lower it.")


def plain_policy_gradient(run: RunConfig) -> Iterator[Problem]:
    """Without a ratio, the second update on a rollout would take its samples for the policy's own."""
    updates = updates_per_step(run, run.policy.samples_per_update)
    if run.rl.loss.kind == "reinforce" and updates > 1:
        says = f"reinforce has no ratio to correct the {updates} updates on one rollout"
        every = f"policy.samples_per_update={samples_per_step(run)} algo.epochs=1"
        yield Problem("", "algo.loss.kind", says, f"Set {every}, or take algo.loss.kind=clip.")


def one_sample(run: RunConfig) -> Iterator[Problem]:
    """What compares the responses to one prompt needs at least two."""
    if run.rollout.samples_per_prompt > 1:
        return
    fix = "Set rollout.samples_per_prompt=8, for example."
    if run.rl.advantage.whiten != "none" and run.rl.advantage.whiten_over == "group":
        yield Problem("", "algo.advantage.whiten_over", "whitens over groups of one response", fix)
    if run.rl.filter.by in ("mean", "std"):
        yield Problem("", "algo.filter.by", "judges a prompt by one response", fix)


def filter_function(run: RunConfig) -> Iterator[Problem]:
    chosen = run.rl.filter
    if chosen.by != "function":
        return
    if chosen.path is None:
        fix = "Set algo.filter.path=file.py:function, a function of (samples, rewards)."
        yield Problem("", "algo.filter.path", "algo.filter.by=function needs a function", fix)
    else:
        yield from check_function(run, "algo.filter", FunctionReward(path=chosen.path))


def oversampling(run: RunConfig) -> Iterator[Problem]:
    """What is accepted beyond a step is learned from in the next one, by a policy that did not sample it."""
    if run.rl.filter.oversample == 1:
        return
    key, says = "algo.filter.oversample", "more prompts than a step needs are of use where some are rejected"
    if run.rl.filter.by == "none":
        yield Problem("", key, says, "Set algo.filter.by=mean, for example, or drop it.")
    elif run.rl.correction.weight == "none":
        says = "prompts that are too many for one step are learned from a step later, without correction"
        yield Problem("", key, says, "Set algo.correction.weight=token.")


def pretraining_mix(run: RunConfig) -> Iterator[Problem]:
    ptx = run.rl.ptx
    if ptx.coef > 0 and ptx.data is None:
        yield Problem(
            "", "algo.ptx.data", "there are no texts to learn from", "Add data@algo.ptx.data=jsonl, for example."
        )
    if ptx.coef == 0 and ptx.data is not None:
        yield Problem(
            "", "algo.ptx.coef", "nothing would be learned from algo.ptx.data", "Set it to 0.05, for example."
        )


def greedy_baseline(run: RunConfig) -> Iterator[Problem]:
    """The greedy response's reward is taken as it comes, and so must be the others'."""
    shaping, fix = run.rl.shaping, "Turn it off, or take an algorithm with another baseline, such as algo=rloo."
    used = {
        "normalize": shaping.normalize != "none",
        "overlong_share": shaping.overlong_share > 0,
        "truncated": shaping.truncated is not None,
        "clip": shaping.clip is not None and shaping.clip_where == "before",
    }
    for name in used if isinstance(run.rl.advantage, Greedy) else ():
        if used[name]:
            says = "would change the rewards of the samples and not that of the greedy response"
            yield Problem("", f"algo.shaping.{name}", says, fix)


def step_credit(run: RunConfig) -> Iterator[Problem]:
    """Steps can be rewarded where tokens get a credit of their own."""
    if isinstance(run.rl.advantage, GAE | Returns):
        return
    for key, part in named_parts("reward", run.reward):
        if isinstance(part, ProcessReward) and part.outcome == "none":
            says = f"rewards each step, and algo={run.algo.name} compares whole responses"
            fix = f"Set {key}.outcome=min, for example, or take algo=ppo or algo=reinforce."
            yield Problem("", f"{key}.outcome", says, fix)


def smoothed_labels(run: RunConfig) -> Iterator[Problem]:
    if isinstance(run.algo, DPO) and run.algo.loss == "ipo" and run.algo.label_smoothing > 0:
        fix = "Drop it, or set algo.loss=sigmoid, for cDPO."
        yield Problem("", "algo.label_smoothing", "algo.loss=ipo takes labels as they are", fix)


def early_stop(run: RunConfig) -> Iterator[Problem]:
    if run.rl.stop_kl is not None and updates_per_step(run, run.policy.samples_per_update) == 1:
        fix = "Drop it, or set algo.epochs or policy.samples_per_update for several."
        yield Problem("", "algo.stop_kl", "there is one update on each rollout, so nothing to stop", fix)


def moving_reference(run: RunConfig) -> Iterator[Problem]:
    cfg = run.reference
    if cfg.ema is not None and cfg.refresh_every:
        yield Problem("", "reference.ema", "and reference.refresh_every are both set", "Keep one of them.")
    for name, used in (("ema", cfg.ema is not None), ("refresh_every", cfg.refresh_every > 0)):
        if used and run.rl.kl.coef == 0:
            says = "algo.kl.coef=0, so there is no reference"
            yield Problem("", f"reference.{name}", says, "Drop it, or set algo.kl.coef above 0.")
    if cfg.ema is not None and run.strategy.name == "deepspeed" and run.strategy.dtype != "float32":
        says = f"its small changes would be rounded away in {run.strategy.dtype}"
        yield Problem("", "reference.ema", says, "Take reference.refresh_every, or strategy.dtype=float32.")


def warm_up(run: RunConfig) -> Iterator[Problem]:
    if "critic" in roles(run) and run.critic.warmup_steps >= run.steps > 0:
        yield Problem("", "critic.warmup_steps", f"leaves the policy none of the {run.steps} steps", "Lower it.")


def guarded_kl(run: RunConfig) -> Iterator[Problem]:
    if run.guard.kl_max is not None and run.rl.kl.coef == 0:
        says = "algo.kl.coef=0, so no KL is measured"
        yield Problem("", "guard.kl_max", says, "Drop it, or set algo.kl.coef above 0.")
