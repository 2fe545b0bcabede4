"""What must never be written down: keys and tokens of services, wherever they come from."""

import os
import re
from collections.abc import Mapping
from typing import Any

SECRET = re.compile(r"(?i)(^|[_.-])(api_?key|secret|password|passwd|credentials?|(auth|access|api|hf)_?token|token)$")
"""Names of keys whose values are secret."""
VARIABLE = re.compile(r"(?i)(^|_)(token|secret|password|passwd|key|credentials?)(_|$)")
"""Names of environment variables whose values are; `KEY` alone says enough there."""
SHAPES = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
    r"|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
    r"|wandb_v\d_\w{20,})|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"
)
"""Tokens of Hugging Face, OpenAI and its kin, GitHub, GitLab, AWS, Google, Slack, W&B; JSON web tokens; name and
password in an address."""
SHORTEST = 8
"""Characters from which the value of a secret environment variable is looked for in other texts."""
REDACTED = "***"


def secret_variables() -> dict[str, str]:
    """Value -> name of the environment variables that hold secrets, the longest first."""
    named = {value: name for name, value in os.environ.items() if VARIABLE.search(name) or SECRET.search(name)}
    return {value: named[value] for value in sorted(named, key=len, reverse=True) if len(value) >= SHORTEST}


def redact(value: Any, name: str = "") -> Any:
    """A copy of texts, mappings and lists without secrets: values under secret names, what the environment holds under
    such a name wherever it occurs, and whatever looks like a token."""
    if isinstance(value, Mapping):
        return {key: redact(child, str(key)) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [redact(child, name) for child in value]
    if not isinstance(value, str):
        return value
    if SECRET.search(name) and value:
        return REDACTED
    for secret in secret_variables():
        value = value.replace(secret, REDACTED)
    return SHAPES.sub(REDACTED, value)


def redacted(text: str) -> str:
    """`text` for a file that is read again: a secret of the environment becomes `${oc.env:NAME}`, which is resolved."""
    for value, name in secret_variables().items():
        text = text.replace(value, f"${{oc.env:{name}}}")
    return SHAPES.sub(REDACTED, text)


def is_exposed(text: str) -> bool:
    """Whether a value holds a secret that did not come from the environment."""
    return REDACTED in redacted(text) and REDACTED not in text
