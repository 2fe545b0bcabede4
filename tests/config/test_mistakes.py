"""Each kind of mistake is found, with the key, where it was set, and the way out."""

import pytest

from rlhf_hydra.config.errors import nearest

BIG = ("model=llama3-8b", "cluster=a100x8")
MISTAKES = {
    # what is typed: what the message must say, piece by piece
    "algo=gppo": ["algo=gppo (command line)", "Did you mean ppo", "reinforce"],
    "model=llama3-8": ["model=llama3-8 ", "Did you mean llama3-8b"],
    "cluster=a100": ["Did you mean a100x8"],
    "reward=rul": ["Did you mean rule?"],
    "tracking=wandbb": ["Did you mean wandb"],
    "experiment=gsm8k": ["Did you mean gsm8k_grpo?"],
    "algo=null": ["algo=null", "is not a choice"],
    "modell=tiny": ["modell=tiny (command line): there is no such key", "Did you mean model?"],
    "algo.kl.cof=0.1": ["algo.kl.cof=0.1", "Did you mean algo.kl.coef?"],
    "policy.lr=1e-5": ["policy.optim.lr or critic.optim.lr?"],
    "+policy.optim.lrr=1": ["policy.optim.lrr=1", "Did you mean policy.optim.lr?"],
    "policy.optim={lrr: 1}": ["policy.optim.lrr", "Did you mean policy.optim.lr?"],
    "~steps": ["steps (command line): cannot be taken out of a run"],
    "+algo=ppo": ["takes no plus", "Write algo=ppo."],
    "seed=1,2": ["several values in one run: seed=1,2", "Add -m"],
    "a b=1": ["a b=1 (command line): is not of the form key=value"],
    "algo.advantage.scale=none": ["is a key of algo=grpo; this run has algo=ppo"],
    "steps=many": ["steps=many (command line): must be a whole number"],
    "policy.optim.lr=fast": ["must be a number"],
    "engine.sleep=maybe": ["must be true or false"],
    "algo.kl=0.1": ["algo.kl=0.1 (command line): must be a section", "algo.kl.coef"],
    "outputs=${oc.env:RLHF_HYDRA_NOT_SET}": ["(command line): there is no environment variable RLHF_HYDRA_NOT_SET"],
    "kl.coef=0.1": ["kl.coef=0.1 (command line): there is no such key\n    Did you mean algo.kl.coef?"],
    "seed=${seed}": ["seed=${seed} (command line): refers to itself"],
    "seed=${algo.kl.coef}": ["seed=${algo.kl.coef} (command line): ", "could not be converted to Integer"],
    "=tiny": ["=tiny (command line): is not of the form key=value"],
    "outputs='open": ["has a quote that is not closed"],
    "+data@eval.data=toy": ["data@eval.data=toy (command line): is part of every run and takes no plus"],
    "schema/algo@algo=grpo": ["schema/algo@algo=grpo (command line): is no choice by itself"],
    "tracking.use=[wandb,wandb]": ["names one of them twice"],
    "policy.samples_per_update=0": ["policy.samples_per_update=0 (command line): must be at least 1"],
    "eval.data={a:1}": ["eval.data={'a': 1} (command line): must be a section"],
    "model.name=small": ["model.name=small (command line): is what the choice is called", "Write model=small."],
    "data@eval.data=toy eval.data.name=it": ["Write data@eval.data=it."],
    "hydra.searchpath=[/not/there]": ["hydra.searchpath=/not/there: does not exist"],
    "policy.optim.lr=2": ["policy.optim.lr=2.0 (command line): must be more than 0 and at most 1"],
    "rollout.temperature=0": ["rollout.temperature=0.0 (command line): must be more than 0"],
    "algo.kl.coef=-1": ["must be at least 0"],
    "algo.loss.clip_low=2": ["algo.loss.clip_low=2.0", "at most 1"],
    "algo.loss.kind=clp": ["algo.loss.kind=clp (command line)", "Did you mean clip?", "sequence_clip"],
    "algo.kl.estimator=k4": ["There are: abs, k1, k2, k3."],
    "algo.advantage.estimator=gea": ["Did you mean gae?"],
    "policy.optim.schedule=cosin": ["Did you mean cosine?"],
    "policy.optim.name=adam": ["Did you mean adamw?"],
    "policy.optim.name=muon strategy.name=deepspeed": [
        "policy.optim.name=muon (command line): works on whole matrices",
        "Set strategy.name=single",
    ],
    "policy.lora.alpha=32": ["policy.lora.alpha=32", "policy.lora.rank=0, so there are no adapters", "rank=16"],
    "strategy.name=deepspeed strategy.dtype=float16": [
        "strategy.dtype=float16 (command line): DeepSpeed trains in float16 on GPUs",
        "the policy has none on cluster=local",
        "Set it to bfloat16",
    ],
    "model=llama3-8b cluster=a100x8 strategy.dtype=float16 strategy.zero_stage=0": ["gradients of float16 vanish"],
    "model=llama3-8b cluster=a100x8 policy.lora.rank=8 policy.lora.quantize=nf4 strategy.zero_stage=3": [
        "strategy.zero_stage=3 shards them",
        "Set strategy.zero_stage=2.",
    ],
    "engine.name=vlm": ["Did you mean vllm?"],
    "strategy.name=deepsped": ["Did you mean deepspeed?"],
    "tracking.use=[wanb]": ["Did you mean wandb"],
    "engine.dtype=bfloat": ["Did you mean bfloat16"],
    "engine.memory_fraction=1.5": ["engine.memory_fraction=1.5", "more than 0 and at most 1"],
    "engine.memory_fraction=0": ["more than 0 and at most 1"],
    "algo.ptx.coef=0.1": ["algo.ptx.data", "there are no texts", "Add data@algo.ptx.data=jsonl"],
    "data@algo.ptx.data=toy": ["algo.ptx.coef=0.0", "nothing would be learned from algo.ptx.data"],
    "data@algo.ptx.data=jsonl algo.ptx.coef=0.1": ["algo.ptx.data.path"],
    "algo=grpo algo.filter.oversample=2": ["algo.filter.oversample=2.0", "Set algo.filter.by=mean"],
    "algo=dapo algo.filter.oversample=2": ["algo.filter.oversample=2.0", "Set algo.correction.weight=token."],
    "reward=process reward.path=org/judge algo=rloo": [
        "reward.outcome=none: rewards each step, and algo=rloo compares whole responses",
        "Set reward.outcome=min, for example, or take algo=ppo or algo=reinforce.",
    ],
    "algo=sft model=qwen2.5-vl-7b data=jsonl data.path=conf data.response_column=a data.images_column=image": [
        "data.images_column=image (command line): only a chat template says how a model is shown an image",
        "Set data.chat=true.",
    ],
    "algo=rm model=tiny data=jsonl data.path=conf data.chat=true data.images_column=image": [
        "algo=rm learns from text alone",
        "model=tiny reads letters",
    ],
    "algo=ppo model=qwen2.5-vl-7b data=geometry3k reward=model reward.path=a/b": [
        "the critic of algo=ppo reads text alone",
        "reward is a model that reads text alone",
    ],
    "reward=process reward.path=org/judge reward.template=step": ["reward.template", "has no {step}"],
    "algo=ipo algo.label_smoothing=0.1": ["algo.label_smoothing=0.1", "takes labels as they are", "algo.loss=sigmoid"],
    "algo=sft algo.epochs=3": ["algo.epochs=3 (command line): plays no role, since steps=40", "Set steps=0"],
    "steps=0": ["steps=0 (command line): must be at least 1"],
    "rollout.prompts_per_step=16 rollout.samples_per_prompt=8 policy.samples_per_update=100": [
        "policy.samples_per_update=100 (command line)",
        "16 prompts_per_step x 8 samples_per_prompt = 128 responses",
        "Set it to 32 or 64 or 128.",
    ],
    "rollout.prompts_per_step=16 rollout.samples_per_prompt=8 critic.samples_per_update=7": [
        "critic.samples_per_update=7",
        "Set it to 2 or 4 or 8.",
    ],
    "rollout.max_prompt_tokens=16 rollout.max_response_tokens=500": [
        "16 max_prompt_tokens + 500 = 516 tokens",
        "reads 512",
        "at most 496",
    ],
    "rollout.max_response_tokens=8 rollout.min_response_tokens=9": ["is more than max_response_tokens=8"],
    "algo.kl.controller=adaptive algo.kl.coef=0": ["it would stay 0"],
    "algo.kl.where=loss": ["algo.kl.estimator=k1", "zero on average", "k2 or k3"],
    "algo.correction.weight=token algo.correction.weight_low=6": [
        "weight_low=6.0",
        "more than algo.correction.weight_high",
    ],
    "algo.correction.mask=token algo.correction.mask_low=6": ["algo.correction.mask_low=6.0"],
    "algo.filter.by=mean algo.filter.low=1": ["algo.filter.low=1.0", "leaves nothing below algo.filter.high=1"],
    "algo.filter.by=mean rollout.samples_per_prompt=1 policy.samples_per_update=32 critic.samples_per_update=32": [
        "judges a prompt by one response"
    ],
    "algo.advantage.whiten_over=group rollout.samples_per_prompt=1 policy.samples_per_update=32": [
        "groups of one response"
    ],
    "algo.filter.by=function": ["algo.filter.path: algo.filter.by=function needs a function"],
    "algo.filter.by=function algo.filter.path=json:dump_": ["algo.filter.path", "has no function dump_"],
    "algo=reinforce algo.epochs=2": ["reinforce has no ratio", "policy.samples_per_update=256 algo.epochs=1"],
    "algo=remax algo.shaping.truncated=0": ["algo.shaping.truncated=0.0", "greedy response", "algo=rloo"],
    "algo.stop_kl=0.1 policy.samples_per_update=256": ["one update on each rollout"],
    "reference.ema=0.9 reference.refresh_every=2": ["Keep one of them."],
    "algo=dapo reference.refresh_every=2": ["there is no reference"],
    "reference.ema=0.9 strategy.name=deepspeed strategy.dtype=bfloat16": ["rounded away in bfloat16"],
    "critic.warmup_steps=40": ["leaves the policy none of the 40 steps"],
    "algo=dapo guard.kl_max=1": ["guard.kl_max=1.0", "no KL is measured"],
    "data=jsonl": ["data.path: no source of prompts", "Set data.path to a file or the id of a dataset."],
    "data=jsonl data.path=/not/there.jsonl": [
        "data.path=/not/there.jsonl (command line): does not exist",
        "folder /not",
    ],
    "data=jsonl data.path=org/set data.label_column=null": ["reward.rule", "compares with a label"],
    "data.max_tokens=9999": ["data.max_tokens", "more than model.context_tokens=512", "Set data.max_tokens=512"],
    "data=blend data.sources.often.template=none": ["data.sources.often.template", "has no {prompt}"],
    "data=hh reward=model reward.path=a/b": ["data.prompt_column", "needs prompts, and the data has none"],
    "data.template=none": ["has no {prompt}"],
    "data=gsm8k": ["reward.rule=math", "model=tiny writes letters"],
    "rollout.prompts_per_step=${oc.env:NOT_SET_ANYWHERE} seed=-1": ["variable NOT_SET_ANYWHERE", "seed=-1"],
    "model.path=./not-there": ["model.path=./not-there (command line): does not exist"],
    "reward=function": ["reward.path: must be given", "Add reward.path=VALUE."],
    "reward=function reward.path=score": ["does not name a function", "file.py:function"],
    "reward=function reward.path=/not/there.py:f": ["does not exist"],
    "reward=function reward.path=no_such_module.x:f": ["no module no_such_module.x"],
    "reward=function reward.path=json.decoder:scanstrin": ["has no function scanstrin", "Did you mean"],
    "reward=model": ["reward.path: must be given", "Add reward.path=VALUE."],
    "reward=null": ["reward=null", "choose one: composite, function, model, process, rule"],
    "reward=composite reward.parts=null": ["reward.parts"],
    "cluster.placement.policy.gpus=0-7": ["cluster.placement.policy.gpus=0-7 (command line)", "has no GPU"],
    "cluster.placement.policy.gpus=all": ["'all' is not a list of GPUs such as 0-7"],
    "cluster.placement.policy.workers=2": ["strategy.name=single", "the policy has 2 workers", "deepspeed"],
    "strategy.name=deepspeed cluster.placement.policy.workers=2": ["2 workers with deepspeed", "cluster.backend=local"],
    "engine.name=vllm cluster.placement.engine.workers=2": ["2 workers with vllm", "cluster.backend=ray"],
    "cluster.nodes=2": ["cluster.nodes=2", "is one process"],
    "strategy.offload_optimizer=true": ["needs DeepSpeed"],
    "engine.sleep=true": ["only engines on GPUs"],
    "engine.tensor_parallel=2": ["engine.name=hf runs on one GPU"],
    "cluster=cpu engine.tensor_parallel=2": ["has no GPUs to share a model over"],
    "task=resume": ["run: task=resume needs the folder of a run"],
    "run=somewhere": ["task=train starts a new run"],
    "task=report": ["run: task=report needs the folder of a sweep", "Add run=outputs/sweep/TIME"],
    "task=report run=[a,3]": ["must be a folder or a list of folders", "run=[FOLDER,FOLDER]"],
    "task=report run=a task.direction=up": ["task.direction=up", "max, min"],
    "task=compare run=a": ["task=compare needs two folders of runs"],
    "task=compare run=[a,b] task.objective=x": ["task.objective", "task=report; this run has task=task"],
    "model=llama3-8b": ["cluster.memory_gib=32.0 (", "local.yaml)", "critic 119.7 + policy 119.7"],
}
ON_GPUS = {
    "algo=grpo rollout.samples_per_prompt=1": ["needs at least 2", "rollout.samples_per_prompt=1 (command line)"],
    "algo=grpo critic.optim.lr=1e-5": ["critic.optim.lr=1e-05 (command line): algo=grpo has no critic", "algo=ppo"],
    "algo=grpo algo.advantage.lam=0.9": ["is a key of algo=ppo; this run has algo=grpo", "Drop it"],
    "cluster.placement.policy.gpus=4-11": ["cluster=a100x8 has 1 x 8 GPUs, so no GPU 8, 9, 10, 11", "within 0-7"],
    "cluster.placement.policy.gpus=7-4": ["the range 7-4 runs backwards"],
    "cluster.placement.critic.gpus='0,0'": ["names a GPU twice"],
    "cluster.placement.critic.gpus=0,1": [
        "several values in one run",
        "'cluster.placement.critic.gpus=\"0,1\"' for a text",
    ],
    "cluster.placement.engine.gpus=null engine.sleep=false": ["the engine has no GPU on a cluster that has them"],
    "cluster.gpus_per_node=0": ["zero GPUs of type A100-SXM4-80GB"],
    "engine.tensor_parallel=3": ["does not divide the 32 attention heads", "Set it to 1 or 2 or 4 or 8"],
    "cluster.placement.engine.gpus=0-5 engine.tensor_parallel=4": ["does not divide the 6 GPUs", "Set it to 1 or 2"],
    "cluster=a100x16 engine.tensor_parallel=16": ["must stay within a node of 8 GPUs"],
    "rollout.prompts_per_step=4 policy.samples_per_update=4": ["leaves some of the 8 workers of the policy"],
    "engine.memory_fraction=0.02": ["is 1.6 of 79.1 GiB", "1.9 GiB of weights", "at least 0.03"],
    "model=llama3-70b": ["model=llama3-70b does not fit", "critic 131.4 + policy 131.4", "GiB"],
    "cluster=a100x16 model=llama3-70b": ["It fits with strategy.offload_optimizer=true."],
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_mistake_is_named(problems, typed):
    check_message(problems(*split(typed)), MISTAKES[typed])


@pytest.mark.parametrize("typed", ON_GPUS)
def test_mistake_on_gpus_is_named(problems, typed):
    check_message(problems(*BIG, *split(typed)), ON_GPUS[typed])


def split(typed: str) -> list[str]:
    return [typed] if ": " in typed or typed.startswith("a b") else typed.split()


def check_message(found, pieces) -> None:
    text = "\n".join(map(str, found))
    assert all(problem.rule for problem in found)
    assert [piece for piece in pieces if piece not in text] == [], text
    assert "append" not in text and "use +" not in text and "Traceback" not in text


def test_all_mistakes_are_reported_at_once(problems):
    typed = "algo=grpo modell=x steps=abc policy.optim.lr=5 algo.kl.estimator=k9 rollout.samples_per_prompt=1 seed=1,2"
    keys = {problem.key for problem in problems(*typed.split())}
    assert keys >= {"modell", "steps", "policy.optim.lr", "algo.kl.estimator", "rollout.samples_per_prompt", "seed"}


def test_a_misspelled_option_stands_for_the_nearest_in_the_other_checks(problems):
    found = problems(
        "algo=gropo", "algo.advantage.scale=none", "rollout.samples_per_prompt=1", "policy.samples_per_update=1"
    )
    assert [problem.key for problem in found] == ["algo", "rollout.samples_per_prompt"]


def write(folder, name, text):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_key_misspelled_in_a_file(problems, tmp_path):
    text = "defaults:\n  - ppo\n  - _self_\n\nkl:\n  coff: 0.1\nepochs: x\nloss:\n  kind: clpi\n"
    write(tmp_path, "algo/mine.yaml", text)
    messages = "\n".join(map(str, problems("algo=mine", config_dir=tmp_path)))
    where = f"({tmp_path}/algo/mine.yaml)"
    assert f"algo.kl.coff=0.1 {where}: there is no such key\n    Did you mean algo.kl.coef?" in messages
    assert f"algo.epochs=x {where}: must be a whole number" in messages
    assert f"algo.loss.kind=clpi {where}: is not among its choices\n    Did you mean clip?" in messages


IN_FILES = {
    "experiment/mine": {
        "# @package _global_\ndefaults:\n  - /algo: grpo\n": [
            "algo=grpo (FILE): has been chosen already",
            "- override /algo",
        ],
        "# @package _global_\ndefaults:\n  - override /algoo: grpo\n": [
            "algoo (FILE): is nothing",
            "Did you mean /algo?",
        ],
        "# @package _global_\ndefaults:\n  - override algo: grpo\n": [
            "experiment/algo@algo (FILE): ",
            "Did you mean /algo?",
        ],
        "# @package _global_\nalgo: grpo\n": ["algo=grpo (FILE): must be a section", "`- override /algo: grpo`"],
        "# @package _global_\nalgo: {name: grpo}\n": ["algo.name=grpo (FILE): ", "`- override /algo: grpo`"],
        "# @package _global_\nalgo.kl.coef: 0.5\n": ["algo.kl.coef (FILE): is no path", "algo: {kl: {coef: ...}}"],
        "# @package _global_\nhydra: {searchpath: [/conf]}\n": ["hydra.searchpath (FILE): is not read in this file"],
        "# @package _global_\nsteps: ${steps\n": ["FILE: cannot be read: no viable alternative"],
        "# @package _global_\nsteps:\n\t- 4\n": ["FILE:3: is not YAML", "Indent with spaces."],
        "# @package _global_\nsteps: 4\nsteps: 5\n": ["FILE:3: is not YAML: found duplicate key steps"],
        "steps: 4\n": ["experiment.steps=4 (FILE): is no part of a run", "`# @package _global_`"],
    },
    "model/mine": {
        "defaults: tiny\n": ["FILE: cannot be read: ", "defaults must be a list"],
        "defaults: [mine]\n": ["FILE: extends itself"],
        "defaults: [tinny]\n": ["model=tinny (FILE): there is no model of that name\n    Did you mean tiny?"],
        "# @package _global_\ndefaults: [tiny, _self_]\nmodel: {name: yours}\n": [
            "model.name=yours (FILE): ",
            "of its file, mine.",
        ],
    },
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in IN_FILES.items() for text in texts])
def test_mistake_in_a_file_is_named(problems, tmp_path, name, text):
    write(tmp_path, f"{name}.yaml", text)
    pieces = [piece.replace("FILE", f"{tmp_path}/{name}.yaml") for piece in IN_FILES[name][text]]
    check_message(problems(name.replace("/", "="), config_dir=tmp_path), pieces)


def test_a_file_in_another_encoding(problems, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_bytes("name: größe".encode("latin-1"))
    (problem,) = problems("model=mine", config_dir=tmp_path)
    assert problem.key == f"{tmp_path}/model/mine.yaml" and "UTF-8" in problem.says


def test_option_misspelled_in_a_file(problems, tmp_path):
    write(tmp_path, "experiment/mine.yaml", "# @package _global_\ndefaults:\n  - override /model: llama3-9b\n")
    (problem,) = problems("experiment=mine", config_dir=tmp_path)
    assert (problem.key, problem.value, problem.where) == ("model", "llama3-9b", str(tmp_path / "experiment/mine.yaml"))
    assert "Did you mean llama3-8b" in problem.fix


def test_file_that_is_not_yaml(problems, tmp_path):
    write(tmp_path, "experiment/mine.yaml", "# @package _global_\nsteps: [1\n")
    (problem,) = problems("experiment=mine", config_dir=tmp_path)
    assert str(tmp_path / "experiment/mine.yaml") in problem.key and "is not YAML" in problem.says


def test_critic_set_in_an_experiment_without_one(problems, tmp_path):
    text = "# @package _global_\ndefaults:\n  - override /algo: grpo\n  - _self_\ncritic:\n  optim:\n    lr: 1e-5\n"
    write(tmp_path, "experiment/mine.yaml", text)
    assert [problem.rule for problem in problems("experiment=mine", config_dir=tmp_path)] == ["unread"]
    assert problems("algo=grpo") == []  # what model=tiny brings along for algorithms with a critic is no mistake


def test_missing_file_suggests_its_neighbour(problems, tmp_path):
    (tmp_path / "prompts.jsonl").write_text("{}\n")
    (problem,) = problems("data=jsonl", f"data.path={tmp_path}/promts.jsonl")
    assert problem.rule == "data_source" and f"Did you mean {tmp_path}/prompts.jsonl?" in str(problem)


def test_reward_function_is_read_and_not_run(problems, tmp_path):
    file = tmp_path / "score.py"
    file.write_text("raise SystemExit('imported')\ndef score(responses, labels, *, bonus=0): ...\n")
    assert problems("reward=function", f"reward.path={file}:score", "reward.kwargs.bonus=1") == []
    (wrong,) = problems("reward=function", f"reward.path={file}:scores")
    assert "has no function scores" in str(wrong) and "Did you mean score?" in str(wrong)
    (wrong,) = problems("reward=function", f"reward.path={file}:score", "reward.kwargs.bonnus=1")
    assert wrong.key == "reward.kwargs.bonnus" and "Did you mean bonus?" in str(wrong)


def test_nearest_ignores_case_and_ranks():
    assert nearest("LLAMA3-8B", ["llama3-70b", "llama3-8b", "tiny"])[0] == "llama3-8b"
    assert nearest("zzz", ["ppo"]) == []


def test_a_compiled_module_is_taken_as_it_is(problems):
    """There is no source to find the function in."""
    assert problems("reward=function", "reward.path=torch._C:default_generator") == []
