"""What every engine is: prompts in, sampled tokens with their logprobs out, weights replaced in place."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from rlhf_hydra.batch import Images
from rlhf_hydra.config.schema import Engine, Rollout


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; the fields mean what `rollout.*` means."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_tokens: int = 0
    """EOS is barred, and stop strings are ignored, for so many tokens."""
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    greedy: bool = False
    """Take the likeliest token each time; seeds, top-p and top-k then change nothing."""

    def likeliest(self) -> "Sampling":
        return replace(self, greedy=True)

    @staticmethod
    def from_config(rollout: Rollout) -> "Sampling":
        return Sampling(
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            min_tokens=rollout.min_response_tokens,
            max_tokens=rollout.max_response_tokens,
            stop=tuple(rollout.stop),
        )


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled response; an EOS token or stop string that ended it is part of it.

    >>> Response(tokens=[7, 7, 1], logprobs=[-0.3, -0.1, -0.7], truncated=False)
    Response(tokens=[7, 7, 1], logprobs=[-0.3, -0.1, -0.7], truncated=False)
    """

    tokens: list[int]
    logprobs: list[float]
    """log softmax(logits / temperature) of each token over the whole vocabulary: what the trainer computes too.
    Top-p, top-k and a barred EOS change what is drawn, never this number."""
    truncated: bool
    """Ended by `max_tokens`."""


class EngineWorker(Protocol):
    """One engine.

    An update is `begin_update`, any number of `load`, `finish_update`. Tensors given to `load` must keep their
    content until `finish_update`: an engine may assemble a layer from several calls.
    """

    version: int
    """Of the weights in it; -1 before the first update."""

    def generate(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling, images: Images = ()
    ) -> list[Response]:
        """One response per entry, in which no token stands for an image. It depends on its prompt, its seed and the
        weights, not on its neighbours (up to rounding): however the rows are dealt to engines, the result is the same.
        """

    def logprobs(self, sequences: Sequence[list[int]], images: Images = ()) -> list[list[float]]:
        """Entry t is log p(token_t | tokens_<t) at temperature 1; entry 0 is 0.0."""

    def begin_update(self) -> None: ...

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy these tensors, named as in a Hugging Face checkpoint, into the engine's weights."""

    def finish_update(self, version: int) -> None:
        """All weights are in; forget what was computed with the old ones."""

    def renew(self) -> None:
        """Forget the run that it served: as after its start, but for the weights, which the next update replaces."""

    def sleep(self) -> None:
        """Give GPU memory back until `wake`; what an engine cannot give back it keeps."""

    def wake(self) -> None: ...

    def close(self) -> None: ...


def build_engine(
    model_dir: str,
    cfg: Engine,
    room: int,
    *,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> EngineWorker:
    """The engine that `engine.name` names, with the weights in `model_dir`.

    `room`: tokens of a prompt and its response. `device` is where an `hf` engine sits; vLLM takes the GPUs that its
    process sees.
    """
    if cfg.name == "vllm":
        from rlhf_hydra.workers.engine.vllm import VLLMEngine

        return VLLMEngine(model_dir, cfg, room, trust_remote_code=trust_remote_code)
    from rlhf_hydra.workers.engine.hf import HFEngine

    return HFEngine(model_dir, cfg, room, device=device, trust_remote_code=trust_remote_code)


def check_requests(prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling, context_tokens: int) -> None:
    """Refuse what no engine can answer: an empty prompt, or one that leaves too little room for the response."""
    if len(prompts) != len(seeds):
        raise ValueError(f"engine: {len(prompts)} prompts but {len(seeds)} seeds; every prompt needs its own seed")
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"engine: prompt {row} is empty; give it at least a BOS token")
        if len(prompt) + sampling.max_tokens > context_tokens:
            raise ValueError(
                f"engine: prompt {row} has {len(prompt)} tokens and with rollout.max_response_tokens="
                f"{sampling.max_tokens} exceeds the context of {context_tokens}; lower rollout.max_prompt_tokens "
                "or rollout.max_response_tokens"
            )


def end_tokens(*sources: int | list[int] | None) -> list[int]:
    """Union of the end tokens that tokenizer and generation config name."""
    ids = {i for s in sources if s is not None for i in (s if isinstance(s, list) else [s])}
    return sorted(ids)
