"""Keys and values of earlier tokens, kept in storage that has room for more."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """A layer's keys and values [B, heads, T, d], as views of storage that doubles when it is full.

    transformers' own layer copies everything that it holds at every token: on a CPU that can take half of the time.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **others: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room = [states[:, :, :0] for states in (key_states, value_states)]
        length = self.get_seq_length()
        self.keys, self.values = (self._put(i, length, new) for i, new in enumerate((key_states, value_states)))
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows. Copies those alone that change their place."""
        length, count = self.get_seq_length(), len(indices)
        place = torch.arange(count, device=indices.device)
        moved = place[indices != place]
        for i, room in enumerate(self.room):
            room[moved, :, :length] = room[indices[moved], :, :length]
            self.room[i] = room[:count]
        self.keys, self.values = (room[:, :, :length] for room in self.room)

    def _put(self, i: int, length: int, new: Tensor) -> Tensor:
        end = length + new.shape[2]
        if end > self.room[i].shape[2]:
            batch, heads, _, size = new.shape
            larger = new.new_empty(batch, heads, 2 * end, size)
            larger[:, :, :length] = self.room[i][:, :, :length]
            self.room[i] = larger
        self.room[i][:, :, length:end] = new
        return self.room[i][:, :, :end]


def roomy_cache(config: Any) -> DynamicCache:
    """The cache that a model of this config needs; layers of other kinds (windows, states) stay transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
