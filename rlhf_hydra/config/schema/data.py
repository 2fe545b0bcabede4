"""`data`: where rows come from, and how they are read."""

from dataclasses import dataclass, field
from typing import Dict, List, Optional

from omegaconf import MISSING

from rlhf_hydra.config.schema.section import Section, choice, number


@dataclass
class Data(Section):
    name: str = MISSING
    """Name of the choice: `data=<name>`."""
    path: Optional[str] = None
    """A .jsonl, .json, .csv, .parquet or .arrow file, a folder of them, a saved dataset, or the id of one on `hub`."""
    hub: str = choice("huggingface", "huggingface", "modelscope")
    revision: Optional[str] = None
    """Branch, tag or commit on the hub. null: the default branch."""
    subset: Optional[str] = None
    split: str = "train"
    """Also a part of one: `train[:1000]`, `train[10%:20%]`. Of a file, only the part counts."""
    streaming: bool = False
    """Read rows as they arrive, without downloading the dataset first: for sets that do not fit."""
    weight: float = number(1.0, gt=0)
    """Share in a blend, relative to its other sources."""
    prompt_column: Optional[str] = "prompt"
    """Text, or a list of chat messages. null: each of a pair's two columns holds the whole conversation."""
    label_column: Optional[str] = None
    """What the reward compares with; passed on as it is."""
    response_column: Optional[str] = None
    """Supervised: the response, text or messages. null: `prompt_column` holds the whole conversation or text."""
    response_marker: Optional[str] = None
    """Supervised, of whole texts: the response is what follows this text for the last time, e.g. `Assistant:`."""
    chosen_column: str = "chosen"
    """Pairs: the better response, or the whole conversation with it."""
    rejected_column: str = "rejected"
    """Pairs: the worse one."""
    margin_column: Optional[str] = None
    """Pairs: by how much the chosen one is better, for the reward model."""
    desirable_column: Optional[str] = None
    """Single responses: true (or 1) if this one is desirable. null: pairs are taken apart."""
    steps_column: Optional[str] = None
    """Labels of a solution's steps, a list: true or false, `step_tokens`, or probabilities of good."""
    placeholder: Optional[str] = None
    """One token of the text that ends each step. null: the response is a list of steps."""
    step_tokens: List[str] = field(default_factory=lambda: ["+", "-"])
    """One token each that stands for a good and for a bad step."""
    images_column: Optional[str] = None
    """Images of a row, for models that read some: one or a list, each a path from the data's file or folder, bytes, or
    {bytes, path}; or messages with images in their parts. null: there are none."""
    max_tokens: int = number(0, ge=0)
    """Supervised: longest row. 0: `model.context_tokens`."""
    overlong: str = choice("drop", "drop", "cut")
    """Supervised: longer rows are dropped, or cut at the end (and then teach no end); counted either way."""
    strict: bool = False
    """Stop at the first row that cannot be used, with file, row and column, instead of counting it."""
    template: Optional[str] = None
    """Text around a prompt, with `{prompt}` where it goes."""
    chat: bool = False
    """Render through the tokenizer's chat template; a text prompt becomes one user turn."""
    chat_template: Optional[str] = None
    """In place of the tokenizer's chat template: a Jinja template, or a file with one."""
    system: Optional[str] = None
    """System message for `chat`."""
    limit: Optional[int] = number(None, ge=1)
    """Use the first `limit` rows."""
    rule: str = choice("exact", "exact", "echo", "math")
    """The natural check of this data, which `reward=rule` takes."""


@dataclass
class ToyData(Data):
    """Letters to repeat: prompt `c`, best response `cccc`. Made by the project, offline.

    Supervised objectives also get `chosen` and `rejected`; process reward models, a response in four steps.
    """

    response_column: Optional[str] = "response"
    steps_column: Optional[str] = "verdicts"
    placeholder: Optional[str] = "p"
    step_tokens: List[str] = field(default_factory=lambda: ["o", "n"])
    rows: int = number(256, ge=1)
    letters: int = number(8, ge=2, le=26)
    """Different prompts. Chance is one in the tokenizer's vocabulary."""


@dataclass
class Blend(Data):
    """Several sources, each with its own columns and template; `weight` is the share of each."""

    sources: Dict[str, Data] = field(default_factory=dict)
    until: str = choice("first", "first", "all", "once")
    """Drawn by weight until the first source is used up; until all are, the others over again; or, without weights,
    each row once."""
