"""Tokens and passwords: what looks like one, and texts without them."""

import os
import re
from collections.abc import Mapping
from typing import Any

NAMED = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)(_|$)", re.IGNORECASE)
"""Environment variables whose value is a secret."""

KEYS = re.compile(r"(^|[_.-])(api_?key|secret|password|passwd|credentials?|token)$", re.IGNORECASE)
"""Keys of a config, such as those of `reward.kwargs`, whose value is a secret."""

SHAPES = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
    r"|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
)
"""Tokens of Hugging Face, OpenAI and its kin, GitHub, GitLab, AWS, Google, Slack; JSON web tokens."""

SHORTEST = 8
"""Characters of the shortest value that is taken for a secret; `true` and `0` are none."""


def secret_variables() -> dict[str, str]:
    """Value -> name of the environment variables that hold secrets, the longest first."""
    found = {value: name for name, value in os.environ.items() if NAMED.search(name) and len(value) >= SHORTEST}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def redacted(text: str) -> str:
    """`text` with `${oc.env:NAME}`, which a config resolves, for the value of a secret variable; `***` for others."""
    for value, name in secret_variables().items():
        text = text.replace(value, f"${{oc.env:{name}}}")
    return SHAPES.sub("***", text)


def is_exposed(text: str) -> bool:
    """Whether a value holds a secret that did not come from the environment."""
    return "***" in redacted(text) and "***" not in text


def without_secrets(value: Any, key: str = "") -> Any:
    """A copy of texts, mappings and lists with `***` for each secret, told by its key or as in `redacted`."""
    if isinstance(value, Mapping):
        return {name: without_secrets(child, str(name)) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(child, key) for child in value]
    if not isinstance(value, str):
        return value
    return "***" if value and KEYS.search(key) else redacted(value)
