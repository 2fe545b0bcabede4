"""Values and words, written so that they are read back as they were."""

import shlex


def shell(word: str) -> str:
    """As bash reads it back, on one line."""
    if "\n" in word:
        return "$'" + word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return shlex.quote(word)
