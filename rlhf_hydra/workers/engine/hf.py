"""The engine on a plain transformers model: starts at once, needs nothing else, runs on any device."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from rlhf_hydra.batch import Images
from rlhf_hydra.config.schema import Engine
from rlhf_hydra.models.packed import NoImages
from rlhf_hydra.models.vision import Vision, image_tokens, load_lm
from rlhf_hydra.workers.engine.base import Response, Sampling, check_requests, end_tokens
from rlhf_hydra.workers.engine.cache import roomy_cache
from rlhf_hydra.workers.engine.sampling import draw, uniforms

SMALL_PRODUCT = 2**24
"""Multiplications in a matrix product up to which one thread is as quick as all: waking the others takes as long."""


class HFEngine:
    """See `EngineWorker`. Holds its own copy of the model, and decodes in a loop that drops rows as they end:
    transformers' `generate` computes all of them until the longest is done."""

    def __init__(
        self, model_dir: str, cfg: Engine, context_tokens: int, *, device: str = "cpu", trust_remote_code: bool = False
    ) -> None:
        transformers_logging.disable_progress_bar()
        self.version = -1
        self.max_sequences, self.can_sleep = cfg.max_sequences, cfg.sleep
        self.context_tokens = context_tokens
        self.device = torch.device(device)
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
        model = load_lm(model_dir, dtype=getattr(torch, cfg.dtype), trust_remote_code=trust_remote_code)
        self.barred = image_tokens(model.config)
        self.vision = Vision(model_dir, model.config) if self.barred else None
        self.ends = end_tokens(self.tokenizer.eos_token_id, model.generation_config.eos_token_id)
        self.model = model.to(self.device).eval()
        matrices = [weight.numel() for weight in model.parameters() if weight.dim() == 2]
        self.matrix_size = sum(matrices) // len(matrices)
        self._weights: dict[str, Tensor] = {}
        self._missing: set[int] = set()

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling, images: Images = ()
    ) -> list[Response]:
        check_requests(prompts, seeds, sampling, self.context_tokens)
        found: dict[int, Response] = {}
        for rows in self._batches(prompts):
            with one_thread(self.matrix_size * len(rows) <= SMALL_PRODUCT):
                batch = self._decode([prompts[i] for i in rows], [seeds[i] for i in rows], sampling, seen(images, rows))
            found.update(zip(rows, batch, strict=True))
        return [found[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def logprobs(self, sequences: Sequence[list[int]], images: Images = ()) -> list[list[float]]:
        found: dict[int, list[float]] = {}
        for rows in self._batches(sequences):
            tokens, mask = _pad([sequences[i] for i in rows], "right", self.device)
            shown = self._shown(tokens, mask, seen(images, rows))
            logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False, **shown).logits[:, :-1]
            chosen = logits.float().log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1).tolist()
            found.update((i, [0.0, *chosen[k]][: len(sequences[i])]) for k, i in enumerate(rows))
        return [found[i] for i in range(len(sequences))]

    def begin_update(self) -> None:
        self._weights = self.model.state_dict()
        self._missing = {weight.data_ptr() for weight in self.model.parameters()}

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            if name not in self._weights:
                raise KeyError(f"engine: its model has no weight `{name}`; policy and engine are different models")
            self._weights[name].copy_(tensor)
            self._missing.discard(self._weights[name].data_ptr())

    def finish_update(self, version: int) -> None:
        missing = [name for name, weight in self._weights.items() if weight.data_ptr() in self._missing]
        if missing:
            raise RuntimeError(f"engine: update {version} lacks {len(missing)} weights, the first is `{missing[0]}`")
        self._weights = {}
        self.version = version

    def renew(self) -> None:
        self.version = -1
        self.wake()

    def sleep(self) -> None:
        if self.can_sleep:
            self.model.to("cpu")

    def wake(self) -> None:
        self.model.to(self.device)

    def close(self) -> None:
        del self.model

    def _batches(self, sequences: Sequence[list[int]]) -> list[list[int]]:
        """Row numbers in groups of at most `max_sequences`, like lengths together to save padding."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        return [order[i : i + self.max_sequences] for i in range(0, len(order), self.max_sequences)]

    def _shown(self, tokens: Tensor, mask: Tensor, images: list[bytes]) -> dict[str, Tensor]:
        """What the model is told about images, the tokens' positions included; nothing where there are none."""
        if not images:
            return {}
        if self.vision is None:
            raise NoImages("engine: there are images (data.images_column) for a model that reads none")
        return self.vision.inputs(self.model, tokens, mask, images)

    def _decode(
        self, prompts: list[list[int]], seeds: list[int], sampling: Sampling, images: list[bytes]
    ) -> list[Response]:
        tokens, mask = _pad(prompts, "left", self.device)
        shown = self._shown(tokens, mask, images)
        positions = shown.pop("position_ids", (mask.cumsum(-1) - 1).clamp(min=0))
        uniform = uniforms(seeds, sampling.max_tokens).to(self.device)
        cache = roomy_cache(self.model.config)
        padded = not mask.all()
        rows = [_Row() for _ in prompts]
        active = rows
        for step in range(sampling.max_tokens):
            logits = self.model(
                input_ids=tokens,
                attention_mask=mask if padded else None,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **shown,
            ).logits[:, -1]
            shown = {}  # the cache has seen them
            barred = self.barred + (self.ends if step < sampling.min_tokens else [])
            token, logprob = draw(logits, uniform[:, step], sampling, barred)
            for row, chosen, score in zip(active, token.tolist(), logprob.tolist(), strict=True):
                row.append(chosen, score)
                row.ended = self._ends(row.tokens, sampling)
            going = _closed_up([not row.ended for row in active])
            if not going:
                break
            tokens, positions = token.unsqueeze(1), positions[..., -1:] + 1
            if len(going) < len(active):
                index = torch.tensor(going, device=self.device)
                cache.batch_select_indices(index)
                tokens, mask, uniform = tokens[index], mask[index], uniform[index]
                positions = positions.index_select(-2, index)
                active = [active[k] for k in going]
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        return [Response(row.tokens, row.logprobs, truncated=not row.ended) for row in rows]

    def _ends(self, tokens: list[int], sampling: Sampling) -> bool:
        if tokens[-1] in self.ends:
            return True
        return len(tokens) > sampling.min_tokens and self._completes_stop(tokens, sampling.stop)

    def _completes_stop(self, tokens: list[int], stop: tuple[str, ...]) -> bool:
        """Whether a stop string ends in the text of the last token; only the tail is decoded."""
        if not stop:
            return False
        tail = tokens[-4 * max(map(len, stop)) - 4 :]  # a character takes at most 4 tokens (its bytes)
        text, before = self.tokenizer.decode(tail), len(self.tokenizer.decode(tail[:-1]))
        return any(text.find(string, max(0, before - len(string) + 1)) >= 0 for string in stop)


@dataclass(slots=True)
class _Row:
    """A response that grows."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False

    def append(self, token: int, logprob: float) -> None:
        self.tokens.append(token)
        self.logprobs.append(logprob)


def seen(images: Images, rows: Sequence[int]) -> list[bytes]:
    """The images of these rows, one after the other."""
    return [image for row in rows for image in images[row]] if images else []


def _closed_up(going: list[bool]) -> list[int]:
    """Numbers of the rows that go on. The last of them fill the gaps, so that few have to move: TFTTT -> 0, 4, 2, 3."""
    count = sum(going)
    last = iter([k for k in range(len(going) - 1, count - 1, -1) if going[k]])
    return [k if going[k] else next(last) for k in range(count)]


@contextmanager
def one_thread(wanted: bool) -> Iterator[None]:
    """Torch's operations in one thread, if `wanted`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if wanted else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pad(sequences: list[list[int]], side: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask, [B, T] int64."""
    width = max(map(len, sequences))
    tokens, mask = torch.zeros(2, len(sequences), width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        start = width - len(sequence) if side == "left" else 0
        tokens[row, start : start + len(sequence)] = torch.tensor(sequence)
        mask[row, start : start + len(sequence)] = 1
    return tokens.to(device), mask.to(device)
