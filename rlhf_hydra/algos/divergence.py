"""How far a policy's choice of the next token is from its teacher's."""

import torch
from torch import Tensor


def divergence(student: Tensor, teacher: Tensor, temperature: float, direction: str, top_k: int = 0) -> Tensor:
    """T^2 KL(p || q) for `forward`, T^2 KL(q || p) for `reverse` (arXiv 1503.02531, 2306.08543).

    q = softmax(student / T), p = softmax(teacher / T), both over the whole vocabulary. With `top_k` = k, over k + 1
    outcomes: each of the teacher's k likeliest tokens, and all others as one. Logits [M, V] -> [M] float32; gradients
    flow into `student` only. M may be 0.
    """
    log_q = (student.float() / temperature).log_softmax(-1)
    log_p = (teacher.detach().float() / temperature).log_softmax(-1)
    if 0 < top_k < log_p.shape[-1] - 1:
        likely = log_p.topk(top_k, dim=-1).indices
        log_p, log_q = coarse(log_p, likely), coarse(log_q, likely)
    if direction == "reverse":
        log_p, log_q = log_q, log_p
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


def coarse(logprobs: Tensor, kept: Tensor) -> Tensor:
    """Log-probabilities of the `kept` tokens [M, k], and of all others together. [M, V] -> [M, k + 1]."""
    rest = logprobs.scatter(-1, kept, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logprobs.gather(-1, kept), rest], dim=-1)
