"""A command of OpenRLHF, read: its launcher, its program and its options in all spellings."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlhf_hydra.config.errors import ConfigError, Problem, nearest
from rlhf_hydra.config.openrlhf.flags import BY_NAME, DEFAULTS
from rlhf_hydra.config.openrlhf.quoting import OPERATOR, VARIABLE, split

PROGRAMS = {
    "train_sft": "sft", "train_rm": "rm", "train_prm": "prm", "train_dpo": "dpo", "train_kto": "kto",
    "train_kd": "kd", "train_ppo": "rl", "train_ppo_ray": "rl",
}  # fmt: skip

NO_PROGRAM = {
    "serve_rm": "no reward server; a run loads its reward model itself: reward=model reward.path=...",
    "batch_inference": "no run over prompts without training",
    "lora_combiner": "policy.lora.export=merged writes the merged model at the end of a run",
    "interactive_chat": "no chat",
}

PREFIXES = ("actor.", "critic.", "actor_", "critic_")
"""Of options that hold for one role alone."""


@dataclass(frozen=True)
class Command:
    """A command of theirs, read."""

    kind: str
    gpus: int | None
    """That the launcher names."""
    given: Mapping[str, list[str]]
    """Newest name of each option -> its values; also of those whose default differs from ours."""
    unprefixed: frozenset[str]
    """Options in a form that holds for policy and critic alike."""
    spelled: tuple[str, ...]
    """Names as they were given."""
    problems: tuple[Problem, ...]

    def text(self, name: str, default: str = "") -> str:
        return " ".join(self.given.get(name, [])) or default

    def number(self, name: str, default: int = 0) -> int:
        return int(float(self.text(name, str(default))))

    def pair(self, name: str) -> list[str]:
        values = self.given[name]
        if len(values) != 2:
            raise ConfigError([Problem("import", f"--{name}", f"has {len(values)} values, and needs 2")])
        return values

    def __contains__(self, name: str) -> bool:
        return name in self.given

    @property
    def estimator(self) -> str:
        return self.text("algo.advantage.estimator", "gae")

    @property
    def has_critic(self) -> bool:
        return self.kind == "rl" and self.estimator == "gae"

    @property
    def is_new(self) -> bool:
        """Dotted names came with other defaults."""
        return any("." in name for name in self.spelled)


def read(words: Sequence[str]) -> Command:
    """Words as the shell gives them, or the whole command in one."""
    try:
        tokens = split(words[0]) if len(words) == 1 else list(words)
    except ValueError as error:
        raise ConfigError([Problem("import", "task=import_openrlhf", f"no command of a shell: {error}")]) from error
    named = [i for i, token in enumerate(tokens) if program(token)]
    if not named:
        if inner := next((token for token in tokens if any(map(program, token.split()))), None):
            return read([inner])  # of `bash -c "..."`
        raise ConfigError([no_program()])
    at = next((i for i in named if program(tokens[i]) in PROGRAMS), named[0])
    name = program(tokens[at])
    if name not in PROGRAMS:
        raise ConfigError([no_equivalent(name)])
    end = next((i for i, token in enumerate(tokens) if i > at and re.fullmatch(OPERATOR, token)), len(tokens))
    found = [(word, values, BY_NAME.get(word)) for word, values in options(tokens[at + 1 : end])]
    known = [(word, values, flag) for word, values, flag in found if flag is not None]
    implied = {option: values.split() for option, values in DEFAULTS.get(name, {}).items()}
    return Command(
        kind=PROGRAMS[name],
        gpus=launched_gpus(tokens[:at]),
        given=implied | {flag.names[0]: values for _, values, flag in known},
        unprefixed=frozenset(flag.names[0] for word, _, flag in known if not word.startswith(PREFIXES)),
        spelled=tuple(word for word, _, _ in known),
        problems=(
            *(another(tokens[i]) for i in named if i > end),
            *(unknown(word) for word, _, flag in found if flag is None),
            *(unset(word, v) for word, values, flag in known for v in values if flag.is_read and VARIABLE.search(v)),
        ),
    )


def program(token: str) -> str:
    """`openrlhf.cli.train_sft`, `openrlhf/cli/train_sft.py` or `train_sft` -> `train_sft`; else ''."""
    name = re.sub(r"\.py$", "", token).replace("/", ".").rpartition(".")[2]
    return name if name in PROGRAMS or name in NO_PROGRAM else ""


def launched_gpus(tokens: Sequence[str]) -> int | None:
    """GPUs that the launcher names: `deepspeed --num_gpus N`, `--include HOST:0,1@HOST:2`,
    `torchrun --nproc_per_node N` or CUDA_VISIBLE_DEVICES. None where none does."""
    text = " ".join(tokens)
    nodes = re.search(r"--(?:num_nodes|nnodes)[ =](\d+)", text)
    if found := re.search(r"--(?:num_gpus|nproc[_-]per[_-]node)[ =](\d+)", text):
        return int(found[1]) * int(nodes[1] if nodes else 1)
    if found := re.search(r"(?:CUDA_VISIBLE_DEVICES=|--include[ =]\S*?:)([\d,]+(?:@\S+?:[\d,]+)*)", text):
        return len(re.findall(r"\d+", re.sub(r"@\S+?:", ",", found[1])))
    return None


def options(tokens: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """`--a 1 2 --b=3` -> (a, [1, 2]), (b, [3])."""
    name, values = "", list[str]()
    for token in tokens:
        if token.startswith("--") and len(token) > 2:
            if name:
                yield name, values
            name, found, value = token[2:].partition("=")
            name, values = name.replace("-", "_"), [value] if found else []
        elif name and token not in ("\\", "$@"):
            values.append(token)
    if name:
        yield name, values


def no_program() -> Problem:
    fix = f"Give the whole command; it names one of {', '.join(PROGRAMS)}."
    return Problem("import", "task=import_openrlhf", "no program of OpenRLHF in this command", fix)


def no_equivalent(name: str) -> Problem:
    return Problem("import", "task=import_openrlhf", f"{name} has no equivalent: {NO_PROGRAM[name]}")


def unknown(word: str) -> Problem:
    near = [f"--{name}" for name in nearest(word, BY_NAME)]
    return Problem("import", f"--{word}", "is no option of OpenRLHF", f"Did you mean {' or '.join(near)}?" * bool(near))


def unset(word: str, value: str) -> Problem:
    return Problem("import", f"--{word}", f"{value} stands for a variable of the shell", "Put its value in its place.")


def another(token: str) -> Problem:
    return Problem("import", token, "is a second command, and one is translated at a time", "Give it by itself.")
