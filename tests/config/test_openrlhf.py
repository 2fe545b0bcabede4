"""Commands of OpenRLHF become commands that compose and check here."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.keys import all_keys
from rlhf_hydra.config.openrlhf.command import PROGRAMS
from rlhf_hydra.config.openrlhf.docs import table
from rlhf_hydra.config.openrlhf.flags import BY_NAME, FLAGS
from rlhf_hydra.config.openrlhf.quoting import shell, split
from rlhf_hydra.config.openrlhf.translate import GROUPS, import_text
from rlhf_hydra.config.store import find_conf_dir

OPTIONS = [
    line
    for line in Path(__file__).with_name("openrlhf_options.txt").read_text().splitlines()
    if not line.startswith("#")
]
THERE = {path.stem for path in (find_conf_dir() / "algo").glob("*.yaml")}

SFT = r"""
CUDA_VISIBLE_DEVICES=0,1,2,3

deepspeed --module openrlhf.cli.train_sft \
   --max_len 4096 \
   --dataset AI-ModelScope/OpenOrca \
   --input_key question --output_key response \
   --input_template $'User: {}\nAssistant: ' \
   --train_batch_size 256 --micro_train_batch_size 2 --max_samples 500000 \
   --pretrain LLM-Research/Meta-Llama-3-8B \
   --save_path ./checkpoint/llama3-8b-sft --save_steps -1 --logging_steps 1 --eval_steps -1 \
   --zero_stage 2 --max_epochs 1 --bf16 --flash_attn --learning_rate 5e-6 \
   --gradient_checkpointing --packing_samples --load_checkpoint --use_wandb {wandb_token} --use_ms
"""

PPO = r"""
CUDA_VISIBLE_DEVICES=4,5,6,7

deepspeed --master_port 61000 \
  openrlhf/cli/train_ppo.py \
  --pretrain AI-ModelScope/Llama-3-8b-sft-mixture \
  --reward_pretrain AI-ModelScope/Llama-3-8b-rm-mixture \
  --save_path ./checkpoint/llama-3-8b-rlhf --save_steps -1 --logging_steps 1 --eval_steps -1 \
  --micro_train_batch_size 2 --train_batch_size 128 --micro_rollout_batch_size 4 --rollout_batch_size 1024 \
  --max_epochs 1 --prompt_max_len 1024 --generate_max_len 1024 --zero_stage 2 --bf16 \
  --actor_learning_rate 5e-7 --critic_learning_rate 9e-6 --init_kl_coef 0.01 \
  --prompt_data AI-ModelScope/prompt-collection-v0.1 --input_key context_messages --apply_chat_template \
  --max_samples 100000 --normalize_reward --adam_offload --flash_attn --gradient_checkpointing \
  --load_checkpoint --use_wandb {wandb_token} --use_ms
"""

RAY = r"""
ray job submit --address="http://127.0.0.1:8265" --runtime-env-json='{"working_dir": "/openrlhf"}' \
   -- python3 -m openrlhf.cli.train_ppo_ray \
   --actor.num_nodes 1 --actor.num_gpus_per_node 8 --ref.num_nodes 1 --ref.num_gpus_per_node 8 \
   --vllm.num_engines 4 --vllm.tensor_parallel_size 2 --vllm.gpu_memory_utilization 0.5 --vllm.enable_sleep \
   --train.colocate_all --algo.advantage.estimator group_norm --rollout.n_samples_per_prompt 8 \
   --rollout.batch_size 128 --train.batch_size 1024 --data.max_len 2048 --rollout.max_new_tokens 1024 \
   --actor.model_name_or_path Qwen/Qwen2.5-7B-Instruct --actor.adam.lr 1e-6 --ds.zero_stage 3 \
   --algo.kl.use_loss --algo.kl.estimator k3 --algo.kl.init_coef 1e-3 --actor.eps_clip_low_high 0.2 0.27 \
   --algo.dynamic_filtering_enable --algo.dynamic_filtering_range 0 1 \
   --algo.advantage.is_correction_enable --algo.advantage.is_correction_type icepop \
   --reward.remote_url SCORE --data.prompt_dataset PROMPTS --data.label_key label --data.max_samples 12800 \
   --train.dynamic_batch_enable --train.max_tokens_per_gpu 16384
"""

LLAMA = "--pretrain meta-llama/Meta-Llama-3-8B --train_batch_size 256 --micro_train_batch_size 1 --bf16 --max_len 8192"
PAIRS = f"{LLAMA} --dataset OpenRLHF/pairs --chosen_key chosen --rejected_key rejected --apply_chat_template"
SUPERVISED = {
    "sft": SFT,
    "rm": f"deepspeed --module openrlhf.cli.train_rm {PAIRS} --learning_rate 9e-6 --margin_loss --zero_stage 3",
    "dpo": f"deepspeed --module openrlhf.cli.train_dpo {PAIRS} --beta 0.1 --learning_rate 5e-7 --nll_loss_coef 0.2",
    "kto": f"deepspeed --module openrlhf.cli.train_kto {LLAMA} --dataset d --input_key instruction --label_key score"
    " --output_key response --desirable_loss_weight 1.5 --beta 0.01",
    "kd": f"deepspeed --module openrlhf.cli.train_kd {LLAMA} --dataset d --teacher_model big --kd_coef 0.5"
    " --input_key question --output_key response",
    "prm": f"deepspeed --module openrlhf.cli.train_prm {LLAMA} --dataset d --input_key input --label_key value"
    " --placeholder_token ки --reward_tokens + -",
}


COMPOSER = Composer()


def compose(words):
    return COMPOSER.compose(words).run


def checked(text):
    """The run of the printed command."""
    return checked_run(overrides(text), COMPOSER)


def overrides(text):
    """Of the printed command, as a shell splits it."""
    line = text.splitlines()[0]
    assert line.startswith("python -m rlhf_hydra ")
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[3:-1]


def settings(text):
    return dict(line.partition("=")[::2] for line in overrides(text))


def test_every_option_is_in_the_table():
    assert len(OPTIONS) > 350
    assert [name for name in OPTIONS if name not in BY_NAME] == []


def test_every_key_of_the_table_exists():
    keys = {line.partition("=")[0] for flag in FLAGS for text in flag.to.values() for line in text.split()}
    assert len(keys) > 60 and keys - set(all_keys()) == set()


def test_no_option_has_two_meanings():
    names = [name for flag in FLAGS for name in flag.names]
    assert len(names) == len(set(names))


def test_the_guides_ppo_command_composes_and_checks():
    text = import_text([PPO])
    run = checked(text)
    assert (run.algo.name, run.model.path, run.model.hub) == (
        "ppo",
        "AI-ModelScope/Llama-3-8b-sft-mixture",
        "modelscope",
    )
    assert (run.steps, run.rollout.prompts_per_step) == (97, 1024)  # 100,000 // 1024
    assert (run.policy.optim.lr, run.critic.optim.lr, run.rl.kl.coef) == (5e-7, 9e-6, 0.01)
    assert run.policy.samples_per_update == run.critic.samples_per_update == 128
    assert run.policy.tokens_per_microbatch == 2 * (1024 + 1024)
    assert run.data.chat and run.data.prompt_column == "context_messages" and run.data.hub == "modelscope"
    assert (run.strategy.zero_stage, run.strategy.offload_optimizer, run.strategy.dtype) == (2, True, "bfloat16")
    assert run.cluster.placement.policy.gpus == "0-3" and run.critic.path.endswith("rm-mixture")
    assert "wandb_token" not in text and "WANDB_API_KEY" in text


def test_a_ray_job_with_dotted_options_composes_and_checks(tmp_path):
    (tmp_path / "prompts.jsonl").write_text("{}\n")
    score = tmp_path / "score.py"
    score.write_text("def reward_func(queries, prompts, labels):\n    pass\n")
    text = import_text([RAY.replace("SCORE", str(score)).replace("PROMPTS", str(tmp_path / "prompts.jsonl"))])
    run = checked(text)
    assert (run.algo.name, run.rl.kl.where, run.rl.kl.estimator) == ("grpo", "loss", "k3")
    assert (run.rl.loss.clip_low, run.rl.loss.clip_high) == (0.2, 0.27)
    assert (run.rl.filter.by, run.rl.correction.mask) == ("mean", "token")
    assert (run.engine.tensor_parallel, run.engine.memory_fraction, run.cluster.name) == (2, 0.5, "a100x8")
    assert (run.rollout.max_prompt_tokens, run.rollout.max_response_tokens) == (1024, 1024)
    assert run.steps == 100 and run.policy.tokens_per_microbatch == 16384


@pytest.mark.parametrize("kind", SUPERVISED)
def test_supervised_commands_name_keys_that_exist(kind):
    found = settings(import_text([SUPERVISED[kind]]))
    assert found["algo"] == kind and found["model"] == "llama3-8b"
    assert set(found) - set(all_keys()) - set(GROUPS) == set()


@pytest.mark.parametrize("kind", sorted(THERE & set(SUPERVISED)) or [pytest.param("", marks=pytest.mark.skip)])
def test_supervised_commands_compose_and_check(kind):
    run = checked(import_text([SUPERVISED[kind]]))
    assert run.algo.name == kind and run.policy.samples_per_update == 256


def test_the_guides_sft_command_by_hand():
    found = settings(import_text([SFT]))
    assert (found["data.max_tokens"], found["policy.tokens_per_microbatch"]) == ("4096", "8192")
    assert (found["policy.optim.lr"], found["algo.epochs"], found["data.limit"]) == ("5e-6", "1", "500000")
    # Columns and template are those of the choice: nothing is said twice.
    assert {key: value for key, value in found.items() if key.startswith("data")} == {
        "data": "openorca", "data.hub": "modelscope", "data.limit": "500000", "data.max_tokens": "4096",
        "data.overlong": "cut",
    }  # fmt: skip


def test_data_that_differs_from_every_choice_is_named_as_it_is():
    found = settings(import_text([SFT.replace("--input_key question", "--input_key system_prompt")]))
    assert (found["data"], found["data.path"]) == ("jsonl", "AI-ModelScope/OpenOrca")
    assert (found["data.prompt_column"], found["data.response_column"]) == ("system_prompt", "response")
    assert found["data.template"] == "'User: {prompt}\nAssistant: '"  # a real line break, inside Hydra's quotes


MIXTURE = "train_rm --dataset OpenRLHF/preference_dataset_mixture2_and_safe_pku"
ORCA = "train_kd --dataset Open-Orca/OpenOrca --input_key question --output_key response --teacher_model b"
FEEDBACK = "train_dpo --dataset HuggingFaceH4/ultrafeedback_binarized --apply_chat_template --train_split train_prefs"


@pytest.mark.parametrize(
    ("program", "choice"),
    [
        (f"{MIXTURE} --apply_chat_template", "preference_mixture"),
        (MIXTURE, "jsonl"),
        ("train_dpo --dataset Anthropic/hh-rlhf --chosen_key chosen --rejected_key rejected", "hh"),
        (f"{FEEDBACK} --input_key prompt", "ultrafeedback"),
        (FEEDBACK, "jsonl"),
        ("train_prm --dataset zhuzilin/Math-Shepherd --label_key value --placeholder_token ки", "math_shepherd"),
        ("train_prm --dataset peiyi9979/Math-Shepherd --label_key label --placeholder_token ки", "jsonl"),
        (ORCA, "openorca"),
        (f"{ORCA} --use_ms", "jsonl"),
    ],
)
def test_data_that_ships_is_named_by_its_choice(program, choice):
    command = f"deepspeed --module openrlhf.cli.{program} {LLAMA} --eval_dataset test.jsonl --eval_steps 10"
    words = overrides(import_text([command]))
    assert f"data={choice}" in words
    run, source = compose(words), program.split()[2]
    assert (run.data.path, run.eval.data.path) == (source, "test.jsonl")
    columns = ("prompt_column", "response_column", "chosen_column", "steps_column", "chat", "template")
    assert [getattr(run.eval.data, key) for key in columns] == [getattr(run.data, key) for key in columns]


def test_several_sources_are_a_file_to_write(tmp_path):
    options = "--dataset a/one,b/two.jsonl --dataset_probs 0.75,0.25 --input_key q --output_key r --max_samples 99"
    text = import_text([f"train_sft {LLAMA} {options}"])
    assert "data=mixed" in overrides(text) and not any(key.startswith("data.") for key in settings(text))
    (tmp_path / "data").mkdir()
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    (tmp_path / "data" / "mixed.yaml").write_text("\n".join(lines))
    data = Composer(str(tmp_path)).compose(overrides(text)).run.data
    assert (data.until, data.limit, [s.path for s in data.sources.values()]) == ("first", 99, ["a/one", "b/two.jsonl"])
    for source, weight in zip(data.sources.values(), (0.75, 0.25), strict=True):
        assert (source.weight, source.prompt_column, source.response_column, source.limit) == (weight, "q", "r", 99)
        assert (source.template, source.max_tokens, source.overlong) == ("User: {prompt}\nAssistant: ", 8192, "cut")


def test_one_source_has_no_shares():
    assert import_text([PPO + " --prompt_data_probs 1.0"]) == import_text([PPO])


def test_texts_beside_the_prompts():
    run = compose(overrides(import_text([PPO + " --pretrain_data texts.jsonl --ptx_coef 0.1"])))
    assert (run.rl.ptx.data.path, run.rl.ptx.coef, run.data.name) == ("texts.jsonl", 0.1, "prompt_collection")


def test_a_template_with_a_line_break_arrives_whole():
    run = checked(import_text([PPO.replace("--apply_chat_template", r"--input_template $'Q: {}\nA:'")]))
    assert run.data.template == "Q: {prompt}\nA:"


def test_words_and_a_pasted_text_are_the_same():
    assert import_text(shlex.split(PPO.replace("\\\n", " "))) == import_text([PPO])


def test_old_options_without_a_prefix_hold_for_policy_and_critic():
    old = settings(import_text([PPO + " --max_norm 0.5 --adam_betas 0.8 0.9"]))
    assert old["policy.optim.max_grad_norm"] == old["critic.optim.max_grad_norm"] == "0.5"
    assert old["critic.optim.beta2"] == "0.9"
    new = settings(import_text([PPO + " --actor.max_norm 0.5"]))
    assert new["policy.optim.max_grad_norm"] == "0.5" and "critic.optim.max_grad_norm" not in new


def test_roles_sit_one_after_another_unless_they_share():
    flags = "--actor_num_gpus_per_node 2 --ref_num_gpus_per_node 2 --critic_num_gpus_per_node 2"
    flags += " --reward_num_gpus_per_node 1 --vllm_num_engines 1 --colocate_actor_ref"
    found = settings(import_text([f"python -m openrlhf.cli.train_ppo_ray {flags} --reward_pretrain m --pretrain m"]))
    seats = {key.split(".")[2]: value for key, value in found.items() if key.startswith("cluster.placement.")}
    assert seats == {"policy": "0-1", "reference": "0-1", "critic": "2-3", "reward": "4", "engine": "5"}
    assert found["cluster.gpus_per_node"] == "6"


def test_what_has_no_equivalent_is_named_with_the_reason():
    text = import_text([PPO + " --ring_attn_size 2 --remote_rm_url http://h:5000/get_reward --load_in_4bit"])
    assert "# --ds.ring_attn_size has no equivalent: a sequence stays on one GPU" in text
    assert "no reward is asked of a server (http://h:5000/get_reward)" in text
    assert "weights of 4 bits cannot learn" in text


def test_adapters():
    found = settings(import_text([PPO + " --lora_rank 32 --lora_alpha 64 --target_modules q_proj v_proj"]))
    assert (found["policy.lora.rank"], found["critic.lora.alpha"]) == ("32", "64")
    assert found["policy.lora.targets"] == "[q_proj,v_proj]"


RAY_PPO = (
    "python3 -m openrlhf.cli.train_ppo_ray --pretrain meta-llama/Meta-Llama-3-8B --reward_pretrain r --prompt_data d"
)
DOTTED = "python3 -m openrlhf.cli.train_ppo_ray --actor.model_name_or_path meta-llama/Meta-Llama-3-8B"
SFT_DOTTED = "deepspeed --module openrlhf.cli.train_sft --model.model_name_or_path meta-llama/Meta-Llama-3-8B"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        # what nobody says is what it is there
        (RAY_PPO, "rollout.prompts_per_step=1024 algo.shaping.clip=10 algo.shaping.clip_where=after"),
        (RAY_PPO.replace("_ray", ""), "rollout.prompts_per_step=512"),
        (DOTTED, "algo.advantage.lam=1.0 algo.value.clip=0.5"),
        (f"train_sft {LLAMA} --dataset d --output_key a", "algo.epochs=2 eval.every=0"),
        (f"train_kto {LLAMA} --dataset d --output_key a", "algo.beta=0.01"),
        (f"train_rm {PAIRS}", "eval.holdout=0.01"),
        (f"{SFT_DOTTED} --data.dataset d --data.output_key a", "data.limit=1000000 algo.epochs=2"),
        (f"{DOTTED} --eval.dataset e --eval.steps 5", "eval.every=5 eval.temperature=0.6 eval.samples_per_prompt=4"),
        (f"{DOTTED} --eval.dataset e --eval.steps 5", "checkpoint.best=eval/pass@1 eval.data.split=train"),
        (f"train_dpo {PAIRS} --eval_dataset e", "eval.data.split=test"),
        # lengths: of their own at first, a share of the whole later
        (f"{RAY_PPO} --generate_max_len 2048", "rollout.max_prompt_tokens=1024 rollout.max_response_tokens=2048"),
        (f"{RAY_PPO} --prompt_max_len 512", "rollout.max_prompt_tokens=512 rollout.max_response_tokens=1024"),
        (f"{DOTTED} --data.max_len 4096 --rollout.max_new_tokens 3000", "rollout.max_prompt_tokens=1096"),
        # values
        (f"{RAY_PPO} --eps_clip_low_high 0.2 0.3 --eps_clip 0.1", "algo.loss.clip_low=0.2 algo.loss.clip_high=0.3"),
        (f"{RAY_PPO} --eps_clip 0.1", "algo.loss.clip_low=0.1 algo.loss.clip_high=0.1"),
        (f"{RAY_PPO} --freezing_actor_steps -1", "critic.warmup_steps=0"),
        (f"{RAY_PPO} --freezing_actor_steps 5", "critic.warmup_steps=5"),
        (f"{DOTTED} --critic.freezing_steps 5", "critic.warmup_steps=6"),  # steps 0 to 5
        (f"{RAY_PPO} --aux_loss_coef 0.001", "policy.router_coef=0.001"),
        (f"{RAY_PPO} --enable_vllm_is_correction --use_icepop", "algo.correction.mask=token"),
        (
            f"{DOTTED} --algo.advantage.is_correction_enable --algo.advantage.is_correction_type seq-mask-tis",
            "algo.correction.weight=token algo.correction.mask=geometric",
        ),
        (
            f"{RAY_PPO} --enable_vllm_is_correction --vllm_is_truncated_threshold 2",
            "algo.correction.weight_low=0 algo.correction.weight_high=2",
        ),
        (f"train_kd {LLAMA} --dataset d --teacher_model t --use_ms", "algo.teacher.hub=modelscope"),
        (f"{RAY_PPO} --use_wandb k --use_tensorboard t", "tracking.use=[wandb,tensorboard]"),
        # who sits where
        (f"{RAY_PPO} --vllm_num_engines 2 --actor_num_gpus_per_node 2", "engine.memory_fraction=0.9"),
        (
            f"{RAY_PPO} --vllm_num_engines 0 --actor_num_gpus_per_node 2",
            "cluster.placement.engine.gpus=0-1 engine.memory_fraction=0.3",
        ),
        (
            f"{RAY_PPO} --colocate_all_models --actor_num_nodes 2 --actor_num_gpus_per_node 4 --vllm_num_engines 8",
            "cluster=a100x8 cluster.nodes=2 cluster.gpus_per_node=4",
        ),
        (f"{RAY_PPO} --actor_num_nodes 2", "cluster.placement.policy.gpus=0-15 cluster.nodes=6"),
        (f"deepspeed --include node-1:0,1@node-2:0,1 train_sft.py {LLAMA}", "cluster.placement.policy.gpus=0-3"),
        (f"torchrun --nproc-per-node 2 -m openrlhf.cli.train_sft {LLAMA}", "cluster.placement.policy.gpus=0-1"),
    ],
)
def test_values_mean_what_they_meant(command, expected):
    found, expected = settings(import_text([command])), dict(item.split("=") for item in expected.split())
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize("what", ["--train.agent_func_path a.py", "--reward.remote_url http://h:5000/get_reward", ""])
def test_a_reward_that_is_missing_is_asked_for(what):
    with pytest.raises(ConfigError, match="reward.path: must be given"):
        checked(import_text([f"{DOTTED} --data.prompt_dataset d {what}"]))


def test_without_evaluation_prompts_nothing_is_evaluated():
    assert "eval.every" not in settings(import_text([f"{DOTTED} --eval.steps 5"]))


SCRIPT = r"""
# Don't forget: --max_len may be larger
MODEL=meta-llama/Meta-Llama-3-8B
read -r -d '' training_commands <<EOF
openrlhf.cli.train_sft \
   --dataset "${DATA:-my/set}" --output_key answer \
   --input_template $'用户：{}\n' \
   --pretrain ${MODEL}
EOF
    # --use_wandb [WANDB_TOKENS]
if [[ ${1} != "slurm" ]]; then
    deepspeed --module $training_commands
fi
"""


def test_a_script_is_read_up_to_the_end_of_the_command():
    text = import_text([SCRIPT])
    run = checked(text)
    assert (run.model.path, run.data.path) == ("meta-llama/Meta-Llama-3-8B", "my/set")
    assert run.data.template == "用户：{prompt}\n"
    assert "is no option" not in text and "wandb" not in text


@pytest.mark.parametrize("end", ["2>&1 | tee log.txt", "> out.log &", "&>> log", "; echo done", "$@"])
def test_what_follows_a_command_is_no_part_of_it(end):
    found = settings(import_text([f"train_sft --pretrain meta-llama/Meta-Llama-3-8B --max_len 4096 {end}"]))
    assert (found["model.path"], found["data.max_tokens"]) == ("meta-llama/Meta-Llama-3-8B", "4096")


def test_a_command_inside_quotes_is_found():
    assert import_text([f'srun -N 1 bash -c "cd /here && {RAY_PPO}" &>> log']) == import_text([RAY_PPO])


def test_a_server_beside_a_command_is_passed_over():
    text = import_text([f"python -m openrlhf.cli.serve_rm --port 5000 &\n{RAY_PPO}"])
    assert text == import_text([RAY_PPO])


def test_a_second_command_is_named():
    text = import_text([f"train_sft {LLAMA} --dataset d\ntrain_rm {PAIRS}"])
    assert settings(text)["data.path"] == "d" and "# train_rm: is a second command" in text


def test_variables_of_the_shell_are_named():
    text = import_text([f"{RAY_PPO} --critic_pretrain $CRITIC --use_wandb $KEY"])
    assert "# --critic_pretrain: $CRITIC stands for a variable of the shell" in text and "KEY stands" not in text


@given(st.text(alphabet="ab'\\ \n\"{}%,=[]#", min_size=1))
def test_words_are_read_back_as_they_were(value):
    assert split(shell(value)) == [value]


def test_unknown_options_get_a_suggestion():
    text = import_text([PPO + " --micro_train_batchsize 2"])
    assert "# --micro_train_batchsize: is no option of OpenRLHF" in text
    assert re.search(r"Did you mean .*--micro_train_batch_size", text)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train_sft --pretrain 'open"], "no command of a shell: No closing quotation"),
        ([""], "no program of OpenRLHF in this command"),
        (["--max_len", "3"], "no program of OpenRLHF in this command"),
        (["python -m openrlhf.cli.serve_rm --port 5000"], "serve_rm has no equivalent"),
        ([PPO + " --advantage_estimator gea"], "there is no estimator gea"),
        ([f"train_sft {LLAMA} --dataset a,b --dataset_probs 1"], "--data.prompt_probs: 1 shares of 2 sources"),
        ([f"train_sft {LLAMA} --dataset a,b --dataset_probs 1,x"], "could not convert string to float: 'x'"),
        ([PPO + " --reward_clip_range 5"], "--reward.clip_range: has 1 values, and needs 2"),
        ([PPO + " --rollout_batch_size 0"], "integer division or modulo by zero"),
        ([PPO + " --train_batch_size many"], "could not convert string to float: 'many'"),
        ([PPO + " --eps_clip_low_high 0.2"], "--actor.eps_clip_low_high: has too few values"),
    ],
)
def test_what_cannot_be_read_is_refused(words, says):
    with pytest.raises(ConfigError, match=says):
        import_text(words)


def test_the_command_line_reads_words_and_standard_input():
    command = [sys.executable, "-m", "rlhf_hydra", "task=import_openrlhf"]
    piped = subprocess.run(command, input=SFT, capture_output=True, text=True, check=True).stdout
    words = shlex.split(SFT.replace("\\\n", " ").replace("$'User: {}\\nAssistant: '", "'User: {}\nAssistant: '"))
    given = subprocess.run([*command, "--", *words], capture_output=True, text=True, check=True).stdout
    assert piped == given == import_text([SFT]) + "\n"
    wrong = subprocess.run([*command, "--", "train_sf"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "no program of OpenRLHF" in wrong.stderr


def test_the_docs_are_the_table():
    docs = Path(__file__).parents[2] / "docs/from-openrlhf.md"
    assert docs.read_text() == table() + "\n"
    assert set(PROGRAMS.values()) >= {"sft", "rl"}


def test_defaults_of_theirs_that_are_others_than_ours_are_written_out():
    def told(text):
        return settings(import_text([text]))

    sft = told(f"deepspeed --module openrlhf.cli.train_sft {LLAMA} --dataset d --lr_scheduler linear")
    assert (sft["algo.epochs"], sft["policy.optim.min_lr_ratio"]) == ("2", "0")
    once = told(f"deepspeed --module openrlhf.cli.train_sft {LLAMA} --dataset d --max_epochs 1")
    assert once["algo.epochs"] == "1" and "policy.optim.min_lr_ratio" not in once
    kto = f"deepspeed --module openrlhf.cli.train_kto {LLAMA} --dataset d"
    assert [told(kto)["algo.beta"], told(f"{kto} --beta 0.2")["algo.beta"]] == ["0.01", "0.2"]
    assert told(f"{kto} --aux_loss_coef 0.001")["policy.router_coef"] == "0.001"
