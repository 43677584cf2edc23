"""scaling: the same minimum as scipy's L-BFGS on the paper's objective."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import huber, logsumexp

from llmkit.scaling import DELTA, STARTS, fit
from tests.test_scaling import D, N, losses


@pytest.mark.parametrize("seed", [0])
def test_the_fit_is_as_good_as_scipys(seed):
    noisy = losses(noise=0.01, seed=seed)
    n, d, target = np.log(N), np.log(D), np.log(noisy)

    def cost(theta):
        e, a, b, alpha, beta = theta
        predicted = logsumexp([np.full_like(n, e), a - alpha * n, b - beta * d], axis=0)
        return huber(DELTA, predicted - target).sum() * 1e3

    best = min((minimize(cost, start, method="L-BFGS-B") for start in STARTS[::12]), key=lambda result: result.fun)
    law = fit(N, D, noisy)
    ours = np.array([np.log(law.E), np.log(law.A), np.log(law.B), law.alpha, law.beta])
    assert cost(ours) <= best.fun * 1.001
    assert law.E == pytest.approx(np.exp(best.x[0]), rel=0.02)
