"""A moving average of the weights."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Average:
    """e <- decay e + (1 - decay) w, in float32, of what this rank holds of each parameter; it starts as the weights.

    Where ZeRO-3 shards the parameters, so is their average: each rank keeps that of its own part. Of a parameter that
    does not learn nothing is kept, since it is its own average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        learning = {name: p for name, p in self.parameters.items() if p.requires_grad}
        self.values = {name: held(p).detach().float().clone() for name, p in learning.items()}

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer step."""
        for name, value in self.values.items():
            value.lerp_(held(self.parameters[name]).float(), 1 - self.decay)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The average of every parameter, whole. All ranks must iterate."""
        for name, parameter in self.parameters.items():
            value = self.values.get(name, held(parameter).detach())
            yield name, whole(parameter, value) if hasattr(parameter, "ds_id") else value

    def state(self) -> list[Tensor]:
        return list(self.values.values())

    def load_state(self, state: Sequence[Tensor]) -> None:
        for value, saved in zip(self.values.values(), state, strict=True):
            value.copy_(saved)


def held(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a parameter: under ZeRO-3 a flat piece of it, padded to equal size; otherwise all of it."""
    return parameter.ds_tensor if hasattr(parameter, "ds_id") else parameter  # type: ignore[attr-defined]


def whole(parameter: nn.Parameter, piece: Tensor) -> Tensor:
    """The pieces of all ranks, put together."""
    import torch.distributed as dist

    pieces = [torch.empty_like(piece) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, piece)
    flat = torch.cat(pieces)[: parameter.ds_numel]  # type: ignore[attr-defined]
    return flat.view(parameter.ds_shape)  # type: ignore[attr-defined]
