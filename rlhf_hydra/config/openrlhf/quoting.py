"""Values and words, read as a shell reads them, and written so that they are read back as they were."""

import re
import shlex

OPERATOR = r"[;|&<>\n]+"
"""What ends a command."""
VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?-([^}]*))?\}|(\w+)|\()")
"""$NAME, ${NAME}, ${NAME:-DEFAULT} or $(COMMAND)."""
ASSIGNED = re.compile(r"^\s*(?:(?:export|readonly|local)\s+)?(\w+)=(\"[^\"]*\"|'[^']*'|[^\s;]+)", re.MULTILINE)
SPECIAL = re.compile(r"\$'((?:[^'\\]|\\.)*)'")
"""bash's $'...'."""
COMMENT = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.|(?<!\S)\#[^\n]*""", re.DOTALL)
"""Matched as a whole: what is quoted, and comments, which alone begin with #."""


def split(text: str) -> list[str]:
    """The words of a pasted command or script, and its operators: continued lines are joined, comments dropped, and
    variables replaced that the text sets itself."""
    found = [unescaped(body) for body in SPECIAL.findall(text)]
    text = SPECIAL.sub("\0", re.sub(r"\\[ \t\r]*\n", " ", text))
    text = COMMENT.sub(lambda match: "" if match[0].startswith("#") else match[0], text)
    text = re.sub(r"\n\s*(?=--\w)|(?<=\s)\d(?=>)", " ", text)  # options without \ before them; the 2 of 2>&1
    words = shlex.shlex(text, posix=True, punctuation_chars=";|&<>\n")
    words.whitespace, words.whitespace_split, words.commenters = " \t\r", True, ""
    known: dict[str, str] = {}
    for name, value in ASSIGNED.findall(text):
        known[name] = replaced(value.strip("\"'"), known)
    specials = iter(found)
    return [replaced(re.sub("\0", lambda _: next(specials), word), known) for word in words]


def replaced(word: str, known: dict[str, str]) -> str:
    """`word` with the variables that are known, or have a default."""
    return VARIABLE.sub(lambda match: known.get(match[1] or match[3], match[2] or match[0]), word)


def unescaped(text: str) -> str:
    """The inside of $'...'."""
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t", "r": "\r"}.get(match[1], match[1]), text)


def shell(word: str) -> str:
    """As bash reads it back, on one line."""
    if "\n" in word:
        return "$'" + word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return shlex.quote(word)
