"""What each option of OpenRLHF's programs is here; newest name first, then its older ones.

`to`: overrides with `{}` for the option's values, parted by blanks. `together`: keys that several options decide
(the files beside this one). `nothing`: no key is needed. `none`: there is nothing like it here. The last two say why.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    names: tuple[str, ...]
    to: dict[str, str]
    """Kind of program, or `""` for all others -> overrides."""
    why: str = ""
    """Of what has none."""
    needed: bool = False
    """Its effect is missing here: not just unneeded."""

    @property
    def is_read(self) -> bool:
        """Whether its values are. Those of `logger.wandb.key` never are."""
        return not (self.why and self.to) and self.names[0] != "logger.wandb.key"


def to(names: str, keys: str = "", **by_kind: str) -> Flag:
    return Flag(tuple(names.split()), {"": keys, **by_kind})


def together(names: str, keys: str, why: str = "") -> Flag:
    """`keys` are decided by several flags."""
    return Flag(tuple(names.split()), {}, f"{keys}{': ' if why else ''}{why}")


def nothing(names: str, why: str) -> Flag:
    return Flag(tuple(names.split()), {"": ""}, why)


def none(names: str, why: str) -> Flag:
    return Flag(tuple(names.split()), {"": ""}, why, needed=True)


SEATS = "cluster, cluster.placement"
LENGTHS = "rollout.max_prompt_tokens, rollout.max_response_tokens"
BUDGET = "policy.tokens_per_microbatch, critic.tokens_per_microbatch"

FLAGS: list[Flag] = [
    # ------------------------------------------------------------------------------------------------ placement
    *(
        together(f"{role}.{what} {role}_{what}", SEATS)
        for role in ("actor", "ref", "critic", "reward")
        for what in ("num_nodes", "num_gpus_per_node")
    ),
    together("train.colocate_actor_ref colocate_actor_ref", SEATS),
    together("train.colocate_critic_reward colocate_critic_reward", SEATS),
    together("train.colocate_all colocate_all_models", SEATS),
    none("ref.offload ref_reward_offload ref_offload", "frozen models stay on their GPU"),
    none("reward.offload", "frozen models stay on their GPU"),
    nothing("local_rank", "workers know their rank"),
    nothing("actor_init_on_gpu", "models are loaded where they learn"),
    nothing("disable_trace_cache", "DeepSpeed's default"),
    # -------------------------------------------------------------------------------------------------- engines
    together("vllm.num_engines vllm_num_engines", SEATS, "an engine for every engine.tensor_parallel GPUs of its seat"),
    together("vllm.tensor_parallel_size vllm_tensor_parallel_size", "engine.tensor_parallel"),
    nothing("vllm.sync_backend vllm_sync_backend", "weights pass through shared memory"),
    nothing("vllm.sync_with_ray vllm_sync_with_ray", "weights pass through Ray"),
    nothing("vllm.enable_prefix_caching enable_prefix_caching", "vLLM's default"),
    to("vllm.enforce_eager enforce_eager", "engine.enforce_eager=true"),
    to("vllm.enable_sleep vllm_enable_sleep", "engine.sleep=true"),
    to("vllm.gpu_memory_utilization vllm_gpu_memory_utilization", "engine.memory_fraction={}"),
    # ------------------------------------------------------------------------------------------ rollout, batches
    to("rollout.batch_size rollout_batch_size", "rollout.prompts_per_step={}"),
    to("rollout.n_samples_per_prompt n_samples_per_prompt", "rollout.samples_per_prompt={}"),
    nothing("rollout.micro_batch_size micro_rollout_batch_size", "forwards have the budget of training"),
    none("rollout.vllm_generate_batch_size vllm_generate_batch_size", "the prompts of a step are sampled at once"),
    together("rollout.max_new_tokens max_new_tokens generate_max_len", LENGTHS),
    together("prompt_max_len", LENGTHS),
    nothing("rollout.max_tokens_per_gpu rollout_max_tokens_per_gpu", "forwards have the budget of training"),
    to("rollout.temperature temperature", "rollout.temperature={}"),
    to("rollout.top_p top_p", "rollout.top_p={}"),
    together("train.batch_size train_batch_size", "policy.samples_per_update, critic.samples_per_update"),
    together("train.micro_batch_size micro_train_batch_size", BUDGET, "sequences times their longest length"),
    nothing("train.dynamic_batch_enable use_dynamic_batch", "micro-batches are always filled by tokens"),
    together("train.max_tokens_per_gpu train_max_tokens_per_gpu", BUDGET),
    together("train.num_episodes num_episodes", "steps", "passes over the prompts, if data.max_samples says how many"),
    to("train.max_epochs max_epochs", "algo.epochs={}"),
    none("train.async_enable async_train", "sampling and training take turns"),
    none("train.async_queue_size async_queue_size", "sampling and training take turns"),
    none("train.partial_rollout_enable partial_rollout", "sampling and training take turns"),
    none("train.agent_func_path agent_func_path", "a response is one turn"),
    # ------------------------------------------------------------------------------------------------ algorithm
    together("algo.advantage.estimator advantage_estimator", "algo"),
    together("algo.advantage.gamma gamma", "algo.advantage.gamma", "of ppo and reinforce_pp; others have none"),
    together("algo.advantage.lambd lambd", "algo.advantage.lam", "of ppo"),
    together("algo.advantage.no_std_norm no_advantage_std_norm", "algo.advantage.whiten"),
    together("algo.advantage.is_correction_enable enable_vllm_is_correction", "algo.correction"),
    together("algo.advantage.is_correction_threshold vllm_is_truncated_threshold", "algo.correction"),
    together("algo.advantage.is_correction_type vllm_is_correction_type", "algo.correction"),
    together("use_icepop", "algo.correction.mask=token"),
    together("algo.kl.init_coef init_kl_coef", "algo.kl.coef"),
    to("algo.kl.target kl_target", "algo.kl.controller=adaptive algo.kl.target={}"),
    to("algo.kl.horizon kl_horizon", "algo.kl.horizon={}"),
    together("algo.kl.estimator kl_estimator", "algo.kl.estimator"),
    together("use_kl_estimator_k3", "algo.kl.estimator"),
    together("algo.kl.use_loss use_kl_loss", "algo.kl.where"),
    to("algo.dynamic_filtering_enable dynamic_filtering", "algo.filter.by=mean"),
    to(
        "algo.dynamic_filtering_range dynamic_filtering_reward_range",
        "algo.filter.low={0} algo.filter.high={1}",
    ),
    together("actor.policy_loss_type policy_loss_type", "algo.loss.kind", "gspo is sequence_clip"),
    together("actor.eps_clip eps_clip", "algo.loss.clip_low, algo.loss.clip_high"),
    to("actor.eps_clip_low_high eps_clip_low_high", "algo.loss.clip_low={0} algo.loss.clip_high={1}"),
    to("actor.dual_clip dual_clip", "algo.loss.dual_clip={}"),
    to("actor.entropy_coef entropy_loss_coef", "algo.loss.entropy_coef={}"),
    to("actor.aux_loss_coef model.aux_loss_coef aux_loss_coef", "policy.router_coef={}"),
    together("critic.value_clip value_clip", "algo.value.clip", "of ppo"),
    together("critic.freezing_steps freezing_actor_steps", "critic.warmup_steps"),
    none("critic.save_value_network save_value_network", "the critic stays in the checkpoints"),
    together("train.enable_ema enable_ema", "policy.ema"),
    together("train.ema_beta ema_beta", "policy.ema"),
    # --------------------------------------------------------------------------------------------------- reward
    together("reward.model_name_or_path reward_pretrain", "reward=model reward.path"),
    together("reward.remote_url remote_rm_url", "reward=function reward.path", "a file; servers have none"),
    together("reward.normalize_enable normalize_reward", "algo.shaping.normalize=stored", "of a reward model"),
    together("reward.clip_range reward_clip_range", "algo.shaping.clip", "the same on both sides"),
    together("reward.overlong_buffer_len overlong_buffer_len", "algo.shaping.overlong_share"),
    to("reward.overlong_penalty_factor overlong_penalty_factor", "algo.shaping.overlong_penalty={}"),
    to("reward.stop_properly_penalty_coef stop_properly_penalty_coef", "algo.shaping.truncated={}"),
    # ------------------------------------------------------------------------------------------------ optimizers
    *(
        flag
        for prefix, key, old in (
            ("actor.", "policy", "actor_learning_rate"),
            ("critic.", "critic", "critic_learning_rate"),
            ("", "policy", "learning_rate"),
        )
        for flag in (
            together(f"{prefix}optim", f"{key}.optim.name"),
            to(f"{prefix}adam.lr {old}", f"{key}.optim.lr={{}}"),
            to(f"{prefix}adam.eps", f"{key}.optim.eps={{}}"),
            to(f"{prefix}lr_scheduler", f"{key}.optim.schedule={{}}"),
            to(f"{prefix}lr_warmup_ratio", f"{key}.optim.warmup_ratio={{}}"),
            to(f"{prefix}min_lr_ratio", f"{key}.optim.min_lr_ratio={{}}"),
            to(f"{prefix}max_norm", f"{key}.optim.max_grad_norm={{}}"),
            to(f"{prefix}muon.momentum", f"{key}.optim.momentum={{}}"),
            none(f"{prefix}muon.lr", "Muon's steps are scaled so that optim.lr serves them too"),
            nothing(f"{prefix}muon.ns_steps", "it has no effect there either"),
            nothing(f"{prefix}muon.nesterov", "as always"),
            none(f"{prefix}muon.no_nesterov", "Muon's momentum is Nesterov's"),
        )
    ),
    *(
        to(
            f"{prefix}adam.betas{' adam_betas' if not prefix else ''}",
            f"{key}.optim.beta1={{0}} {key}.optim.beta2={{1}}",
        )
        for prefix, key in (("actor.", "policy"), ("critic.", "critic"), ("", "policy"))
    ),
    *(
        to(f"{prefix}adam.weight_decay{' l2' if not prefix else ''}", f"{key}.optim.weight_decay={{}}")
        for prefix, key in (("actor.", "policy"), ("critic.", "critic"), ("", "policy"))
    ),
    # ------------------------------------------------------------------------------------------------------ models
    together("actor.model_name_or_path model.model_name_or_path pretrain", "model, model.path"),
    to("critic.model_name_or_path critic_pretrain", "critic.path={}"),
    to("ref.model_name_or_path ref_pretrain", "reference.path={}"),
    to("teacher_model", "algo.teacher.path={}"),
    none("teacher_offload", "frozen models stay on their GPU"),
    nothing("ds.value_head_prefix value_head_prefix", "the model's config says what is its head"),
    to("ds.zero_stage zero_stage", "strategy.zero_stage={}"),
    to("ds.param_dtype param_dtype data_type", "strategy.dtype={}"),
    nothing("bf16", "the type of every cluster with GPUs"),
    nothing("ds.attn_implementation attn_implementation flash_attn", "attention is always per sequence"),
    none("ds.experts_implementation", "transformers chooses the kernel"),
    none("ds.use_liger_kernel use_liger_kernel", "transformers' kernels are used"),
    nothing("ds.packing_samples packing_samples", "samples are always packed"),
    to("ds.adam_offload adam_offload", "strategy.offload_optimizer=true"),
    none(
        "ds.enable_sleep deepspeed_enable_sleep",
        "strategy.offload_optimizer keeps training states off the GPU",
    ),
    none("ds.zpg zpg", "ZeRO++ is not used"),
    none("ds.grad_accum_dtype grad_accum_dtype", "gradients add up in DeepSpeed's default type"),
    nothing("ds.overlap_comm overlap_comm", "DeepSpeed's default"),
    none("ds.deepcompile deepcompile torch_compile", "models run uncompiled"),
    none("ds.tensor_parallel_size ds_tensor_parallel_size", "training shards by ZeRO; engines have tensor_parallel"),
    none("ds.ring_attn_size ring_attn_size", "a sequence stays on one GPU"),
    none("ds.ring_attn_head_stride ring_head_stride", "a sequence stays on one GPU"),
    none("ds.use_universal_ckpt use_ds_universal_ckpt", "a run goes on with as many workers as it began with"),
    together("ds.load_in_4bit load_in_4bit", "policy.lora.quantize=nf4", "with adapters"),
    together("ds.lora.rank lora_rank", "policy.lora.rank, critic.lora.rank"),
    together("ds.lora.alpha lora_alpha", "policy.lora.alpha, critic.lora.alpha"),
    together("ds.lora.target_modules target_modules", "policy.lora.targets, critic.lora.targets"),
    together("ds.lora.dropout lora_dropout", "policy.lora.dropout, critic.lora.dropout"),
    to(
        "actor.gradient_checkpointing_enable model.gradient_checkpointing_enable gradient_checkpointing",
        "strategy.gradient_checkpointing=true",
    ),
    nothing(
        "actor.gradient_checkpointing_reentrant model.gradient_checkpointing_reentrant"
        " gradient_checkpointing_use_reentrant",
        "checkpoints are never reentrant",
    ),
    none("actor.freeze_visual_encoder", "what reads images learns with the rest"),
    to("train.seed seed", "seed={}"),
    nothing("train.full_determinism_enable full_determinism", "the same seed gives the same numbers"),
    # ------------------------------------------------------------------------------------------------- objectives
    to("model.beta beta", "algo.beta={}"),
    to("model.ipo_enable ipo", "algo.loss=ipo"),
    to("model.label_smoothing label_smoothing", "algo.label_smoothing={}"),
    to("model.nll_loss_coef nll_loss_coef", "algo.nll_coef={}"),
    to("model.margin_loss_enable margin_loss", "data.margin_column=margin"),
    nothing("model.loss_type loss", "sigmoid and logexp are the same function"),
    nothing("model.compute_fp32_loss_enable compute_fp32_loss", "losses are always float32"),
    to("model.pretrain_mode_enable pretrain_mode", "algo.learn=all"),
    to("data.multiturn multiturn", "algo.learn=assistant"),
    to("desirable_loss_weight", "algo.desirable_weight={}"),
    to("undesirable_loss_weight", "algo.undesirable_weight={}"),
    to("kd_coef", "algo.coef={}"),
    to("placeholder_token", "data.placeholder={}"),
    together("reward_tokens", "data.step_tokens"),
    nothing("specialize_reward_tokens", "step tokens are always compared with each other alone"),
    # -------------------------------------------------------------------------------------------------------- data
    together(
        "data.prompt_dataset data.dataset prompt_data dataset",
        "data=jsonl data.path",
        "or a choice that ships, if its columns are the same",
    ),
    together("data.prompt_probs data.dataset_probs prompt_data_probs dataset_probs", "data", "the file of a blend"),
    to("data.prompt_split data.dataset_split prompt_split train_split", "data.split={}"),
    to("data.input_key data.prompt_key input_key prompt_key", "data.prompt_column={}"),
    to("data.output_key output_key", "data.response_column={}"),
    to("data.label_key label_key", "data.label_column={}", kto="data.desirable_column={}", prm="data.steps_column={}"),
    to("data.chosen_key chosen_key", "data.chosen_column={}"),
    to("data.rejected_key rejected_key", "data.rejected_column={}"),
    to("data.image_key image_key", "data.images_column={}"),
    none("data.max_images_per_prompt max_images_per_prompt", "a prompt has the images of its row"),
    together("data.input_template input_template", "data.template"),
    to("data.apply_chat_template apply_chat_template", "data.chat=true"),
    to("data.tokenizer_chat_template tokenizer_chat_template", "data.chat_template={}"),
    together("data.max_len max_len", f"{LENGTHS}; data.max_tokens"),
    to("data.max_samples max_samples", "data.limit={}"),
    nothing("data.disable_fast_tokenizer disable_fast_tokenizer", "the model's tokenizer is taken as it is"),
    nothing("data.dataloader_num_workers dataloader_num_workers", "data are tokenized once, before the run"),
    together("pretrain_data", "data@algo.ptx.data=jsonl algo.ptx.data.path"),
    together("pretrain_data_probs", "algo.ptx.data.path", "one source"),
    together("pretrain_split", "algo.ptx.data.split"),
    together("ptx_coef", "algo.ptx.coef"),
    # ------------------------------------------------------------------------------------------------- evaluation
    together("eval.dataset eval_dataset", "data@eval.data=jsonl eval.data.path"),
    together("eval.split eval_split", "eval.data.split"),
    together("eval.steps eval_steps", "eval.every", "if there is --eval.dataset"),
    together("eval.temperature eval_temperature", "eval.temperature"),
    together("eval.n_samples_per_prompt eval_n_samples_per_prompt", "eval.samples_per_prompt"),
    # --------------------------------------------------------------------------------------- checkpoints, tracking
    nothing("ckpt.output_dir save_path", "the model lies in the run's folder, in outputs/"),
    nothing("ckpt.path ckpt_path", "checkpoints lie in the run's folder"),
    together("ckpt.save_steps save_steps", "checkpoint.every"),
    none(
        "ckpt.save_hf save_hf_ckpt save_hf_model", "the best checkpoint and the end of the run have the exported model"
    ),
    none("ckpt.disable_ds disable_ds_ckpt", "a checkpoint is always one to go on from"),
    to("ckpt.max_num max_ckpt_num", "checkpoint.keep={}"),
    none("ckpt.max_mem max_ckpt_mem", "checkpoint.keep limits their number, not their size"),
    nothing("ckpt.load_enable load_checkpoint", "to go on with a run: task=resume run=outputs/..."),
    together("ckpt.best_metric_key best_metric_key", "checkpoint.best"),
    nothing("logger.logging_steps logging_steps", "every step is logged"),
    together("logger.wandb.key use_wandb", "tracking", "the key comes from WANDB_API_KEY"),
    none("logger.wandb.org wandb_org", "set WANDB_ENTITY"),
    to("logger.wandb.group wandb_group", "tracking.group={}"),
    to("logger.wandb.project wandb_project", "tracking.project={}"),
    none("logger.wandb.run_name wandb_run_name", "set WANDB_NAME"),
    together("logger.tensorboard_dir use_tensorboard", "tracking"),
    together("use_ms", "data.hub=modelscope model.hub=modelscope"),
    # ------------------------------------------------------------------------------------------------ reward server
    none("port", "no reward server"),
    none("host", "no reward server"),
    none("batch_size", "no reward server"),
]

BY_NAME: dict[str, Flag] = {name: flag for flag in FLAGS for name in flag.names}

SAMPLING = {"rollout.batch_size": "1024", "reward.clip_range": "-10 10"}
DEFAULTS: dict[str, dict[str, str]] = {
    "train_sft": {"train.max_epochs": "2"},
    "train_kto": {"model.beta": "0.01"},
    "train_ppo": SAMPLING | {"rollout.batch_size": "512"},
    "train_ppo_ray": SAMPLING,
}
"""Program -> newest name of an option -> what it is there if nobody says, where that is not what it is here."""
