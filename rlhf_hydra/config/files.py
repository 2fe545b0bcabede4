"""The YAML files that runs are composed from, and what is wrong with them, in the words of this project."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import yaml
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault
from hydra.errors import MissingConfigException
from hydra.plugins.config_source import ConfigResult
from omegaconf.errors import OmegaConfBaseException

from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem, foreign, nearest, unknown_option


class Files(CachingConfigRepository):
    """Hydra's, but that it says which file cannot be read."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        try:
            return super().load_config(config_path)
        except (yaml.YAMLError, OmegaConfBaseException, ValueError, AssertionError) as error:
            raise ConfigError([broken(error, self.place(config_path))]) from None

    def place(self, path: str) -> str:
        """The file that counts of those that lie under this name."""
        sources = (source for source in self.get_sources() if source.is_config(path))
        return next((shown(file_of(f"{source.scheme()}://{source.path}", path)) for source in sources), path)

    def entries(self) -> Iterator[tuple[str, InputDefault]]:
        """Each line of each defaults list that has been read, below the name of its file."""
        for key, loaded in list(self.cache.items()):
            for default in (loaded.defaults_list or []) if loaded else []:
                yield key.removeprefix("config_path="), default


def file_of(folder: str, path: str) -> Path:
    """The file of a config in one of Hydra's sources, such as `file:///home/me/conf` or `pkg://acme_rl.conf`."""
    scheme, _, place = folder.rpartition("://")
    return (package_folder(place) if scheme == "pkg" else Path(place)) / f"{path}.yaml"


def package_folder(name: str) -> Path:
    spec = find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0] if places else name.replace(".", "/"))


def shown(file: Path) -> str:
    with suppress(ValueError):
        file = file.relative_to(Path.cwd())
    return str(file)


def broken(error: Exception, file: str) -> Problem:
    """A file that is not YAML, or that holds what no config can."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        fix = "Indent with spaces." if "\\t" in str(error.problem) else ""
        return Problem("yaml", f"{file}:{error.problem_mark.line + 1}", f"is not YAML: {error.problem}", fix)
    if isinstance(error, UnicodeDecodeError):
        return Problem("yaml", file, "is not a text in UTF-8", "Save it as UTF-8.")
    return Problem("yaml", file, f"cannot be read: {foreign(error).says}")


def leads_to(file: str, default: InputDefault) -> str:
    """The file that a line of the defaults list of `file` names; empty for others."""
    if isinstance(default, ConfigDefault):
        path = str(default.path)
    elif isinstance(default, GroupDefault) and isinstance(default.value, str):
        path = f"{default.group}/{default.value}"
    else:
        return ""
    return path.lstrip("/") if path.startswith("/") else f"{file.rpartition('/')[0]}/{path}".lstrip("/")


def circle(files: Files) -> Problem:
    """Files that extend each other."""
    ways: dict[str, list[str]] = {}
    for file, default in files.entries():
        ways.setdefault(file, []).append(leads_to(file, default))
    for start in ways:
        reached = set(ways[start])
        while more := {onward for file in reached for onward in ways.get(file, []) if onward not in reached}:
            reached |= more
        if start in reached:
            fix = "Let one of the files that it extends not extend it."
            return Problem("yaml", files.place(start), "extends itself by way of its defaults list", fix)
    raise AssertionError


def refused(error: Exception, files: Files, places: Sequence[str]) -> Problem:
    """What is wrong with the choices of a run, of which `places` are those that every run makes."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        path = str(error.missing_cfg_file)
        group, _, option = path.rpartition("/")
        named = [file for file, default in files.entries() if leads_to(file, default) == path]  # the last one counts
        options = error.options or files.get_group_options(group)
        return unknown_option(group, option, options, files.place(named[-1]) if named else "")
    if found := re.match(r"(?:In '(.+)': )?Could not override '(.+?)'", str(error)):
        file, place = found.groups()
        return no_such_choice(place, places, files.place(file) if file else COMMAND_LINE)
    if found := re.match(r"Multiple values for (.+?)\. ", str(error)):
        return chosen_twice(files, found[1])
    return foreign(error)


def no_such_choice(place: str, places: Sequence[str], where: str) -> Problem:
    names = places if where == COMMAND_LINE else [f"/{other}" for other in places]
    group = place.partition("@")[0].rpartition("/")[2]
    near = [name for name in names if name.lstrip("/") == group] or nearest(place, names)
    fix = f"Did you mean {' or '.join(near)}?" if near else f"A run chooses {', '.join(names)}."
    if place.startswith("schema/"):
        fix = f"Write /schema/{group}@_here_; where the file that is extended is `# @package _global_`, @{group}."
    return Problem("option", place, "is nothing that a run chooses", fix, where=where)


def chosen_twice(files: Files, place: str) -> Problem:
    """A file that adds a choice which is there already, where it means to change it."""
    for file, default in files.entries():
        if isinstance(default, GroupDefault) and not default.is_override() and file != "config":
            package = f"@{default.package}" if default.package else ""
            if f"{default.group}{package}".lstrip("/") == place:
                fix = f"Write `- override /{place}: {default.value}`, below the other lines of its defaults list."
                return Problem("option", place, "has been chosen already", fix, default.value, files.place(file))
    return Problem("option", place, "is chosen twice", "Choose one.")
