"""A user's function as a reward: `file.py:function` or `package.module:function`."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf_hydra.config.schema import FunctionReward
from rlhf_hydra.rewards.base import RewardError, Sample, Scorer, Scores, checked_steps, floats


def build(cfg: FunctionReward) -> Scorer:
    """A scorer that calls

        def reward(samples: list[Sample], **kwargs) -> list[float] | Scores | dict[str, list]

    once for the whole batch. A dict needs the key `total`. Under `steps` it may hold process rewards: for each sample a
    list of (end, reward), with `end` counted in characters of the response, as in `Step`; they come on top of `total`,
    so a sum belongs into one of the two. Its other keys are parts. Lists may be any iterable of numbers (arrays,
    tensors). Raises RewardError for what cannot be found or does not take `reward.kwargs`.
    """
    function, who = load(cfg.path), f"reward function {cfg.path}"
    _check_arguments(function, cfg.kwargs, who)

    def score(samples: list[Sample]) -> Scores:
        try:
            result = function(list(samples), **cfg.kwargs)
        except Exception as error:
            raise RewardError(f"{who} failed on {len(samples)} samples: {reason(error)}") from error
        return _scores(result, samples, who)

    return Scorer(score)


def reason(error: Exception) -> str:
    """What went wrong in a user's code, and where."""
    line = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({line.filename}, line {line.lineno})"


def load(path: str, key: str = "reward.path") -> Callable[..., Any]:
    """The function that `path` names, which stands at `key` in the config."""
    where, colon, name = path.rpartition(":")
    if not (colon and where and name.isidentifier()):
        raise RewardError(f"{key}={path!r}: expected `file.py:function` or `package.module:function`")
    module = _file(Path(where), key) if where.endswith(".py") else _module(where, key)
    function = vars(module).get(name)
    if not callable(function):
        found = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise RewardError(f"{where} has no function `{name}`; it has: {', '.join(found) or 'none'}")
    return function


def _file(path: Path, key: str) -> ModuleType:
    path = path.absolute()
    if not path.is_file():
        raise RewardError(f"{key}: there is no file {path}")
    name = f"reward_{path.stem}_{abs(hash(str(path))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RewardError(f"{key}: {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _module(name: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise RewardError(f"{key}: cannot import {name}: {type(error).__name__}: {error}") from error


def _check_arguments(function: Callable[..., Any], kwargs: dict[str, Any], who: str) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind([], **kwargs)
    except TypeError as error:
        given = ", ".join(["samples", *(f"{name}=..." for name in kwargs)])
        raise RewardError(f"{who}{signature} cannot be called as ({given}): {error}; see reward.kwargs") from error


def _scores(result: Any, samples: list[Sample], who: str) -> Scores:
    if isinstance(result, Scores):
        result = {**result.parts, "total": result.total} | ({} if result.steps is None else {"steps": result.steps})
    if not isinstance(result, dict):
        result = {"total": result}
    if "total" not in result:
        raise RewardError(f"{who} returned a dict without `total`; its keys: {', '.join(map(str, result)) or 'none'}")
    steps = checked_steps(result["steps"], samples, who) if "steps" in result else None
    rest = {str(name): values for name, values in result.items() if name != "steps"}
    checked = {name: _values(values, samples, f"{who}, `{name}`") for name, values in rest.items()}
    return Scores(checked.pop("total"), checked, steps)


def _values(values: Any, samples: list[Sample], who: str) -> list[float]:
    try:
        iter(values)
    except TypeError as error:
        raise RewardError(f"{who} is a {type(values).__name__}; expected one number per sample") from error
    return floats(values, samples, who)
