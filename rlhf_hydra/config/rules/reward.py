"""What scores, and what it needs."""

import ast
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from rlhf_hydra.config.errors import Problem, one_of
from rlhf_hydra.config.layout import eval_data, eval_reward, reward_parts
from rlhf_hydra.config.rules.data import named_sources
from rlhf_hydra.config.rules.files import no_such_file
from rlhf_hydra.config.schema import (
    CompositeReward,
    Data,
    FunctionReward,
    ProcessReward,
    RuleReward,
    RunConfig,
    ToyData,
)


def letters_only(run: RunConfig) -> Iterator[Problem]:
    """`builtin:tiny` has no digits in its vocabulary."""
    for key, part in named_rewards(run):
        if run.model.path == "builtin:tiny" and isinstance(part, RuleReward) and part.rule == "math":
            fix = "Take a language model, such as model=smollm2-135m, or other data."
            yield Problem("", f"{key}.rule", "model=tiny writes letters and can give no number as an answer", fix)


def named_rewards(run: RunConfig) -> list[tuple[str, Any]]:
    """Each reward that is computed, with its dotted key."""
    return [*named_parts("reward", run.reward), *named_parts("eval.reward", run.eval.reward)]


def named_parts(key: str, reward: Any) -> list[tuple[str, Any]]:
    if isinstance(reward, CompositeReward):
        return [(f"{key}.parts.{name}", part) for name, part in reward.parts.items()]
    return [(key, reward)] if reward is not None and reward != MISSING else []


def step_template(run: RunConfig) -> Iterator[Problem]:
    for key, part in named_rewards(run):
        if isinstance(part, ProcessReward) and "{step}" not in part.template:
            yield Problem(
                "", f"{key}.template", "has no {step}, so that the model would see none", "Put {step} into it."
            )


def reward_source(run: RunConfig) -> Iterator[Problem]:
    if isinstance(run.reward, CompositeReward) and not list(reward_parts(run.reward)):
        fix = "Give it parts in a file of conf/reward, as conf/reward/composite.yaml shows."
        yield Problem("", "reward.parts", "no source of rewards", fix)


def reward_labels(run: RunConfig) -> Iterator[Problem]:
    """`exact` and `math` compare with a label."""
    yield from missing_labels("data", run.data, named_parts("reward", run.reward))
    if run.eval.data or run.eval.reward:
        source, key = "eval.data" if run.eval.data else "data", "eval.reward" if run.eval.reward else "reward"
        yield from missing_labels(source, eval_data(run), named_parts(key, eval_reward(run)))


def missing_labels(source: str, data: Data, rewards: Sequence[tuple[str, Any]]) -> Iterator[Problem]:
    for key, part in rewards:
        for place, given in named_sources(source, data):
            needs_label = isinstance(part, RuleReward) and part.rule in ("exact", "math")
            if needs_label and given.label_column is None and not isinstance(given, ToyData):
                fix = f"Set {place}.label_column to the column with the answers."
                yield Problem("", f"{key}.rule", f"compares with a label, and {place}={given.name} has none", fix)


def reward_function(run: RunConfig) -> Iterator[Problem]:
    for key, part in named_rewards(run):
        if isinstance(part, FunctionReward) and part.path != MISSING:
            yield from check_function(run, key, part)


def check_function(run: RunConfig, key: str, reward: FunctionReward) -> Iterator[Problem]:
    """The file and function exist, and the function takes `kwargs`. Read, not run: nothing is imported."""
    module, _, name = reward.path.rpartition(":")
    if not module or not name.isidentifier():
        yield Problem(
            "", f"{key}.path", "does not name a function", "Write file.py:function or package.module:function."
        )
        return
    file = Path(module).expanduser() if module.endswith(".py") else find_module(module)
    if file is None or not file.is_file():
        is_file = module.endswith(".py")
        if not run.cluster.is_elsewhere:
            yield no_such_file(f"{key}.path", module) if is_file else Problem("", f"{key}.path", f"no module {module}")
    elif file.suffix == ".py":  # a compiled module cannot be read
        yield from check_definition(key, reward, file, name)


def check_definition(key: str, reward: FunctionReward, file: Path, name: str) -> Iterator[Problem]:
    try:
        body = ast.parse(file.read_text()).body
    except SyntaxError as error:
        yield Problem("", f"{key}.path", f"{file}, line {error.lineno}: {error.msg}")
        return
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    imports = [alias for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
    if name in functions:
        yield from unknown_arguments(key, reward, functions[name].args)
    elif name not in {alias.asname or alias.name for alias in imports}:
        yield Problem("", f"{key}.path", f"{file} has no function {name}", one_of(name, functions))


def unknown_arguments(key: str, reward: FunctionReward, args: ast.arguments) -> Iterator[Problem]:
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    for name in reward.kwargs:
        if args.kwarg is None and name not in names:
            yield Problem(
                "", f"{key}.kwargs.{name}", f"{reward.path} takes no argument of that name", one_of(name, names)
            )


def find_module(module: str) -> Path | None:
    """The file of a module, found without importing its packages."""
    folders: Sequence[str] | None = None
    spec = None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, folders)
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec and spec.origin else None
