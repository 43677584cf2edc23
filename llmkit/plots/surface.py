"""The surface of a scaling law, to be turned and hovered over by Plotly; where nothing runs, a map of it as a PNG."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from IPython.display import display
from matplotlib.figure import Figure

from llmkit.plots import NEXT, TRUTH, short
from llmkit.scaling import Law

TURN = "(Here a running notebook has the surface, to be turned.)"
FINE = 40  # sizes, and amounts of text, at which the surface is drawn


@dataclass(frozen=True)
class Chart:
    """A map as a PNG for everywhere, and below it what Plotly draws in a running notebook, offline too. Two outputs: of
    one with both JupyterLab would show the PNG alone."""

    live: go.Figure
    still: Figure
    said: str

    def bundles(self) -> list[dict]:
        png = io.BytesIO()
        self.still.savefig(png, format="png", dpi=100)
        return [
            {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": self.said},
            {"application/vnd.plotly.v1+json": json.loads(self.live.to_json()), "text/plain": TURN},
        ]

    def _ipython_display_(self) -> None:
        for bundle in self.bundles():
            display(bundle, raw=True)


def loss_surface(law: Law, runs: Sequence[tuple[float, float, float]]) -> Chart:
    """The loss over sizes N and tokens D, measured runs (n, d, loss) as points, and the path of the best N and D for a
    growing budget as a line, from an eighth of the runs' smallest N and D to eight times their largest."""
    measured = np.array(runs, dtype=float).T  # (3, R): n, d, loss
    sizes, tokens = (np.geomspace(x.min() / 8, x.max() * 8, FINE) for x in measured[:2])
    z = np.array([[law.loss(n, d) for n in sizes] for d in tokens])  # (FINE, FINE)
    best = [law.optimal(flops) for flops in 6 * np.geomspace(sizes[0] * tokens[0], sizes[-1] * tokens[-1], 80)]
    best = [(n, d, law.loss(n, d)) for n, d in best if sizes[0] <= n <= sizes[-1] and tokens[0] <= d <= tokens[-1]]
    drawn = sizes, tokens, z, measured, np.array(best).reshape(-1, 3).T
    said = (
        f"The law's loss over {short(sizes[0])} to {short(sizes[-1])} parameters and {short(tokens[0])} to "
        f"{short(tokens[-1])} tokens falls from {z.max():.2f} to {z.min():.2f} nats/token; {len(runs)} runs on it."
    )
    return Chart(_turnable(*drawn), _map(*drawn), said)


def _turnable(sizes, tokens, z, measured, best) -> go.Figure:
    figure = go.Figure(go.Surface(x=sizes, y=tokens, z=z, colorscale="Viridis_r", opacity=0.85))
    points = {"mode": "markers", "marker": {"size": 4, "color": NEXT, "line": {"color": "black", "width": 1}}}
    path = {"mode": "lines", "line": {"color": TRUTH, "width": 6}}
    for name, (n, d, loss), style in (("runs", measured, points), ("best N and D", best, path)):
        figure.add_scatter3d(x=n, y=d, z=loss, name=name, **style)
    figure.update_traces(hovertemplate="N = %{x:.3s}, D = %{y:.3s}<br>%{z:.3f} nats/token<extra></extra>")
    figure.update_traces(colorbar={"title": "loss"}, selector={"type": "surface"})
    log = {"type": "log", "exponentformat": "SI", "dtick": 1}
    axes = {"xaxis": log | {"title": "parameters N"}, "yaxis": log | {"title": "tokens D"}}
    scene = axes | {"zaxis": {"title": "loss (nats/token)"}, "camera": {"eye": {"x": 1.5, "y": 1.5, "z": 0.7}}}
    figure.update_layout(scene=scene, height=520, margin={"l": 0, "r": 0, "t": 10, "b": 0}, legend={"x": 0, "y": 1})
    return figure


def _map(sizes, tokens, z, measured, best) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    filled = axes.contourf(sizes, tokens, z, levels=20, cmap="viridis_r")
    figure.colorbar(filled, label="loss (nats/token)")
    axes.plot(*best[:2], color=TRUTH, linewidth=2.5, label="best N and D")
    axes.plot(*measured[:2], "o", color=NEXT, markeredgecolor="black", markersize=5, label="runs")
    axes.set(xscale="log", yscale="log", xlabel="parameters N", ylabel="tokens D")
    axes.legend(loc="upper left", fontsize=8, framealpha=0.9)
    return figure
