"""What must never be written down: keys of services, wherever they come from."""

import os
import re
from collections.abc import Mapping
from typing import Any

SECRET = re.compile(r"(?i)(^|[_.-])(api_?key|secret|password|passwd|credentials?|(auth|access|api|hf)_?token|token)$")
"""Names whose values are secret."""
SHORTEST = 8
"""Characters from which the value of a secret environment variable is looked for in other texts."""
REDACTED = "***"


def redact(value: Any, name: str = "") -> Any:
    """A copy of texts, mappings and lists without secrets: values under secret names, and what the environment holds
    under such a name wherever it occurs."""
    if isinstance(value, Mapping):
        return {key: redact(child, str(key)) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [redact(child, name) for child in value]
    if not isinstance(value, str):
        return value
    if SECRET.search(name) and value:
        return REDACTED
    for secret in (v for k, v in os.environ.items() if SECRET.search(k) and len(v) >= SHORTEST):
        value = value.replace(secret, REDACTED)
    return value
