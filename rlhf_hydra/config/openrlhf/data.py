"""The data of a command: the source as it is named, or a choice that ships, where one has the same rows and columns."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import ConfigError
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
    yield from source(command, "data.prompt_dataset", "data.prompt_probs", "data")
    yield from columns(command)
    template = command.text("data.input_template", SFT_TEMPLATE if command.kind in ("sft", "kd", "kto") else "")
    if template and "data.apply_chat_template" not in command and "model.pretrain_mode_enable" not in command:
        yield f"data.template={quoted(template.replace(chr(92) + 'n', chr(10)).replace('{}', '{prompt}'))}"
    tokens = command.given.get("reward_tokens", [])
    if tokens:
        yield f"data.step_tokens=[{','.join(map(quoted, tokens))}]"
    if "eval.dataset" in command:
        yield "data@eval.data=jsonl"
        yield from source(command, "eval.dataset", "", "eval.data")
        yield f"eval.data.split={command.text('eval.split', 'train')}"
    if "pretrain_data" in command:
        yield "data@algo.ptx.data=jsonl"
        yield from source(command, "pretrain_data", "pretrain_data_probs", "algo.ptx.data")
        yield f"algo.ptx.data.split={command.text('pretrain_split', 'train')}"
        yield f"algo.ptx.data.prompt_column={command.text('data.input_key', 'input')}"
        yield f"algo.ptx.coef={command.text('ptx_coef', '0.05')}"


def source(command: Command, option: str, shares: str, key: str) -> Iterator[str]:
    """Where the rows of one of its options come from."""
    first, *more = command.text(option).split(",")
    path, _, folder = first.partition("@")
    if path:
        yield f"{key}.path={quoted(path)}"
    if more or shares in command:
        yield f"# --{option}: only {path} is taken; several sources need a file like conf/data/blend.yaml"
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
        composed = Composer().compose([f"data={choice}", *(f"data.{key}={value}" for key, value in keys.items())])
    except ConfigError:
        return {}
    return asdict(composed.run.data)
