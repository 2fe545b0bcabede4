from pathlib import Path

import pytest

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import ConfigError, Problem


@pytest.fixture(scope="session")
def composer() -> Composer:
    return Composer()


@pytest.fixture(scope="session")
def problems(composer: Composer):
    """What is wrong with the run of some overrides."""

    def find(*overrides: str, config_dir: Path | None = None) -> list[Problem]:
        try:
            checked_run(overrides, Composer(str(config_dir)) if config_dir else composer)
        except ConfigError as error:
            return error.problems
        return []

    return find
