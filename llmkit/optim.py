"""What turns gradients into better weights: AdamW in two groups, and learning-rate schedules.

AdamW (arXiv 1711.05101) keeps running means m of the gradient and v of its square, and decays weights apart from them:

    w <- w - lr * (m_hat / (sqrt(v_hat) + eps) + weight_decay * w)

Matrices decay, the embedding included: with tied weights it is the output projection too. Vectors (norms, biases) do
not: decay would pull a norm's gain towards 0. A schedule is a pure function step -> factor of the peak lr, so that the
lr of any step is known without running those before it.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

Schedule = Callable[[int], float]


def adamw(
    model: nn.Module, lr: float, weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `model`: tensors of two or more dimensions decay, the others do not.

    Fused into one kernel, which on a CPU too takes a half to a fifth of the time of a loop or of foreach.
    ValueError if nothing is trainable.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("no parameter of the model requires a gradient: there is nothing to train")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)


def warm_up() -> None:
    """Pay for torch's lazy imports now (seconds, once a process), so that they do not distort the first step's time."""
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.AdamW([weight], fused=True).step()


def constant() -> Schedule:
    """Factor 1 at every step."""
    return lambda step: 1.0


def warmup_cosine(steps: int, warmup: int, floor: float = 0.1) -> Schedule:
    """Linear from 1/warmup to 1 over the first `warmup` steps, then half a cosine down to `floor` at the last step."""
    _check(steps, floor, warmup=warmup)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup + 1) / max(steps - warmup, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor


def warmup_stable_decay(steps: int, warmup: int, decay: int, floor: float = 0.0) -> Schedule:
    """WSD (arXiv 2404.06395): linear up over `warmup` steps, then 1, then linear down to `floor` over the last `decay`.

    The stable part does not depend on `steps`, so a run can be prolonged from any step before its decay.
    """
    _check(steps, floor, warmup=warmup, decay=decay)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        left = max(steps - step - 1, 0)  # steps after this one
        return 1.0 if left >= decay else floor + (1 - floor) * left / decay

    return factor


def _check(steps: int, floor: float, **parts: int) -> None:
    if steps < 1 or any(n < 0 for n in parts.values()) or sum(parts.values()) > steps:
        named = ", ".join(f"{name}={n}" for name, n in parts.items())
        raise ValueError(f"steps={steps} must be at least 1 and have room for {named} (none negative)")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor} must be a factor between 0 and 1")
