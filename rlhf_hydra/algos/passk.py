"""What several samples of one prompt say about it."""

from collections import Counter
from collections.abc import Hashable, Sequence


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the unbiased chance that one of k samples is correct (arXiv 2107.03374), k <= n.

    As a product, so that no binomial overflows: C(n - c, k) / C(n, k) = prod over i in 0..k-1 of (n - c - i) / (n - i).
    """
    if not 1 <= k <= num_samples or not 0 <= num_correct <= num_samples:
        raise ValueError(
            f"pass@{k} needs 1 <= k <= samples and 0 <= correct <= samples, got {num_correct}/{num_samples}"
        )
    miss = 1.0
    for i in range(k):
        miss *= max(num_samples - num_correct - i, 0) / (num_samples - i)
    return 1.0 - miss


def majority(answers: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    """maj@k of k = len(answers) samples: is the commonest answer correct (self-consistency, arXiv 2203.11171)?

    Answers that tie for the first place share the vote: the result is the share of them that are correct. `None`, a
    response without an answer, is not elected; nothing but `None` gives 0.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    right = {answer for answer, ok in zip(answers, correct, strict=True) if ok}
    first = [answer for answer, count in votes.items() if count == max(votes.values())]
    return sum(answer in right for answer in first) / len(first)
