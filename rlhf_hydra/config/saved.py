"""`run.yaml`: a run as one self-contained file, and back.

A section whose class the choice decided carries its schema's name under `_schema_`; the rest follows from `RunConfig`.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import fields
from functools import cache, lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from rlhf_hydra.config.compose import is_unknown
from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem, bad_value, unknown_key
from rlhf_hydra.config.keys import schema_name
from rlhf_hydra.config.overrides import parse
from rlhf_hydra.config.plugins import schemas as known_schemas
from rlhf_hydra.config.schema import RunConfig, Section
from rlhf_hydra.config.secrets import redacted

DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML was built with it: ten times as fast, which a sweep of a thousand runs feels."""


def save_run_yaml(run: RunConfig, path: Path, command: str) -> None:
    """Write `run`, below the command that started it; written aside first and then renamed."""
    aside = path.with_name(f".{path.name}.part")
    text = yaml.dump(plain(run), Dumper=DUMPER, sort_keys=False, allow_unicode=True, width=120)
    aside.write_text(redacted(comment(command) + text))
    aside.replace(path)


def comment(text: str) -> str:
    """As the first lines of a YAML file."""
    return "".join(f"# {line}\n" for line in text.split("\n"))


def saved_command(path: Path) -> str:
    """The command that started the run."""
    return command_in(path.read_text())


def command_in(text: str) -> str:
    """The command above a `run.yaml`; empty if there is none."""
    lines = takewhile(lambda line: line.startswith("# "), text.split("\n"))
    return "\n".join(line.removeprefix("# ") for line in lines)


def words_of(command: str) -> tuple[str | None, list[str]]:
    """The folder behind `--config-dir`, and the overrides, of a command line."""
    words = shlex.split(command)
    folder = words[words.index("--config-dir") + 1] if "--config-dir" in words else None
    return folder, [word for word in words if "=" in word and not word.startswith("-")]


def load_run_yaml(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run, with `key=value` changes that are checked against the class of each section. Not frozen.

    Raises:
        ConfigError: there is no such file, it is none of ours, or an override does not fit; all of them at once.
    """
    try:
        cfg = OmegaConf.merge(RunConfig, typed(yaml.load(path.read_text(), LOADER)))
    except OSError:
        fix = "Give the folder of a run that has begun: run=outputs/ALGO-MODEL/TIME."
        raise ConfigError([Problem("resume", "run", f"there is no {path}", fix, path.parent, COMMAND_LINE)]) from None
    except (yaml.YAMLError, OmegaConfBaseException, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([Problem("resume", str(path), f"is not a run.yaml of this version: {reason}")]) from None
    except KeyError as error:
        says, fix = f"needs the schema {error}, which nothing here brings", "Install the package that it comes from."
        raise ConfigError([Problem("resume", str(path), says, fix)]) from None
    assert isinstance(cfg, DictConfig)
    schemas = [name for name in (schema_name_of(cfg, f.name) for f in fields(RunConfig)) if name]
    problems = [problem for line in overrides if (problem := change(cfg, line, schemas))]
    if problems:
        raise ConfigError(problems)
    try:
        return OmegaConf.to_object(cfg)  # type: ignore[return-value]
    except InterpolationResolutionError as error:  # a secret that was left out of the file
        reason, fix = str(error).splitlines()[0], "Set the variable to what it was when the run began."
        raise ConfigError([Problem("resume", str(path), reason, fix)]) from None
    except MissingMandatoryValue as error:
        key = re.search(r"full_key: (.+)", str(error))
        says = f"is not a run.yaml of this version: it lacks {key[1] if key else 'a key'}"
        raise ConfigError([Problem("resume", str(path), says)]) from None


def look_at_run_yaml(path: Path) -> RunConfig:
    """Read a run that is not to be changed: frozen, and quick for the runs of a sweep, which share most sections.

    Raises:
        ConfigError: as `load_run_yaml`.
    """
    try:
        content = yaml.load(path.read_text(), LOADER)
        run = RunConfig(**{f.name: section_of(f.name, json.dumps(content[f.name])) for f in fields(RunConfig)})
    except (OSError, yaml.YAMLError, OmegaConfBaseException, LookupError, TypeError, AttributeError):
        run = load_run_yaml(path)  # which says what is wrong
    run.freeze()
    return run


@lru_cache(maxsize=10_000)
def section_of(name: str, text: str) -> Any:
    """What a run has under `name`, of its JSON."""
    cfg = OmegaConf.merge(OmegaConf.masked_copy(blank(), name), typed({name: json.loads(text)}))
    assert isinstance(cfg, DictConfig)
    return OmegaConf.to_object(cfg[name]) if OmegaConf.is_config(cfg[name]) else cfg[name]


@cache
def blank() -> DictConfig:
    """A run as OmegaConf has it; it takes long to make."""
    cfg = OmegaConf.structured(RunConfig)
    assert isinstance(cfg, DictConfig)
    return cfg


def plain(value: Any) -> Any:
    """Sections as mappings, each with its schema's name where it has one."""
    if isinstance(value, Section):
        name = schema_name(value)
        children = {f.name: plain(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]
        return {"_schema_": name, **children} if name else children
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, str):
        return value.replace("${", "\\${")  # a text, and no reference to another key
    return [plain(child) for child in value] if isinstance(value, list) else value


def typed(value: Any) -> Any:
    """The inverse of `plain`, for OmegaConf to merge."""
    if not isinstance(value, dict):
        return value
    children = {key: typed(child) for key, child in value.items() if key != "_schema_"}
    return OmegaConf.merge(known_schemas()[value["_schema_"]], children) if "_schema_" in value else children


def schema_name_of(cfg: DictConfig, name: str) -> str | None:
    kind = OmegaConf.get_type(cfg, name)
    return next((path for path, schema in known_schemas().items() if schema is kind), None)


def change(cfg: DictConfig, line: str, schemas: Sequence[str]) -> Problem | None:
    """Apply one override of a resumed run, or say why it cannot be."""
    override = parse(OverridesParser.create(), line)
    key, value = override.key_or_group, override.value()
    if override.is_hydra_override():
        return None
    if key in {path.split("/")[0] for path in known_schemas()} | {"experiment"}:
        says = f"a resumed run keeps the {key} that it began with"
        return Problem(
            "resume", key, says, f"Change single keys ({key}.KEY=VALUE), or start a new run.", value, COMMAND_LINE
        )
    if is_unknown(cfg, key):
        return unknown_key(key, value, COMMAND_LINE, schemas)
    try:
        OmegaConf.update(cfg, key, value, merge=True)
    except OmegaConfBaseException as error:
        return bad_value(error, key, value, COMMAND_LINE, schemas)
    return None
