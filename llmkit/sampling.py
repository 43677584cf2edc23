"""From logits to a token: temperature, then top-k, then top-p, then min-p, then one draw.

    p(token) ∝ exp(logit / temperature), over the tokens that every filter kept

Each filter sets the logits of the tokens it drops to -inf and leaves the others as they were, so the stages can be
called one by one and compared. Order and kept sets are those of the Hugging Face processors: top-k keeps every tie with
the k-th logit; top-p (nucleus, arXiv 1904.09751) keeps the smallest set of likeliest tokens whose probability reaches
`top_p`; min-p (arXiv 2407.01082) keeps what has at least `min_p` times the probability of the likeliest token.
Departures: temperature 0 is greedy (the first of the largest logits), and temperatures or logits so extreme that the
division overflows are shifted first, where the processors give NaN.

Shapes: V vocabulary; `...` any leading dimensions, each row on its own.
"""

import math
from numbers import Integral, Real

import torch
from torch import Tensor

NEG_INF = float("-inf")


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """(..., V) -> (..., V): logits / temperature; at 0 all but the largest logit (the first of equals) are -inf."""
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)  # (..., 1)
        return torch.full_like(logits, NEG_INF).scatter(-1, best, logits.gather(-1, best))
    if temperature == 1:
        return logits
    limits = torch.finfo(logits.dtype)
    temperature = min(max(temperature, limits.tiny), limits.max)  # neither 0 nor inf in the dtype of the logits
    scaled = logits / temperature
    # Only differences count, so a row that overflows float32 is divided after its largest logit became 0.
    shifted = (logits - logits.amax(-1, keepdim=True)) / temperature
    return torch.where(scaled.amax(-1, keepdim=True).isfinite(), scaled, shifted)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """(..., V) -> (..., V): -inf for every token below the `top_k`-th largest logit; ties with it stay."""
    kth = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < kth, NEG_INF)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """(..., V) -> (..., V): -inf outside the smallest set of likeliest tokens with at least `top_p` probability."""
    if top_p == 1:
        return logits
    ascending, order = logits.sort(-1)
    drop = ascending.softmax(-1).cumsum(-1) <= 1 - top_p  # the tail that the nucleus can do without
    drop[..., -1] = False  # rounding must not drop the likeliest token
    return logits.masked_fill(drop.scatter(-1, order, drop), NEG_INF)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """(..., V) -> (..., V): -inf for every token less than `min_p` times as probable as the likeliest."""
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < min_p * probs.amax(-1, keepdim=True), NEG_INF)


def check_parameters(
    temperature: float, top_k: int | None = None, top_p: float | None = None, min_p: float | None = None
) -> None:
    """Raises a ValueError that names the parameter and what it may be."""
    if not (_is(Real, temperature) and 0 <= temperature < math.inf):
        raise ValueError(f"temperature is {temperature!r}; give a number ≥ 0 (0 is greedy, 1 leaves the logits alone)")
    if top_k is not None and not (_is(Integral, top_k) and top_k >= 1):
        raise ValueError(f"top_k is {top_k!r}; give a whole number ≥ 1, or None to keep every token")
    for name, value in (("top_p", top_p), ("min_p", min_p)):
        if value is not None and not (_is(Real, value) and 0 <= value <= 1):
            raise ValueError(f"{name} is {value!r}; give a probability between 0 and 1, or None to switch it off")


def filter_logits(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Apply temperature → top-k → top-p → min-p.

    (..., V) floating -> (..., V), float32 or wider; dropped tokens are -inf, at least one token a row stays.
    Raises ValueError for a bad parameter, and for a row that has no largest finite logit (NaN, +inf, or all -inf).
    """
    check_parameters(temperature, top_k, top_p, min_p)
    _check_logits(logits)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logits = scale_temperature(logits, temperature)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    if min_p is not None:
        logits = keep_min_p(logits, min_p)
    return logits


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one token a row: (..., V) -> (...) int64. Temperature 0 is the argmax and uses no randomness.
    ValueError as in `filter_logits`."""
    if temperature == 0:
        check_parameters(temperature, top_k, top_p, min_p)
        _check_logits(logits)
        return logits.argmax(-1)  # every filter keeps it
    probs = filter_logits(logits, temperature, top_k, top_p, min_p).softmax(-1)
    draws = torch.multinomial(probs.reshape(-1, probs.shape[-1]), 1, generator=generator)  # (rows, 1)
    return draws.view(probs.shape[:-1])


def _check_logits(logits: Tensor) -> None:
    if not logits.is_floating_point() or logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must be floating (..., V) with V ≥ 1, not {logits.dtype} {tuple(logits.shape)}")
    if not logits.amax(-1).isfinite().all():  # NaN and +inf reach the maximum; -inf is there only if all are masked
        raise ValueError("a row of logits holds NaN or +inf, or every token of it is masked: nothing can be drawn")


def _is(kind: type, value) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
