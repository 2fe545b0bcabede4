"""Weights on their way between processes."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Bucket:
    """Named tensors as bytes, since numpy knows no bfloat16 and Ray shares numpy arrays between processes in place.

    Iterating gives `(name, tensor)`; the tensors are read-only views.
    """

    names: list[str]
    dtypes: list[torch.dtype]
    shapes: list[tuple[int, ...]]
    data: list[np.ndarray]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            for name, dtype, shape, data in zip(self.names, self.dtypes, self.shapes, self.data, strict=True):
                yield name, torch.from_numpy(data).view(dtype).view(shape)


def buckets(weights: Iterator[tuple[str, Tensor]], max_bytes: int) -> Iterator[Bucket]:
    """Tensors of at most `max_bytes` together (or a single one), on the CPU."""
    bucket, size = Bucket([], [], [], []), 0
    for name, tensor in weights:
        tensor = tensor.cpu().contiguous()
        if bucket.names and size + tensor.nbytes > max_bytes:
            yield bucket
            bucket, size = Bucket([], [], [], []), 0
        bucket.names.append(name)
        bucket.dtypes.append(tensor.dtype)
        bucket.shapes.append(tuple(tensor.shape))
        bucket.data.append(tensor.flatten().view(torch.uint8).numpy())
        size += tensor.nbytes
    if bucket.names:
        yield bucket
