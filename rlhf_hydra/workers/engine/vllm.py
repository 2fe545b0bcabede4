"""The engine on vLLM, inside this process; the only file that knows vLLM."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig

from rlhf_hydra.batch import Images
from rlhf_hydra.config.schema import Engine
from rlhf_hydra.models.packed import NoImages
from rlhf_hydra.models.vision import image_tokens, picture
from rlhf_hydra.workers.engine.base import Response, Sampling, check_requests

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: weights and requests are not pickled
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several engines would otherwise be bound to the same cores
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


BARRED = -100.0
"""Added to the logit of a token that must not be sampled: the least that vLLM takes."""


class VLLMEngine:
    """See `EngineWorker`. With `tensor_parallel` > 1 vLLM starts one process per GPU on this node."""

    def __init__(self, model_dir: str, cfg: Engine, context_tokens: int, *, trust_remote_code: bool = False) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        config = AutoConfig.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
        barred = image_tokens(config)
        if barred and find_spec("torchvision") is None:
            says = f"vLLM runs models of type `{config.model_type}` with torchvision only, which is not installed"
            raise NoImages(f"engine.name: {says}; install the one that goes with torch, or set engine.name=hf")
        self.barred = dict.fromkeys(barred, BARRED) or None
        self.image_token = barred[0] if barred else -1
        from vllm import LLM
        from vllm.platforms import current_platform

        on_cpu = current_platform.is_cpu()
        memory = {"kv_cache_memory_bytes": int(cfg.kv_cache_gib * 2**30)} if on_cpu else {}
        self.version = -1
        self.context_tokens = context_tokens
        self.can_sleep = cfg.sleep and not on_cpu
        self.temperature = 1.0
        self.missing: set[str] = set()
        self.llm = LLM(
            model_dir,
            dtype=cfg.dtype,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=cfg.tensor_parallel,
            distributed_executor_backend="uni" if cfg.tensor_parallel == 1 else "mp",
            gpu_memory_utilization=cfg.memory_fraction,
            max_model_len=context_tokens,
            max_num_seqs=cfg.max_sequences,
            enforce_eager=cfg.enforce_eager,
            enable_sleep_mode=self.can_sleep,
            logprobs_mode="raw_logprobs",
            use_tqdm_on_load=False,
            **({"limit_mm_per_prompt": {"video": 0}} if barred else {}),
            **memory,
        )

    def generate(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling, images: Images = ()
    ) -> list[Response]:
        from vllm import SamplingParams

        check_requests(prompts, seeds, sampling, self.context_tokens)
        self._temper(sampling.temperature)
        params = [
            SamplingParams(
                seed=seed,
                temperature=0.0 if sampling.greedy else 1.0,  # `_temper` has divided the logits
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_tokens=sampling.min_tokens,
                max_tokens=sampling.max_tokens,
                stop=list(sampling.stop),
                logit_bias=self.barred,
                include_stop_str_in_output=True,
                skip_special_tokens=False,
                detokenize=bool(sampling.stop),
                logprobs=0,
                flat_logprobs=True,
            )
            for seed in seeds
        ]
        outputs = [result.outputs[0] for result in self._run(prompts, params, images)]
        return [Response(list(o.token_ids), o.logprobs.logprobs, o.finish_reason == "length") for o in outputs]

    def logprobs(self, sequences: Sequence[list[int]], images: Images = ()) -> list[list[float]]:
        """The last token is not read but forced as the response, so that a sequence may fill the context."""
        from vllm import SamplingParams

        self._temper(1.0)
        rows = [i for i, tokens in enumerate(sequences) if len(tokens) > 1]
        params = [
            SamplingParams(
                allowed_token_ids=sequences[i][-1:],
                max_tokens=1,
                detokenize=False,
                prompt_logprobs=0,
                logprobs=0,
                flat_logprobs=True,
            )
            for i in rows
        ]
        found = [[0.0][: len(tokens)] for tokens in sequences]
        heads, shown = [sequences[i][:-1] for i in rows], [images[i] for i in rows] if images else ()
        for i, result in zip(rows, self._run(heads, params, shown), strict=True):
            found[i] += [*result.prompt_logprobs.logprobs, *result.outputs[0].logprobs.logprobs]
        return found

    def begin_update(self) -> None:
        self.missing = set().union(*self.llm.collective_rpc(_begin))

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.missing -= set().union(*self.llm.collective_rpc(_load, args=(list(weights),)))

    def finish_update(self, version: int) -> None:
        if self.missing:
            raise RuntimeError(
                f"engine: update {version} lacks {len(self.missing)} weights, one is `{min(self.missing)}`"
            )
        self.llm.collective_rpc(_finish)
        self.llm.reset_prefix_cache()
        if self.barred:
            self.llm.llm_engine.engine_core.reset_encoder_cache()  # what the old weights saw in images
        self.version = version

    def renew(self) -> None:
        self.wake()
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("engine: requests of another run are still in it")
        self.version = -1

    def sleep(self) -> None:
        if self.can_sleep:
            self.llm.sleep(level=1)

    def wake(self) -> None:
        if self.can_sleep:
            self.llm.wake_up()

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm

    def _run(self, prompts: Sequence[list[int]], params: list[Any], images: Images = ()) -> list[Any]:
        """vLLM makes as many tokens of each image as it has; so it is given one."""
        asked: list[Any] = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        for request, shown in zip(asked, images, strict=bool(images)):
            if shown:
                request["prompt_token_ids"] = once(request["prompt_token_ids"], self.image_token)
                request["multi_modal_data"] = {"image": [picture(image) for image in shown]}
        return self.llm.generate(asked, params, use_tqdm=False)

    def _temper(self, temperature: float) -> None:
        """Divide all logits by `temperature` from now on.

        vLLM reports logprobs either before its own temperature ("raw") or after top-p, top-k and barred tokens have
        been taken out ("processed"); the trainer needs the temperature in and nothing taken out. With the division
        in the model, "raw" is just that.
        """
        if temperature != self.temperature:
            self.llm.apply_model(partial(_divide_logits, temperature=temperature))
            self.temperature = temperature


def once(tokens: list[int], token: int) -> list[int]:
    """Each run of `token` as a single one.

    >>> once([1, 9, 9, 9, 2, 9, 3], 9)
    [1, 9, 2, 9, 3]
    """
    return [t for before, t in pairwise([-1, *tokens]) if t != token or before != token]


# Run inside vLLM's workers.


def _divide_logits(model: nn.Module, temperature: float) -> None:
    compute: Callable[..., Tensor | None] = type(model).compute_logits  # type: ignore[attr-defined]

    def tempered(*args: Any, **kwargs: Any) -> Tensor | None:
        logits = compute(model, *args, **kwargs)
        return None if logits is None else logits.float() / temperature  # None: a rank that holds no logits

    object.__setattr__(model, "compute_logits", tempered)


def _begin(worker: Any) -> set[str]:
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

    model = worker.get_model()
    names = {name for name, _ in model.named_parameters()}  # before: the reload unties tied weights for its duration
    with set_current_vllm_config(worker.vllm_config):
        initialize_layerwise_reload(model)
    return names


def _load(worker: Any, weights: list[tuple[str, Tensor]]) -> set[str]:
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(worker.vllm_config):
        return worker.get_model().load_weights(weights)


def _finish(worker: Any) -> None:
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    model = worker.get_model()
    with set_current_vllm_config(worker.vllm_config):
        finalize_layerwise_reload(model, worker.model_config)
        for module in _tied_modules(model):
            module.quant_method.process_weights_after_loading(module)


def _tied_modules(model: nn.Module) -> list[Any]:
    """Modules whose weight belongs to an earlier module: an output layer tied to the embedding.

    A reload loads nothing into them and so leaves alone what they derived from the weight; on a CPU that is the
    repacked copy from which they compute.
    """
    owners: dict[int, nn.Module] = {}
    weighted = [module for module in model.modules() if module._parameters.get("weight") is not None]
    return [module for module in weighted if owners.setdefault(id(module.weight), module) is not module]
