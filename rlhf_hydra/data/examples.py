"""Examples to learn from: rows read, rendered and tokenised once, then served by number."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import PRM, Data, Supervised, ToyData
from rlhf_hydra.data import sources, toy
from rlhf_hydra.data.formats import Example, build_format, rows_each
from rlhf_hydra.data.prompts import permutation
from rlhf_hydra.data.report import BadRow, DataReport, Ledger
from rlhf_hydra.data.sources import DataError
from rlhf_hydra.data.templates import Line, Renderer


@dataclass(frozen=True)
class Store:
    """All rows of tokens, end to end. R rows, N tokens in all, E = R / rows_each examples."""

    tokens: np.ndarray
    """[N] int32."""
    learn: np.ndarray
    """[N] bool: tokens to learn."""
    starts: np.ndarray
    """[R + 1] int64: row r is tokens[starts[r]:starts[r + 1]]."""
    labels: np.ndarray
    """[R] float32."""
    steps: np.ndarray
    """[N] float32, or [0] where no row has labelled steps: probability that the step which ends here is good."""
    origin: np.ndarray
    """[E] int64: number of the row, as read, that an example comes from."""


class Examples:
    """Examples of a store, in an order of their own. An example is `rows_each` rows."""

    def __init__(self, store: Store, rows_each: int, fingerprint: str, index: np.ndarray | None = None) -> None:
        self.store, self.rows_each = store, rows_each
        self.index = np.arange(len(store.origin)) if index is None else index
        self.fingerprint = fingerprint
        """16 hex digits that change when a token, a label, or the choice or order of the examples does."""
        starts = store.starts[::rows_each]
        self.lengths: list[int] = (starts[self.index + 1] - starts[self.index]).tolist()
        """Tokens of each example, both rows of a pair together."""

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, items: Sequence[int]) -> RolloutBatch:
        """The rows of these examples; row 2i is the chosen and 2i + 1 the rejected response of pair i."""
        store, each = self.store, self.rows_each
        rows = [int(self.index[item]) * each + k for item in items for k in range(each)]
        spans = [slice(int(store.starts[row]), int(store.starts[row + 1])) for row in rows]
        lengths = torch.tensor([span.stop - span.start for span in spans], dtype=torch.long)
        return RolloutBatch(
            tokens=_pad([store.tokens[span] for span in spans], torch.long),
            lengths=lengths,
            response_mask=_pad([store.learn[span] for span in spans], torch.bool),
            group=torch.arange(len(items)).repeat_interleave(each),
            labels=torch.from_numpy(store.labels[rows].astype(np.float32)),
            step_labels=_pad([store.steps[span] for span in spans], torch.float32) if len(store.steps) else None,
        )

    def split(self, share: float, seed: int) -> tuple["Examples", "Examples"]:
        """Those to train on, and `share` of them held out. Examples of the same row of the data stay together."""
        origins = np.unique(self.store.origin[self.index])
        if len(origins) < 2:
            raise DataError(f"{len(origins)} rows cannot be split into rows to train on and rows to evaluate on")
        count = min(max(1, round(share * len(origins))), len(origins) - 1)
        held = origins[permutation(len(origins), seed, 0)[:count]]
        out = np.isin(self.store.origin[self.index], held)
        return self._part(self.index[~out]), self._part(self.index[out])

    def _part(self, index: np.ndarray) -> "Examples":
        digest = hashlib.sha256(self.fingerprint.encode() + np.ascontiguousarray(index, dtype=np.int64).tobytes())
        return Examples(self.store, self.rows_each, digest.hexdigest()[:16], index)


def load_examples(
    cfg: Data, algo: Supervised, tokenizer: Any, context_tokens: int, seed: int = 0, cache: Path | None = None
) -> tuple[Examples, DataReport]:
    """The usable examples of `cfg` for `algo`, in the order of the source, and a report on all rows.

    Rows that cannot be used are counted by reason. A broken file, a column that the first row lacks, or no usable
    row at all is a DataError; with `data.strict`, so is the first bad row.
    """
    ledger = Ledger(sources.describe(cfg), DataError if cfg.strict else None)
    longest = min(cfg.max_tokens or context_tokens, context_tokens)
    found = list(_examples(cfg, algo, tokenizer, longest, ledger))
    store = _store([line for _, example in found for line in example], [number for number, _ in found])
    report = DataReport(
        source=ledger.source,
        read=ledger.read,
        used=len(found),
        dropped=ledger.dropped,
        examples=ledger.first,
        max_tokens=int(np.diff(store.starts).max(initial=0)),
        fingerprint=_fingerprint(store),
        noun="pairs" if rows_each(algo) == 2 else "examples",
    )
    if not found:
        raise DataError(f"no usable example for algo={algo.name}\n{report}")
    return Examples(store, rows_each(algo), report.fingerprint), report


def _examples(
    cfg: Data, algo: Supervised, tokenizer: Any, longest: int, ledger: Ledger
) -> Iterator[tuple[int, Example]]:
    """Usable examples, each with the number of the row that it comes from."""
    number = 0
    try:
        make = build_format(cfg, algo, Renderer(cfg, tokenizer))
        for number, row in _rows(cfg, algo):
            ledger.read += 1
            try:
                for example in make(row):
                    yield number, [_fit(line, longest, cfg.overlong) for line in example]
            except BadRow as bad:
                if bad.fatal:
                    raise
                if ledger.read == 1 and bad.column is not None and bad.column not in row:
                    sources.column(row, bad.column, f"{ledger.source}, row {number}")
                ledger.drop(str(bad), number)
    except BadRow as bad:
        where = f"{ledger.source}, row {number}" if number else ledger.source
        raise DataError(f"{where}: {bad}") from bad


def _rows(cfg: Data, algo: Supervised) -> Iterator[tuple[int, sources.Row]]:
    if isinstance(cfg, ToyData):
        return islice(toy.lessons(cfg, in_steps=isinstance(algo, PRM)), cfg.limit)
    return sources.read(cfg)


def _fit(line: Line, longest: int, overlong: str) -> Line:
    """`line`, cut at `longest` tokens where `data.overlong` allows it; its first token is never learned."""
    if len(line.tokens) > longest and overlong == "drop":
        raise BadRow(f"longer than {longest} tokens (data.max_tokens, model.context_tokens)")
    spans = [(max(a, 1), min(b, longest)) for a, b in line.learn]
    spans = [(a, b) for a, b in spans if a < b]
    if not spans:
        raise BadRow("nothing is left to learn" if len(line.tokens) > longest else "there is nothing to learn")
    steps = None if line.steps is None else {i: p for i, p in line.steps.items() if 1 <= i < longest}
    return replace(line, tokens=line.tokens[:longest], learn=spans, steps=steps)


def _store(lines: list[Line], origin: list[int]) -> Store:
    starts = np.cumsum([0, *(len(line.tokens) for line in lines)], dtype=np.int64)
    tokens = np.fromiter((token for line in lines for token in line.tokens), np.int32, int(starts[-1]))
    learn = np.zeros(len(tokens), dtype=bool)
    has_steps = any(line.steps is not None for line in lines)
    steps = np.zeros(len(tokens) if has_steps else 0, dtype=np.float32)
    for start, line in zip(starts.tolist(), lines, strict=False):
        for a, b in line.learn:
            learn[start + a : start + b] = True
        for i, probability in (line.steps or {}).items():
            steps[start + i] = probability
    labels = np.array([line.label for line in lines], dtype=np.float32)
    return Store(tokens, learn, starts, labels, steps, np.array(origin, dtype=np.int64))


def _fingerprint(store: Store) -> str:
    digest = hashlib.sha256()
    for part in (store.tokens, store.learn, store.starts, store.labels, store.steps):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def _pad(parts: Sequence[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
    """[B, T], right-padded with 0."""
    rows = [torch.from_numpy(np.array(part)).to(dtype) for part in parts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else torch.zeros((0, 0), dtype=dtype)
