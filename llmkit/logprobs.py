"""Log-probabilities of given tokens, in nats: what evaluation, preference and reinforcement losses are made of.

    log p(target | prefix) = logit[target] - logsumexp(logits)

A target of -100 (the field's ignore index) counts nothing: its log-probability is exactly 0 and so is its gradient,
whatever its logits, so padding can never bring a NaN into a sum.

Shapes: B batch, T time, V vocab, N kept targets.
"""

import torch

from llmkit.data import IGNORE_INDEX


def token_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """logits (B, T, V), targets (B, T) int64 -> log p of each target (B, T), 0 where the target is -100.

    Memory-lean: nothing of size (B, T, V) outlives the call but the logits; ignored rows are not even read.
    Half-precision logits are summed in float32. ValueError where shapes disagree or a target is no vocabulary id.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit targets {tuple(targets.shape)}")
    keep = targets != IGNORE_INDEX
    kept = targets[keep]  # (N,)
    if kept.numel() and (kept.min() < 0 or kept.max() >= logits.shape[-1]):
        raise ValueError(f"targets must be 0 .. {logits.shape[-1] - 1}, or {IGNORE_INDEX} to be ignored")
    rows = logits.flatten(0, -2) if keep.all() else logits[keep]  # (N, V)
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    chosen = rows.gather(-1, kept[:, None]).squeeze(-1)  # (N,)
    out = rows.new_zeros(targets.shape)
    return out.masked_scatter(keep, chosen - rows.logsumexp(dim=-1))  # (B, T)


def sequence_logprobs(model, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """idx and targets (B, T) -> log p of each row's kept targets given what precedes them, summed: (B,).

    `targets` is idx moved one to the left, with -100 where a token is not to be counted (the prompt, the padding).
    """
    return token_logprobs(model(idx), targets).sum(dim=-1)
