"""`RolloutBatch`: the one container that travels between the rooms."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from dataclasses import replace as dataclass_replace
from typing import Any

import torch
from torch import Tensor

Images = Sequence[list[bytes]]
"""The files of each row's images, in the order of the tokens that stand for them; empty where no row has any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutBatch:
    """Sampled responses and what has been computed about them, in the order in which it comes into being.

    Symbols: B rows (P prompts x n samples), T tokens of the longest row. Rows are right-padded; a row is
    `prompt + response`. Column t of every per-token tensor speaks about token t:
    `logprobs[:, t] = log p(token_t | tokens_<t)`, `values[:, t] = V(state before token t)`.
    Per-token tensors are 0 outside `response_mask`. `None`: not computed. Steps return copies (`replace`).

        >>> batch = RolloutBatch(tokens=torch.tensor([[5, 7, 2]]), lengths=torch.tensor([3]),
        ...                      response_mask=torch.tensor([[False, True, True]]), group=torch.tensor([0]))
        >>> batch.replace(rewards=torch.tensor([1.0])).rewards
        tensor([1.])
    """

    tokens: Tensor
    """[B, T] int64: token ids, 0 after the row's end."""
    lengths: Tensor
    """[B] int64: tokens of prompt and response."""
    response_mask: Tensor
    """[B, T] bool: True on tokens that the policy produced, or is to learn."""
    group: Tensor
    """[B] int64: rows with the same number answer the same prompt."""
    images: Images | None = None
    """[B]; None: no row has any."""
    truncated: Tensor | None = None
    """[B] bool: the response was cut at the length limit."""
    rollout_logprobs: Tensor | None = None
    """[B, T] float32: as the engine sampled, at the rollout's temperature."""
    rewards: Tensor | None = None
    """[B] float32: score of the whole response."""
    greedy_rewards: Tensor | None = None
    """[B] float32: score of the greedy response to the row's prompt."""
    step_rewards: Tensor | None = None
    """[B, T] float32: process rewards, on the last token of each step."""
    labels: Tensor | None = None
    """[B] float32, of given responses: 1 if desirable, else 0; or the margin of a pair, on both of its rows."""
    step_labels: Tensor | None = None
    """[B, T] float32, of given responses: probability that the step which ends here is good."""
    ref_totals: Tensor | None = None
    """[B] float32: log-probability of the whole response under the reference."""
    old_logprobs: Tensor | None = None
    """[B, T] float32: of the policy, before this rollout's first update."""
    ref_logprobs: Tensor | None = None
    """[B, T] float32: of the reference."""
    values: Tensor | None = None
    """[B, T] float32: of the critic, before this rollout's first update."""
    token_rewards: Tensor | None = None
    """[B, T] float32: reward of each token: KL penalty, step rewards, and the score on the last response token."""
    advantages: Tensor | None = None
    """[B, T] float32."""
    returns: Tensor | None = None
    """[B, T] float32: what the critic should have said."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def replace(self, **changes: Any) -> "RolloutBatch":
        return dataclass_replace(self, **changes)

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> "RolloutBatch":
        """The batch of these rows, cut to the longest of them."""
        index = rows if isinstance(rows, slice | Tensor) else torch.as_tensor(rows, dtype=torch.long)
        lengths = self.lengths[index]
        width = int(lengths.max()) if len(lengths) else 0

        def pick(value: Tensor | Images | None) -> Any:
            if value is None:
                return None
            if not isinstance(value, Tensor):
                return [value[row] for row in torch.arange(len(self))[index].tolist()]
            return value[index, :width] if value.dim() == 2 else value[index]

        return RolloutBatch(**{f.name: pick(getattr(self, f.name)) for f in fields(self)})

    def split(self, size: int) -> list["RolloutBatch"]:
        """Consecutive batches of `size` rows; the last may be smaller."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    @staticmethod
    def cat(batches: Sequence["RolloutBatch"]) -> "RolloutBatch":
        """The rows of all `batches`, padded to the longest. A field must be set in all of them or in none."""
        width = max(b.tokens.shape[1] for b in batches)

        def join(name: str) -> Any:
            parts = [getattr(b, name) for b in batches]
            if name == "images" and any(parts):
                return [row for batch in batches for row in batch.images or [[]] * len(batch)]
            missing = sum(p is None for p in parts)
            if missing:
                if missing < len(parts):
                    raise ValueError(
                        f"RolloutBatch.cat: `{name}` is set in {len(parts) - missing} of {len(parts)} batches"
                    )
                return None
            return torch.cat([_widen(p, width) if p.dim() == 2 else p for p in parts])

        return RolloutBatch(**{f.name: join(f.name) for f in fields(RolloutBatch)})

    def to(self, device: torch.device | str) -> "RolloutBatch":
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in values.items()
        }
        return RolloutBatch(**moved)

    def only(self, *names: str) -> "RolloutBatch":
        """Without the optional fields that are not named: what a worker does not read need not travel."""
        always = {"tokens", "lengths", "response_mask", "group", "images"}
        return self.replace(**{f.name: None for f in fields(self) if f.name not in always and f.name not in names})

    @staticmethod
    def from_sequences(
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        *,
        group: Sequence[int],
        logprobs: Sequence[Sequence[float]] | None = None,
        truncated: Sequence[bool] | None = None,
        images: Images = (),
    ) -> "RolloutBatch":
        """Pad token lists into a batch: row i is `prompts[i] + responses[i]`."""
        lengths = torch.tensor([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], dtype=torch.long)
        shape = (len(lengths), int(lengths.max()) if len(lengths) else 0)
        tokens = torch.zeros(shape, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.bool)
        rollout = None if logprobs is None else torch.zeros(shape, dtype=torch.float32)
        for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            start, end = len(prompt), len(prompt) + len(response)
            tokens[i, :end] = torch.tensor([*prompt, *response], dtype=torch.long)
            mask[i, start:end] = True
            if rollout is not None:
                rollout[i, start:end] = torch.tensor(logprobs[i], dtype=torch.float32)  # type: ignore[index]
        return RolloutBatch(
            tokens=tokens,
            lengths=lengths,
            response_mask=mask,
            group=torch.as_tensor(group, dtype=torch.long),
            images=images or None,
            truncated=None if truncated is None else torch.as_tensor(truncated, dtype=torch.bool),
            rollout_logprobs=rollout,
        )


def _widen(x: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1])) if x.shape[1] < width else x
