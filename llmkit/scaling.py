"""How the loss falls with size and data: the law of Hoffmann et al. (arXiv 2203.15556, approach 3), and what it tells.

    L(N, D) = E + A / N^alpha + B / D^beta

N is the number of parameters, D of training tokens, L the loss in nats/token. E is what no model can get below: the
entropy of the text. Elsewhere it can only be fitted; the town's is known, so here the fit can be checked.

As in the paper, the fit is of log L, so that every run's relative error counts alike, by a Huber loss, so that one bad
run does not bend the law. Departure: the paper runs L-BFGS from each start; here all starts, and all resamplings of the
bootstrap, are solved at once by damped Gauss-Newton steps (Levenberg-Marquardt) on reweighted squares.

Training costs C = 6 N D FLOPs, serving a token 2 N (arXiv 2401.00448 adds the two up).
Shapes: M resamplings times starts, R runs, 5 unknowns (log E, A and B, alpha, beta).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

DELTA = 1e-3  # where the Huber loss turns from squares to absolute values, in log L
STARTS = list(itertools.product((-1.0, 1.0), (0.0, 5.0, 10.0), (0.0, 5.0, 10.0), (0.3, 0.7), (0.3, 0.7)))


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, n: float, d: float) -> float:
        """nats/token of a model with n parameters after d tokens."""
        return self.E + self.A * _power(n, -self.alpha) + self.B * _power(d, -self.beta)

    def optimal(self, flops: float) -> tuple[float, float]:
        """(n, d) with the lowest loss of all that cost `flops` = 6 n d: where the derivative along the budget is 0.

        ValueError if an exponent is not above 0, as poor runs may have it: such a law has no lowest point. Also if that
        lies beyond what floats hold.
        """
        self._check_falls()
        ratio = _power(self.alpha * self.A / (self.beta * self.B), 1 / (self.alpha + self.beta))
        n = ratio * (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return self._within_floats(n, flops / (6 * n) if n else math.inf)

    def tokens_to_reach(self, loss: float, n: float) -> float:
        """Tokens that a model of n parameters needs for `loss`; inf if it cannot, however long it is trained."""
        rest = loss - self.E - self.A * _power(n, -self.alpha)
        return _power(self.B / rest, 1 / self.beta) if rest > 0 else math.inf

    def cheapest(self, loss: float, served: float) -> tuple[float, float]:
        """(n, d) that reach `loss` with the fewest FLOPs for training and serving together, 6 n d + 2 n served.

        Where the derivative along the curve of this loss is 0; found by bisection. ValueError if loss is not above E,
        and as `optimal` says.
        """
        self._check_falls()
        if not loss > self.E:
            raise ValueError(f"no model reaches a loss of {loss:g}: the law's E is {self.E:g}")
        smallest = _power(self.A / (loss - self.E), 1 / self.alpha)  # it needs tokens without end
        low, high = 0.0, 100.0  # log of n over the smallest
        for _ in range(100):
            n = smallest * math.exp((low + high) / 2)
            d = self.tokens_to_reach(loss, n)
            saved = self.alpha * self.A / (self.beta * self.B) * _power(n, -self.alpha) * _power(d, 1 + self.beta)
            falls = d == math.inf or 6 * saved > 6 * d + 2 * served  # saved is -n dd/dn
            low, high = ((low + high) / 2, high) if falls else (low, (low + high) / 2)
        return self._within_floats(n, d)

    def _check_falls(self):
        if not (self.alpha > 0 and self.beta > 0):
            raise ValueError(f"{self} does not fall with size and data: fit more runs, of more sizes and lengths")

    def _within_floats(self, n: float, d: float) -> tuple[float, float]:
        if not (0 < n < math.inf and 0 < d < math.inf):
            raise ValueError(f"the best size of {self} is beyond what floats hold: fit more runs, of more sizes")
        return n, d


def _power(base: float, exponent: float) -> float:
    """base**exponent, and inf where Python raises: a law fitted to poor runs may have an exponent of 100."""
    try:
        return base**exponent
    except (OverflowError, ZeroDivisionError):
        return math.inf


def isoflop(law: Law, flops: float, n: Sequence[float]) -> list[float]:
    """The loss of each size in `n` when all get the same budget: the smaller the model, the more tokens it reads."""
    return [law.loss(size, flops / (6 * size)) for size in n]


def fit(n: Sequence[float], d: Sequence[float], loss: Sequence[float], E: float | None = None) -> Law:
    """The law that fits runs with n[i] parameters, d[i] tokens and loss[i] nats/token best; where E is known, with it.

    ValueError unless there are at least 6 runs, over at least 2 sizes and 2 amounts of data, all numbers above 0.
    """
    weights = torch.ones(1, len(loss), dtype=torch.float64)
    return _law(_solve(*_checked(n, d, loss, E), weights, torch.tensor(STARTS, dtype=torch.float64), E)[0])


def bootstrap(
    n: Sequence[float],
    d: Sequence[float],
    loss: Sequence[float],
    draws: int,
    generator: torch.Generator,
    E: float | None = None,
) -> list[Law]:
    """The law fitted to `draws` resamplings of the runs (with replacement): what another set of runs might have said.

    Each is fitted from the law of all runs, and from every twelfth start. A resampling that lacks the variety that
    `fit` asks for is drawn again. Errors as in `fit`, and below 10 runs: a resampling holds 63 % of them on average,
    and of 6 runs only those that are the same could be taken, so that an interval would be empty.
    """
    log_n, log_d, log_loss = _checked(n, d, loss, E)
    if len(loss) < 10:
        raise ValueError(
            f"a bootstrap needs at least 10 runs, not {len(loss)}: of fewer, most resamplings lack variety"
        )
    weights = []
    while len(weights) < draws:
        counts = torch.bincount(torch.randint(len(loss), (len(loss),), generator=generator), minlength=len(loss))
        there = counts > 0
        if there.sum() >= 6 and len(log_n[there].unique()) > 1 and len(log_d[there].unique()) > 1:
            weights.append(counts.double())
    starts, all_runs = torch.tensor(STARTS, dtype=torch.float64), torch.ones(1, len(loss), dtype=torch.float64)
    whole = _solve(log_n, log_d, log_loss, all_runs, starts, E)  # (1, 5)
    return list(map(_law, _solve(log_n, log_d, log_loss, torch.stack(weights), torch.cat((whole, starts[::12])), E)))


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of bootstrapped values: a percentile interval."""
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.tensor(values, dtype=torch.float64).quantile(tails).tolist()
    return low, high


def _checked(n, d, loss, E) -> list[Tensor]:
    if not len(n) == len(d) == len(loss) >= 6:
        raise ValueError(f"a law of 5 unknowns needs at least 6 runs; got {len(n)} n, {len(d)} d, {len(loss)} losses")
    if min(*n, *d, *loss) <= 0 or not all(map(math.isfinite, [*n, *d, *loss])):
        raise ValueError("sizes, tokens and losses must all be finite and above 0")
    if len(set(n)) < 2 or len(set(d)) < 2:
        raise ValueError("vary both the size and the data: with one value of either, its exponent cannot be told")
    if E is not None and not 0 < E < min(loss):
        raise ValueError(f"E={E} must be above 0 and below every loss ({min(loss):g}): no model beats the entropy")
    return [torch.tensor(x, dtype=torch.float64).log() for x in (n, d, loss)]


def _law(theta: Tensor) -> Law:
    e, a, b, alpha, beta = theta.tolist()
    return Law(math.exp(e), math.exp(a), math.exp(b), alpha, beta)


def _solve(log_n, log_d, log_loss, weights, starts, E=None, steps: int = 200) -> Tensor:
    """The best solution of all starts for each row of weights (draws, R): (draws, 5)."""
    draws = len(weights)
    theta = starts.repeat(draws, 1)  # (M, 5)
    if E is not None:
        theta[:, 0] = math.log(E)
    weights = weights.repeat_interleave(len(starts), 0)  # (M, R)
    damping = torch.ones(len(theta), 1, dtype=torch.float64)
    cost = _cost(theta, log_n, log_d, log_loss, weights)  # (M,)
    for _ in range(steps):
        step = _step(theta, log_n, log_d, log_loss, weights, damping, E is not None)
        new_cost = _cost(theta + step, log_n, log_d, log_loss, weights)
        better = (new_cost < cost)[:, None]
        theta, cost = torch.where(better, theta + step, theta), torch.minimum(cost, new_cost)
        damping = torch.where(better, damping / 3, damping * 2).clamp(1e-12, 1e12)
    best = cost.view(draws, -1).argmin(1) + torch.arange(draws) * len(starts)
    return theta[best]


def _terms(theta, log_n, log_d):
    """The logarithms of the law's three terms, (M, R, 3); their logsumexp is log L."""
    e, a, b, alpha, beta = theta[:, :, None].unbind(1)  # each (M, 1)
    return torch.stack((e.expand(-1, len(log_n)), a - alpha * log_n, b - beta * log_d), dim=-1)


def _cost(theta, log_n, log_d, log_loss, weights):
    size = (_terms(theta, log_n, log_d).logsumexp(-1) - log_loss).abs()  # (M, R)
    huber = torch.where(size < DELTA, size**2 / 2, DELTA * (size - DELTA / 2))
    held = theta.abs().amax(1) < 300  # A and B are floats; a term that falls so steeply is one that the runs lack
    return torch.where(held, (weights * huber).sum(1), math.inf).nan_to_num(math.inf)


def _step(theta, log_n, log_d, log_loss, weights, damping, E_is_known):
    """Solve (J^T W J + damping diag) step = -J^T W residual, where W makes the squares a Huber loss."""
    terms = _terms(theta, log_n, log_d)
    residual = terms.logsumexp(-1) - log_loss  # (M, R)
    share = terms.softmax(-1)  # (M, R, 3): each term's part of L, which is d log L / d log term
    J = torch.cat((share, -share[..., 1:2] * log_n[:, None], -share[..., 2:3] * log_d[:, None]), dim=-1)  # (M, R, 5)
    if E_is_known:
        J[..., 0] = 0  # no step in its direction
    W = weights * (DELTA / residual.abs().clamp_min(1e-12)).clamp_max(1.0)
    JW = J * W[..., None]
    H = JW.mT @ J  # (M, 5, 5)
    H = H + torch.diag_embed(damping * H.diagonal(dim1=1, dim2=2) + 1e-15)
    return torch.linalg.solve(H, -(JW.mT @ residual[..., None])).squeeze(-1)


def as_table(laws: Sequence[Law]) -> Tensor:
    """(len(laws), 5) float64: E, A, B, alpha, beta of each, to take intervals of."""
    return torch.tensor([astuple(law) for law in laws], dtype=torch.float64)
