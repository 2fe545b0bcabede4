"""The data of a command: the source as it is named, or a choice that ships, where one has the same rows and columns."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import ConfigError, Problem
from rlhf_hydra.config.openrlhf.command import Command
from rlhf_hydra.config.overrides import quoted
from rlhf_hydra.config.store import find_conf_dir

SFT_TEMPLATE = "User: {}\nAssistant: "

READ = {
    "rl": ("prompt", "label"),
    "sft": ("prompt", "response"),
    "kd": ("prompt", "response"),
    "kto": ("prompt", "response", "desirable"),
    "prm": ("prompt", "response", "steps"),
    "rm": ("prompt", "chosen", "rejected", "margin"),
    "dpo": ("prompt", "chosen", "rejected"),
}
"""Kind of program -> the columns that it reads."""


def data(command: Command) -> Iterator[str]:
    yield "data=jsonl"
    yield from source(command, "data.prompt_dataset", "data")
    yield from columns(command)
    if not {"data.apply_chat_template", "model.pretrain_mode_enable"} & set(command.given):
        yield from template(command)
    if "reward_tokens" in command:
        yield f"data.step_tokens=[{','.join(map(quoted, command.given['reward_tokens']))}]"
    elif command.kind == "prm":
        yield "# data.step_tokens: theirs compares labels with the whole vocabulary, here + and - with each other"
    if "eval.dataset" in command:
        yield "data@eval.data=jsonl"
        yield from source(command, "eval.dataset", "eval.data")
        split = "train" if command.kind in ("rl", "sft", "rm") else "test"
        yield f"eval.data.split={command.text('eval.split', split)}"
    if "pretrain_data" in command:
        yield "data@algo.ptx.data=jsonl"
        yield from source(command, "pretrain_data", "algo.ptx.data")
        yield f"algo.ptx.data.split={command.text('pretrain_split', 'train')}"
        yield f"algo.ptx.data.prompt_column={command.text('data.input_key', 'input')}"
        yield f"algo.ptx.coef={command.text('ptx_coef', '0.05')}"


def template(command: Command) -> Iterator[str]:
    text = command.text("data.input_template", SFT_TEMPLATE if command.kind in ("sft", "kd", "kto") else "")
    if "\\n" in text:
        yield "# --data.input_template: \\n is taken as the end of a line, which theirs does not"
        text = text.replace("\\n", "\n")
    if "{}" in text:
        yield f"data.template={quoted(text.replace('{}', '{prompt}'))}"
    elif text:
        yield "# --data.input_template has no {}, and is left out there too"


def source(command: Command, option: str, key: str) -> Iterator[str]:
    """Where the rows of one of its options come from. Several sources of `data` are left to `blended`."""
    given = [part.partition("@")[::2] for part in command.text(option).split(",")]
    path = given[0][0]
    if path and (len(given) == 1 or key != "data"):
        yield f"{key}.path={quoted(path)}"
    if len(given) > 1 and key != "data":
        yield f"# --{option}: only {path} is taken; several sources need a file like conf/data/blend.yaml"
    for path, folder in given:
        if folder:
            yield f"# --{option}: {folder} inside of {path} is named by {key}.subset, if it is one"
    if "use_ms" in command:
        yield f"{key}.hub=modelscope"


def columns(command: Command) -> Iterator[str]:
    """Those that have another name by default, there or in `data=jsonl`."""
    if "data.input_key" not in command:
        yield f"data.prompt_column={'null' if command.kind in ('rm', 'dpo') else 'input'}"
    if command.kind == "rl" and "data.label_key" not in command:
        yield "data.label_column=null"
    if command.kind in ("kto", "prm") and "data.label_key" not in command:
        yield f"data.{'desirable' if command.kind == 'kto' else 'steps'}_column=label"
    if command.kind in ("kto", "kd") and "data.output_key" not in command:
        yield "data.response_column=output"


def finished(overrides: dict[str, str], kind: str) -> dict[str, str]:
    """`overrides`, where an evaluation reads its rows as the training does, and choices that ship stand for files."""
    if "data@eval.data" in overrides:
        shared = (key for key in overrides if key.startswith("data.") and key not in ("data.path", "data.limit"))
        overrides = {f"eval.{key}": overrides[key] for key in shared} | overrides
    for group, program in {"data": kind, "data@eval.data": kind, "data@algo.ptx.data": "sft"}.items():
        overrides = shipped(overrides, program, group)
    return overrides


def blended(overrides: dict[str, str], command: Command) -> tuple[dict[str, str], list[str]]:
    """`overrides`, with a choice in place of several sources of data; and the file of that choice, as lines of `#`."""
    paths = [part.partition("@")[0] for part in command.text("data.prompt_dataset").split(",")]
    if len(paths) == 1:
        return overrides, []
    shares = command.text("data.prompt_probs").split(",") if "data.prompt_probs" in command else ["1"] * len(paths)
    if len(shares) != len(paths):
        raise ConfigError([Problem("import", "--data.prompt_probs", f"{len(shares)} shares of {len(paths)} sources")])
    usual, own = (
        meaning("jsonl", {}),
        {k.removeprefix("data."): v for k, v in overrides.items() if k.startswith("data.")},
    )
    said = {key: value for key, value in meaning("jsonl", own).items() if value != usual[key]}
    names = [f"source{number}" for number in range(1, len(paths) + 1)]
    file = {
        "defaults": [{"/schema/data@_here_": "blend"}, *(f"jsonl@sources.{name}" for name in names), "_self_"],
        "name": "mixed",
        "until": "once" if "data.prompt_probs" not in command else "all" if command.is_new else "first",
        "sources": {
            name: {"path": path, "weight": float(share), **said}
            for name, path, share in zip(names, paths, shares, strict=True)
        },
    }
    if "limit" in said:
        file["limit"] = said["limit"]
    text = yaml.safe_dump(file, sort_keys=False, allow_unicode=True, width=1000).splitlines()
    head = "# data=mixed: a file to write, conf/data/mixed.yaml, or data/mixed.yaml in the folder of --config-dir:"
    rest = {key: value for key, value in overrides.items() if not key.startswith("data.")}
    return rest | {"data": "mixed"}, [head, *(f"#   {line}" for line in text)]


# ---------------------------------------------------------------------------------------------- choices that ship


def shipped(overrides: dict[str, str], kind: str, group: str) -> dict[str, str]:
    """`overrides`, with a choice that ships for `group`, such as `data@eval.data`, in place of the file that is named
    there, if it has the same path and the same columns for this kind of program; without what it says itself."""
    prefix = f"{group.rpartition('@')[2]}."
    own = {key.removeprefix(prefix): value for key, value in overrides.items() if key.startswith(prefix)}
    deciding = ["path", "chat", "template", *(f"{column}_column" for column in READ[kind])]
    for name in namesakes(own.get("path", "")):
        asked, ours = meaning("jsonl", own), meaning(name, {key: own[key] for key in ("hub",) if key in own})
        if all(asked.get(key) == ours[key] for key in deciding):
            said = {f"{prefix}{key}" for key in own if asked[key] == ours[key] and key != "hub"}
            return {key: name if key == group else value for key, value in overrides.items() if key not in said}
    return overrides


def namesakes(path: str) -> list[str]:
    """The choices of `data` whose file has this path, of whichever hub."""
    if not path:
        return []
    files = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in conf_files()}
    return [name for name, keys in files.items() if path in re.split(r"[{}:,\s]", str(keys.get("path")))]


def conf_files() -> list[Path]:
    return sorted((find_conf_dir() / "data").glob("*.yaml"))


def meaning(choice: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """The values of `data=CHOICE` with these keys; none where they do not compose, which `task=check` then explains."""
    try:
        composed = composer().compose([f"data={choice}", *(f"data.{key}={value}" for key, value in keys.items())])
    except ConfigError:
        return {}
    return asdict(composed.run.data)


@cache
def composer() -> Composer:
    return Composer()
