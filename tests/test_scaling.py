"""scaling: the published law recovered from its own losses, noise and outliers, optima found by brute force."""

import math

import pytest
import torch

from llmkit.scaling import Law, as_table, bootstrap, fit, interval, isoflop

CHINCHILLA = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)  # arXiv 2203.15556, approach 3
GRID = [(n, d) for n in (5e7, 2e8, 1e9, 5e9, 1.5e10) for d in (1e9, 5e9, 2e10, 1e11, 4e11)]
N, D = zip(*GRID, strict=True)


def losses(noise: float = 0.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    factors = (noise * torch.randn(len(GRID), generator=generator, dtype=torch.float64)).exp().tolist()
    return [CHINCHILLA.loss(n, d) * factor for (n, d), factor in zip(GRID, factors, strict=True)]


def test_the_published_law_is_recovered_from_its_own_losses():
    law = fit(N, D, losses())
    assert law.E == pytest.approx(1.69, rel=1e-4)
    assert (law.alpha, law.beta) == pytest.approx((0.34, 0.28), rel=1e-3)
    assert (law.A, law.B) == pytest.approx((406.4, 410.7), rel=1e-2)


def test_one_spoiled_run_does_not_bend_the_law():
    spoiled = losses()
    spoiled[7] *= 1.5
    law = fit(N, D, spoiled)
    assert (law.E, law.alpha, law.beta) == pytest.approx((1.69, 0.34, 0.28), rel=0.01)


def test_the_bootstrap_interval_covers_the_truth_and_narrows_with_less_noise():
    def width(noise):
        laws = bootstrap(N, D, losses(noise), 40, torch.Generator().manual_seed(1))
        low, high = interval([law.E for law in laws])
        assert low < 1.69 < high
        return high - low

    assert width(0.002) < width(0.01) / 2


def test_interval_is_the_middle_of_the_values():
    assert interval(list(range(101)), 0.9) == pytest.approx((5, 95))


@pytest.mark.parametrize("flops", [1e19, 5.76e23])
def test_the_optimal_allocation_is_the_lowest_point_of_its_isoflop_curve(flops):
    n, d = CHINCHILLA.optimal(flops)
    assert 6 * n * d == pytest.approx(flops)
    sizes = [n * 1.01**i for i in range(-200, 201)]
    curve = isoflop(CHINCHILLA, flops, sizes)
    assert curve.index(min(curve)) == 200


def test_the_papers_exponents_of_the_optimum():
    """Table 2 of the paper, approach 3: N grows as C^0.46 and D as C^0.54 (0.45 and 0.55 from the rounded law)."""
    (n1, d1), (n2, d2) = CHINCHILLA.optimal(1e20), CHINCHILLA.optimal(1e24)
    assert math.log10(n2 / n1) / 4 == pytest.approx(0.46, abs=0.012)
    assert math.log10(d2 / d1) / 4 == pytest.approx(0.54, abs=0.012)


def test_tokens_to_reach_a_loss_undo_the_law_and_are_infinite_below_a_sizes_limit():
    assert CHINCHILLA.tokens_to_reach(CHINCHILLA.loss(1e9, 3e10), 1e9) == pytest.approx(3e10)
    assert CHINCHILLA.tokens_to_reach(1.7, 1e8) == math.inf


@pytest.mark.parametrize("served", [0, 1e11, 1e14])
def test_the_cheapest_model_to_train_and_serve_is_the_lowest_point_of_the_total_cost(served):
    loss = CHINCHILLA.loss(1e9, 2e10)
    n, d = CHINCHILLA.cheapest(loss, served)
    assert CHINCHILLA.loss(n, d) == pytest.approx(loss)
    sizes = [n * 1.003**i for i in range(-60, 61)]
    cost = [6 * size * CHINCHILLA.tokens_to_reach(loss, size) + 2 * size * served for size in sizes]
    assert cost.index(min(cost)) == 60


def test_who_serves_nothing_trains_the_compute_optimal_model_and_who_serves_more_a_smaller_one_for_longer():
    n, d = CHINCHILLA.optimal(1e21)
    loss = CHINCHILLA.loss(n, d)
    assert CHINCHILLA.cheapest(loss, 0) == pytest.approx((n, d), rel=1e-6)
    (some_n, some_d), (more_n, more_d) = CHINCHILLA.cheapest(loss, d), CHINCHILLA.cheapest(loss, 100 * d)
    assert more_n < some_n < n and more_d > some_d > d
    with pytest.raises(ValueError, match="no model reaches"):
        CHINCHILLA.cheapest(1.69, 0)


def test_a_known_E_is_kept_and_narrows_the_other_intervals():
    def width(E):
        laws = bootstrap(N, D, losses(0.01), 40, torch.Generator().manual_seed(1), E)
        low, high = interval([law.alpha for law in laws])
        return high - low

    law = fit(N, D, losses(), E=1.69)
    assert law.E == pytest.approx(1.69, rel=1e-12)
    assert (law.alpha, law.beta) == pytest.approx((0.34, 0.28), rel=1e-3)
    assert width(1.69) < 0.9 * width(None)
    with pytest.raises(ValueError, match="below every loss"):
        fit(N, D, losses(), E=2.5)


def test_laws_of_poor_runs_stay_within_what_floats_hold():
    steep = Law(E=1.0, A=1e-50, B=400.0, alpha=280.0, beta=0.3)  # as fitted where size made no difference
    assert steep.loss(1e6, 1e7) == pytest.approx(1 + 400 / 1e7**0.3)
    assert steep.tokens_to_reach(2.0, 1e6) == pytest.approx(400 ** (1 / 0.3))
    assert Law(1.0, 1.0, 1.0, 0.3, 0.001).tokens_to_reach(1.1, 1e9) == math.inf
    for law in (Law(1.0, 1.0, 1.0, -0.3, 0.3), Law(1.0, 1.0, 1.0, 0.3, -0.3)):
        with pytest.raises(ValueError, match="does not fall"):
            law.optimal(1e15)
        with pytest.raises(ValueError, match="does not fall"):
            law.cheapest(2.0, served=0)

    for law in (Law(1.0, 1e3, 1.0, 0.001, 0.001), Law(1.0, 1.0, 1e3, 0.001, 0.001), Law(1.0, 1.0, 1e-130, 0.3, 0.3)):
        with pytest.raises(ValueError, match="beyond what floats hold"):
            law.cheapest(1.5, served=1e9)
    with pytest.raises(ValueError, match="beyond what floats hold"):
        Law(1.0, 1e3, 1.0, 0.001, 0.001).optimal(1e15)
    assert Law(1.0, 1.0, 1.0, -100.0, 0.3).loss(1e9, 1e9) == math.inf


def test_the_cheapest_is_found_where_smaller_models_need_more_tokens_than_floats_hold():
    law = Law(E=1.0, A=1.0, B=1.0, alpha=0.3, beta=0.001)
    n, d = law.cheapest(1.5, served=0)
    assert law.loss(n, d) == pytest.approx(1.5)
    assert all(m / n * law.tokens_to_reach(1.5, m) / d > 1 for m in (0.99 * n, 1.01 * n))


def test_few_runs_tell_nothing_of_their_spread():
    with pytest.raises(ValueError, match="at least 10 runs, not 9"):
        bootstrap(N[:9], D[:9], losses()[:9], 5, torch.Generator())


def test_as_table_keeps_the_order_of_the_fields():
    assert as_table([CHINCHILLA]).tolist() == [[1.69, 406.4, 410.7, 0.34, 0.28]]


@pytest.mark.parametrize(
    "n, d, loss, says",
    [
        (N[:5], D[:5], [2.0] * 5, "at least 6 runs"),
        (N, D, [2.0] * 3, "at least 6 runs"),
        (N, D, [0.0] * 25, "above 0"),
        (N, D, [math.nan] * 25, "finite"),
        ([1e6] * 25, D, [2.0] * 25, "vary both"),
    ],
)
def test_too_little_to_fit_is_refused_with_what_to_do(n, d, loss, says):
    with pytest.raises(ValueError, match=says):
        fit(n, d, loss)
