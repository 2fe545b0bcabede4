"""All randomness is derived from the run's seed and from what it is for, so no generator has a state to be lost."""

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2^63) for one purpose, e.g. `derive(seed, "sample", step, row)`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
