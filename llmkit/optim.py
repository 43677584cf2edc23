"""What turns gradients into better weights: AdamW in two groups, Muon, and learning-rate schedules.

AdamW (arXiv 1711.05101) keeps running means m of the gradient and v of its square, and decays weights apart from them:

    w <- w - lr * (m_hat / (sqrt(v_hat) + eps) + weight_decay * w)

Muon (Jordan et al. 2024; scaled as in arXiv 2502.16982) looks at a matrix as a whole: the momentum's singular values
are all set to about one, so that rare directions move as far as frequent ones. Embeddings and vectors keep AdamW.

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


def orthogonalise(matrix: torch.Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The matrix, or each of a stack (..., m, n), with its singular values moved close to 1 (0.7 to 1.2) by a quintic
    Newton-Schulz iteration.

    It forgives rough arithmetic: `dtype` bfloat16 does, and is faster where the hardware has it.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # chosen by Jordan for speed: they get near 1 fast, and stay near, not at it
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix / matrix.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)).to(dtype)
    x = x.mT if tall else x  # the smaller side first: cheaper products
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.mT if tall else x
    return x.to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for the matrices inside the blocks, AdamW for everything else; `muon(model, lr)` makes the groups.

    The update of an (m, n) matrix is scaled by 0.2 sqrt(max(m, n)), AdamW's usual size, so that both share one lr.
    """

    def __init__(self, groups, lr: float, momentum: float = 0.95, betas=(0.9, 0.95), eps: float = 1e-8):
        defaults = dict(lr=lr, momentum=momentum, betas=betas, eps=eps, weight_decay=0.0, compute_dtype=None)
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            updates = self._muon(weights, group) if group["matrices"] else [self._adamw(w, group) for w in weights]
            for weight, update in zip(weights, updates, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])

    def _muon(self, weights, group):
        """The layers' matrices of one shape are orthogonalised as one stack: many small products take longer."""
        updates = [self._ahead(weight, group["momentum"]) for weight in weights]
        for shape in {weight.shape for weight in weights}:
            same = [i for i, weight in enumerate(weights) if weight.shape == shape]
            stack = orthogonalise(torch.stack([updates[i] for i in same]), dtype=group["compute_dtype"])
            for i, update in zip(same, stack * (0.2 * math.sqrt(max(shape[-2:]))), strict=True):
                updates[i] = update
        return updates

    def _ahead(self, weight, momentum):
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(state["momentum"], momentum)  # Nesterov

    def _adamw(self, weight, group):
        state, (beta1, beta2) = self.state[weight], group["betas"]
        if not state:
            state |= {"step": torch.zeros(()), "m": torch.zeros_like(weight), "v": torch.zeros_like(weight)}
        state["step"] += 1
        state["m"].lerp_(weight.grad, 1 - beta1)
        state["v"].lerp_(weight.grad.square(), 1 - beta2)
        m_hat = state["m"] / (1 - beta1 ** state["step"].item())
        v_hat = state["v"] / (1 - beta2 ** state["step"].item())
        return m_hat / (v_hat.sqrt() + group["eps"])


def muon(model: nn.Module, lr: float, weight_decay: float = 0.1) -> Muon:
    """Muon over the trainable parameters of `model`, computing in its dtype. ValueError if nothing is trainable.
    Stacked experts (E, m, n) count as E matrices.

    Embeddings and the output projection are matrices too, but a row is one token's or position's: they keep AdamW.
    """
    outer = {id(p) for layer in (model.tok_emb, model.pos_emb, model.lm_head) for p in layer.parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("no parameter of the model requires a gradient: there is nothing to train")
    inner = [p for p in trainable if p.ndim >= 2 and id(p) not in outer]
    ends = [p for p in trainable if p.ndim >= 2 and id(p) in outer]
    vectors = [p for p in trainable if p.ndim < 2]
    groups = [
        {"params": inner, "matrices": True, "weight_decay": weight_decay, "compute_dtype": model.compute_dtype},
        {"params": ends, "matrices": False, "weight_decay": weight_decay},
        {"params": vectors, "matrices": False, "weight_decay": 0.0},
    ]
    return Muon([g for g in groups if g["params"]], lr)


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
