"""Values and words, written so that they are read back as they were."""

import re
import shlex


def quoted(value: str) -> str:
    """As Hydra reads it back."""
    if re.fullmatch(r"[\w./@:-]+", value, re.ASCII):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def shell(word: str) -> str:
    """As bash reads it back, on one line."""
    if "\n" in word:
        return "$'" + word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return shlex.quote(word)
