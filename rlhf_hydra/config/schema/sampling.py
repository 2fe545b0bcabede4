"""`engine`, `rollout`, `eval`: how responses are sampled, for learning and for judging."""

from dataclasses import dataclass, field
from typing import List, Optional

from rlhf_hydra.config.schema.data import Data
from rlhf_hydra.config.schema.reward import Reward
from rlhf_hydra.config.schema.section import Section, choice, number


@dataclass
class Engine(Section):
    """What samples."""

    name: str = choice("hf", "hf", "vllm")
    """`hf`: a decode loop over the transformers model. `vllm`: vLLM, in a Ray actor or in this process."""
    tensor_parallel: int = number(1, ge=0)
    """GPUs per engine. 0: the smallest number that fits, chosen before the run starts and recorded in `run.yaml`."""
    memory_fraction: float = number(0.5, gt=0, le=1)
    """Share of a GPU's memory that vLLM may take, weights included."""
    kv_cache_gib: float = number(1.0, gt=0)
    """Memory for the KV cache where the engine runs on a CPU."""
    max_sequences: int = number(256, ge=1)
    """Responses that are sampled at the same time."""
    enforce_eager: bool = True
    """No CUDA graphs, no compilation: starts faster, samples slower."""
    sleep: bool = False
    """Give the engine's GPU memory back while training; for engines that share GPUs with training roles."""
    dtype: str = choice("float32", "float32", "bfloat16", "float16")
    """Type of the engine's weights."""
    parity_tolerance: Optional[float] = number(None, gt=0)
    """After each weight sync, the largest mean |logprob difference| to the policy at which the run goes on.
    null: 0.001 where engine and strategy compute in float32, 0.05 otherwise."""


@dataclass
class Rollout(Section):
    prompts_per_step: int = number(128, ge=1)
    samples_per_prompt: int = number(1, ge=1)
    """Responses to each prompt; the group of group baselines."""
    max_prompt_tokens: int = number(1024, ge=1)
    """Longer prompts are dropped before the run, and counted."""
    max_response_tokens: int = number(1024, ge=1)
    min_response_tokens: int = number(0, ge=0)
    temperature: float = number(1.0, gt=0, le=10)
    """Also divides the logits wherever the policy's logprobs are computed."""
    top_p: float = number(1.0, gt=0, le=1)
    top_k: int = number(0, ge=0)
    """Sample among the k likeliest tokens. 0: all."""
    stop: List[str] = field(default_factory=list)
    """Strings that end a response; the string stays in it."""


@dataclass
class Eval(Section):
    """Evaluation during training: responses to prompts of its own, judged by a reward of its own."""

    every: int = number(0, ge=0)
    """Steps between evaluations; there is also one before the first step and one after the last. 0: none at all."""
    data: Optional[Data] = None
    """Prompts: `data@eval.data=<name>`. null: those of the training."""
    reward: Optional[Reward] = None
    """Judge: `reward@eval.reward=<name>`. null: the training's; a rule that comes with the data is `eval.data`'s."""
    holdout: float = number(0.05, gt=0, lt=1)
    """Supervised, where `eval.data` is null: share of the training rows that is kept for evaluation."""
    limit: Optional[int] = number(None, ge=1)
    """Use the first `limit` rows. null: as the data says."""
    source_column: Optional[str] = None
    """Column whose values name data sources; each gets metrics of its own, `eval/SOURCE/...`."""
    samples_per_prompt: int = number(1, ge=1)
    """Responses to each prompt; lengths, stop strings and top-k as in `rollout`."""
    temperature: float = number(1.0, gt=0, le=10)
    top_p: float = number(1.0, gt=0, le=1)
    k: List[int] = field(default_factory=lambda: [1])
    """Of pass@k and, above 1, maj@k."""
    correct_at: float = 1.0
    """A response is correct if its reward is at least this."""
