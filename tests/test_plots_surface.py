"""The surface of a law: what Plotly draws is the law, its path is the best; the picture is there where nothing runs."""

import base64
import json

import numpy as np
import pytest

from llmkit.plots.surface import loss_surface
from llmkit.scaling import Law

LAW = Law(E=1.0, A=20.0, B=300.0, alpha=0.3, beta=0.4)
RUNS = [(n, d, LAW.loss(n, d) + 0.01) for n in (1e4, 4e4) for d in (1e5, 8e5)]


@pytest.fixture(scope="module")
def chart():
    return loss_surface(LAW, RUNS)


def numbers(values):
    """Plotly writes arrays as base64, or as lists."""
    if not isinstance(values, dict):
        return np.array(values)
    flat = np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return flat.reshape([int(n) for n in values["shape"].split(",")]) if "shape" in values else flat


def test_the_surface_is_the_law_and_the_points_are_the_runs(chart):
    surface, runs, best = chart.bundles()[1]["application/vnd.plotly.v1+json"]["data"]
    n, d, z = (numbers(surface[axis]) for axis in "xyz")
    np.testing.assert_allclose(z, [[LAW.loss(size, text) for size in n] for text in d])
    assert n.min() == pytest.approx(1e4 / 8) and d.max() == pytest.approx(8 * 8e5)
    np.testing.assert_allclose(np.stack([numbers(runs[axis]) for axis in "xyz"]).T, RUNS)
    for size, text, loss in np.stack([numbers(best[axis]) for axis in "xyz"]).T[::7]:
        assert all(LAW.loss(size * factor, text / factor) > loss for factor in (0.9, 1.1))  # for the same money


def test_the_bundle_is_whole_and_asks_nobody_for_anything(chart):
    still, live = chart.bundles()
    assert base64.b64decode(still["image/png"]).startswith(b"\x89PNG")
    assert live.keys() == {"application/vnd.plotly.v1+json", "text/plain"}  # beside a PNG JupyterLab would not draw it
    assert "http" not in json.dumps(live)
    low, high = (f"{LAW.loss(n, d):.2f}" for n, d in ((3.2e5, 6.4e6), (1250, 12_500)))
    assert f"from {high} to {low} nats/token; 4 runs" in still["text/plain"]


def test_a_law_whose_best_path_lies_elsewhere_has_none_on_the_surface():
    law = Law(E=1.0, A=1e-9, B=300.0, alpha=0.3, beta=0.4)  # size hardly counts: the best models are tiny
    best = loss_surface(law, RUNS).bundles()[1]["application/vnd.plotly.v1+json"]["data"][2]
    assert len(numbers(best["x"])) == 0
