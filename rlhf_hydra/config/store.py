"""Where Hydra finds the choices and their schemas."""

from contextlib import suppress
from itertools import chain, count
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from rlhf_hydra.config.schema import SCHEMAS, RunConfig

HIDDEN = ("schema", "hydra")
"""Groups that are no choice of a run."""


def find_conf_dir() -> Path:
    """`conf/` of the installed package, or else of the checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "conf"
    return shipped if shipped.is_dir() else package.parent / "conf"


def register() -> None:
    """Make the schemas, and the resolvers that `conf/` uses, known to Hydra. Twice does no harm.

    The schemas live in a group of their own, so that no option list and no `glob(*)` of a real group shows them.
    """
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=RunConfig, package="_global_")
    for path, schema in SCHEMAS.items():
        group, name = path.split("/")
        store.store(group=f"schema/{group}", name=name, node=schema)
    OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("by_hub", by_hub, replace=True)


def by_hub(hub: str, huggingface: str, modelscope: str) -> str:
    """What a model or dataset is called on `hub`."""
    return modelscope if hub == "modelscope" else huggingface


def new_folder(path: str) -> str:
    """The first of `path`, `path-2`, `path-3` ... that does not exist; made at once, so that no other run takes it."""
    for name in chain([path], (f"{path}-{n}" for n in count(2))):
        with suppress(FileExistsError):
            Path(name).mkdir(parents=True)
            return name
    raise AssertionError
