"""Experiment files that say what is so without them; each such line hides what the experiment is about."""

from collections.abc import Iterator

from rlhf_hydra.config.compose import Composed, Composer
from rlhf_hydra.config.errors import ConfigError, run_keys
from rlhf_hydra.config.explain import chain, is_same, line
from rlhf_hydra.config.layers import Layer

GROUP = "experiment"


def lint(composer: Composer) -> list[str]:
    """A line for each repetition, and for each experiment that does not compose."""
    found: list[str] = []
    for option in composer.files.get_group_options(GROUP):
        try:
            composed = composer.compose([f"{GROUP}={option}"])
        except ConfigError as error:
            found += [str(problem) for problem in error.problems]
            continue
        found += [str(problem) for problem in composed.problems]
        layer = next(layer for layer in composed.layers if layer.path == f"{GROUP}/{option}")
        found += [*repeated_choices(composer, layer), *repeated_values(composed, layer)]
    return found


def repeated_choices(composer: Composer, layer: Layer) -> Iterator[str]:
    library = composer.library([])
    usual = library.choices("config")
    for group, option in library.choices(layer.path).items():
        if usual.get(group) == option:
            yield f"{layer.where}: override /{group}: {option} is the choice without it"


def repeated_values(composed: Composed, layer: Layer) -> Iterator[str]:
    keys = run_keys(composed.schemas)
    for name, value in layer.values.items():
        settings = list(chain(composed, name, keys.get(name)))
        here = next(place for place, (where, _) in enumerate(settings) if where == f"{layer.where}{line(layer, name)}")
        where, before = settings[here - 1]
        if is_same(value, before):
            yield f"{layer.where}{line(layer, name)}: {name}={value} is what it is without it ({where})"
