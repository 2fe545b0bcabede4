"""What must hold between the keys of a run.

Each rule is a small function that yields what is wrong; its name is the name of the refusal (`check.py` fills it in).
"""

from collections.abc import Callable, Iterator

from rlhf_hydra.config.errors import Problem
from rlhf_hydra.config.rules import algorithm, batches, data, images, memory, models, placement, reward, task
from rlhf_hydra.config.schema import RunConfig

Rule = Callable[[RunConfig], Iterator[Problem]]

RULES: list[Rule] = [
    batches.batch_covers_workers,
    data.data_source,
    data.data_template,
    data.blend_sources,
    images.images,
    data.row_length,
    models.model_folder,
    task.best_metric,
    placement.placement,
    placement.cluster_gpus,
    placement.sharding,
    placement.whole_matrices,
    placement.half_precision,
    placement.adapters,
    placement.local_backend,
    memory.gpu_memory,
    memory.host_memory,
    task.runs_to_read,
    task.resume,
    task.sweep,
]
"""Of every run."""

RL_RULES: list[Rule] = [
    batches.some_steps,
    data.prompt_column,
    algorithm.group_baseline,
    algorithm.adaptive_kl,
    algorithm.kl_as_a_loss,
    algorithm.bounds,
    algorithm.plain_policy_gradient,
    algorithm.one_sample,
    algorithm.filter_function,
    algorithm.oversampling,
    algorithm.pretraining_mix,
    algorithm.greedy_baseline,
    algorithm.step_credit,
    reward.step_template,
    algorithm.early_stop,
    algorithm.moving_reference,
    algorithm.warm_up,
    algorithm.guarded_kl,
    batches.batch_divides,
    batches.context,
    batches.response_lengths,
    reward.letters_only,
    task.evaluation,
    reward.reward_source,
    reward.reward_labels,
    reward.reward_function,
    placement.tensor_parallel,
    placement.engine_hardware,
    memory.engine_memory,
    task.endless_patience,
]
"""Of runs that sample."""

SUPERVISED_RULES: list[Rule] = [
    data.columns,
    data.assistant_turns,
    data.step_words,
    models.teacher,
    models.fixed_reference,
    algorithm.smoothed_labels,
    batches.passes,
    task.patience,
]
"""Of runs that learn from given texts."""
