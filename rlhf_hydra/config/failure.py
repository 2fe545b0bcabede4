"""The failures that people can put right."""


class Failure(Exception):
    """Ends a run with its message, which says what is wrong and the way out; no traceback is shown."""
