"""Examples to learn from: rows read, rendered and tokenised once, then served by number."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import PRM, SFT, Blend, Data, Supervised, ToyData
from rlhf_hydra.data import sources, toy
from rlhf_hydra.data import store as stores
from rlhf_hydra.data.blend import picks, sources_of, together
from rlhf_hydra.data.files import DataError, Rows, suffix
from rlhf_hydra.data.formats import rows_each
from rlhf_hydra.data.images import contents, home
from rlhf_hydra.data.making import Maker, tried
from rlhf_hydra.data.order import permutation
from rlhf_hydra.data.report import BadRow, DataReport, Ledger, Note, unsaid
from rlhf_hydra.data.store import Known, Numbered, Store
from rlhf_hydra.data.templates import chat_template
from rlhf_hydra.models.vision import Vision


class Examples:
    """Examples of one or more stores, in an order of their own. An example is `rows_each` rows."""

    def __init__(
        self, parts: Sequence[Store], rows_each: int, fingerprint: str, index: np.ndarray | None = None
    ) -> None:
        self.parts, self.rows_each = parts, rows_each
        self.fingerprint = fingerprint
        """16 hex digits that change when a token, a label, or the choice or order of the examples does."""
        self.first = np.cumsum([0, *(len(part.origin) for part in parts)])
        """Number of each store's first example, and of all."""
        self.index = np.arange(self.first[-1]) if index is None else index

    def __len__(self) -> int:
        return len(self.index)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example, both rows of a pair together."""
        sizes = [np.diff(part.starts[:: self.rows_each]) for part in self.parts]
        return np.concatenate(sizes)[self.index].tolist()

    def batch(self, items: Sequence[int]) -> RolloutBatch:
        """The rows of these examples; row 2i is the chosen and 2i + 1 the rejected response of pair i."""
        rows = [row for item in items for row in self._rows(int(self.index[item]))]
        cut = [(part, slice(int(part.starts[row]), int(part.starts[row + 1]))) for part, row in rows]
        in_steps = any(len(part.steps) for part in self.parts)
        shows = any(len(part.image_rows) for part in self.parts)
        return RolloutBatch(
            tokens=_pad([part.tokens[span] for part, span in cut], torch.long),
            lengths=torch.tensor([span.stop - span.start for _, span in cut], dtype=torch.long),
            response_mask=_pad([part.learn[span] for part, span in cut], torch.bool),
            group=torch.arange(len(items)).repeat_interleave(self.rows_each),
            images=[[contents(image) for image in part.shown(row)] for part, row in rows] if shows else None,
            labels=torch.tensor([float(part.labels[row]) for part, row in rows]),
            step_labels=_pad([part.steps[span] for part, span in cut], torch.float32) if in_steps else None,
        )

    def _rows(self, number: int) -> Iterator[tuple[Store, int]]:
        part = int(np.searchsorted(self.first, number, side="right")) - 1
        start = (number - int(self.first[part])) * self.rows_each
        return ((self.parts[part], row) for row in range(start, start + self.rows_each))

    def split(self, share: float, seed: int) -> tuple["Examples", "Examples"]:
        """Those to train on, and `share` of them held out. Examples of one row of the data stay together."""
        owner = self._owners()
        owners = np.unique(owner)
        if len(owners) < 2:
            raise DataError(
                f"{len(owners)} row cannot be split into rows to train on and rows to evaluate on (eval.holdout); give "
                "more rows, other ones with data@eval.data=NAME, or set eval.every=0"
            )
        count = min(max(1, round(share * len(owners))), len(owners) - 1)
        out = np.isin(owner, owners[permutation(len(owners), seed, 0)[:count]])
        return self._part(self.index[~out]), self._part(self.index[out])

    def _owners(self) -> np.ndarray:
        """[len(self)]: one number for each row of the data, of whichever source."""
        bases = np.cumsum([0, *(int(part.origin.max(initial=0)) + 1 for part in self.parts)])
        return np.concatenate([part.origin + base for part, base in zip(self.parts, bases, strict=False)])[self.index]

    def _part(self, index: np.ndarray) -> "Examples":
        digest = hashlib.sha256(self.fingerprint.encode() + np.ascontiguousarray(index, dtype=np.int64).tobytes())
        return Examples(self.parts, self.rows_each, digest.hexdigest()[:16], index)


def load_examples(
    cfg: Data,
    algo: Supervised,
    tokenizer: Any,
    context_tokens: int,
    seed: int = 0,
    cache: Path | None = None,
    note: Note = unsaid,
) -> tuple[Examples, DataReport]:
    """The usable examples of `cfg` for `algo`, in the order of the source or, of a blend, in that of `seed`, and a
    report on all rows. With a `cache` they are tokenised only if they have not been before; `note` is told how far that
    is.

    Rows that cannot be used are counted by reason. A broken file, a column that the first row lacks, or no usable row
    at all is a DataError; with `data.strict`, so is the first bad row.
    """
    if not isinstance(cfg, Blend):
        store, report = _load(cfg, algo, tokenizer, context_tokens, cache, note)
        return Examples([store], rows_each(algo), report.fingerprint), report
    loaded = [_load(source, algo, tokenizer, context_tokens, cache, note) for source in sources_of(cfg).values()]
    drawn = picks(cfg, [len(store.origin) for store, _ in loaded], seed)
    report = together(cfg, [report for _, report in loaded], drawn)
    first = np.cumsum([0, *(len(store.origin) for store, _ in loaded)])
    index = np.array([first[source] + item for source, item in drawn], dtype=np.int64)
    return Examples([store for store, _ in loaded], rows_each(algo), report.fingerprint, index), report


def _load(
    cfg: Data, algo: Supervised, tokenizer: Any, context_tokens: int, cache: Path | None, note: Note
) -> stores.Made:
    """One source."""
    longest = min(cfg.max_tokens or context_tokens, context_tokens)
    make = partial(_make, cfg, algo, tokenizer, longest, note)
    if cache is None:
        return make(None)
    known = Known(cache)
    origin = sources.fingerprint(cfg, known)
    known.save()
    if not origin:
        return make(None)
    store, report = stores.cached(cache, _key(cfg, algo, tokenizer, longest, origin), make, note)
    return store, replace(report, source=sources.describe(cfg))


def _make(cfg: Data, algo: Supervised, tokenizer: Any, longest: int, note: Note, folder: Path | None) -> stores.Made:
    """Read, render and tokenise; into `folder`, or into memory."""
    ledger = Ledger(sources.describe(cfg), cfg.strict, note)
    found = _examples(cfg, algo, tokenizer, longest, ledger)
    store = stores.collect(found) if folder is None else stores.write(found, folder)
    noun = "pairs" if rows_each(algo) == 2 else "examples"
    report = ledger.report(int(np.diff(store.starts).max(initial=0)), stores.fingerprint(store), noun)
    if not len(store.origin):
        raise DataError(f"no usable example for algo={algo.name}\n{report}")
    return store, report


def _examples(cfg: Data, algo: Supervised, tokenizer: Any, longest: int, ledger: Ledger) -> Iterator[Numbered]:
    try:
        make = Maker(cfg, algo, tokenizer, longest)
    except BadRow as bad:
        raise DataError(f"{ledger.source}: {bad}") from bad
    last = 0
    for number, example in ledger.usable(tried(_rows(cfg, algo), make)):
        if number != last and any(line.cut for line in example):
            ledger.cut, last = ledger.cut + 1, number
        yield number, example


def _rows(cfg: Data, algo: Supervised) -> Rows:
    if isinstance(cfg, ToyData):
        return islice(toy.lessons(cfg, in_steps=isinstance(algo, PRM)), cfg.limit)
    return sources.read(cfg)


UNREAD = {"name", "weight", "rule", "label_column"}
"""Keys of the data that play no role for its tokens."""


def _key(cfg: Data, algo: Supervised, tokenizer: Any, longest: int, origin: str) -> str:
    """Name of the tokens of `cfg` in the cache."""
    keys = {name: value for name, value in asdict(cfg).items() if name not in UNREAD}
    if (path := Path(cfg.path or "").expanduser()).exists():  # the same files elsewhere are the same rows
        keys |= {"path": suffix(path), "hub": None, "revision": None}
    template = chat_template(cfg, tokenizer) if cfg.chat else None
    objective = [type(algo).__name__, algo.learn if isinstance(algo, SFT) else None]
    tokens = [stores.tokenizer_identity(tokenizer), transformers.__version__]
    if cfg.images_column:
        tokens += [Vision.load(tokenizer.name_or_path).identity, str(home(cfg).absolute())]
    parts = {"keys": keys, "origin": origin, "template": template, "objective": objective, "tokenizer": tokens}
    return stores.cache_key({**parts, "longest": longest})


def _pad(parts: Sequence[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
    """[B, T], right-padded with 0."""
    rows = [torch.from_numpy(np.array(part)).to(dtype) for part in parts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else torch.zeros((0, 0), dtype=dtype)
