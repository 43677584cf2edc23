"""Lesson 08's second experiment: dense against sparse where there is more to remember than the MLPs have room for.

    python -m course.records.knowledge          writes knowledge.json beside this file
    python -m course.records.knowledge 1 2      only these seeds, beside what the file already holds

Biographies of five towns, 500 residents with six facts each, and small models: two layers of `nano`'s width. Their MLPs
are narrow ("dense", 32 units), or a choice of 2 of 8 or of 32 experts of 16 units (the dense one's work), or as wide as
all 32 experts together ("wide"). Same text, same order in each seed; Muon; the balance loss of each layer.

The text is a fair draw from five towns, so the least possible loss of a biography is that of a reader who knows all of
them, P = mean over towns of P(text | town). A stranger, who reads perfectly and knows nobody, is the other end.
"""

import json
import math
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from llmkit import checkpoint
from llmkit.config import ModelConfig, MoEConfig, preset
from llmkit.cost import forward_flops, parameters
from llmkit.data import PackedBatches, encode_documents
from llmkit.evaluate import excess_loss
from llmkit.model import Transformer
from llmkit.moe import balanced
from llmkit.optim import muon
from llmkit.train import fit, next_token_loss
from llmkit.world import World

FILE = Path(__file__).with_suffix(".json")
N_TOWNS, ROWS, LENGTH, STEPS, LR, BALANCE = 5, 8, 256, 1800, 5e-3, 0.01
SEEDS, KINDS = (0, 1, 2), ("bio",)
CASES = {  # what differs from `nano` of two layers
    "dense": dict(d_ff=32),
    "2 of 8": dict(moe=MoEConfig(n_expert=8, n_active=2, d_expert=16)),
    "2 of 32": dict(moe=MoEConfig(n_expert=32, n_active=2, d_expert=16)),
    "wide": dict(d_ff=32 * 16),
}


class Biography(NamedTuple):
    """A text, and what it costs a reader who knows all the towns, in nats."""

    text: str
    nats: float


class Towns:
    """What all runs share: text to learn, and biographies to be judged by."""

    def __init__(self, n_documents: int = 84_000, n_judged: int = 500):
        self.worlds, (_, self.tokenizer) = [World(seed) for seed in range(N_TOWNS)], checkpoint.load("draft")
        self.stream = encode_documents(self._texts(n_documents, seed=1), self.tokenizer)
        self.judged = [Biography(text, self._nats(text)) for text in self._texts(n_judged, seed=2)]

    def _texts(self, n: int, seed: int) -> list[str]:
        texts = [d.text for world in self.worlds for d in world.documents(n // N_TOWNS, seed, KINDS)]
        return random.Random(seed).sample(texts, len(texts))  # towns mixed

    def _nats(self, text: str) -> float:
        logprobs = torch.tensor([-world.nats(text, KINDS) for world in self.worlds], dtype=torch.float64)
        return math.log(N_TOWNS) - logprobs.logsumexp(0).item()

    def per_token(self, nats_of) -> float:
        """The mean of nats_of(biography) over the judged ones, in nats/token."""
        n_tokens = sum(len(self.tokenizer.encode(b.text)) + 1 for b in self.judged)
        return round(sum(map(nats_of, self.judged)) / n_tokens, 4)


def config(case: str) -> ModelConfig:
    return preset("nano", n_layer=2, context_length=LENGTH, **CASES[case])


def run(case: str, seed: int, towns: Towns, steps: int = STEPS, every: int = 200) -> dict:
    """Train and measure one model: an entry of the record."""
    torch.manual_seed(seed)
    model = Transformer(config(case))
    records = fit(
        model,
        PackedBatches(towns.stream, ROWS, LENGTH, seed),
        steps,
        optimizer=muon(model, LR),
        loss_fn=balanced(next_token_loss, BALANCE, by_layer=True) if model.config.moe else next_token_loss,
        eval_fn=lambda model: asdict(excess_loss(model, towns.tokenizer, towns.judged)),
        eval_every=every,
    )
    losses = [[r.step, round(r.evals["loss"], 4)] for r in records if r.evals]
    excess = [round(records[-1].evals[name], 4) for name in ("excess", "low", "high")]
    return {"case": case, "seed": seed, "loss": losses, "excess": excess}


def sizes(case: str) -> dict:
    """Parameters, and the forward pass's FLOPs a token in a text of LENGTH."""
    flops = forward_flops(config(case), LENGTH).total / LENGTH
    return {"parameters": parameters(config(case)).total, "flops": round(flops)}


def make(seeds=SEEDS, towns: Towns | None = None, say=print, **options) -> dict:
    """Run every case with these seeds: the record."""
    towns, stranger, runs = towns or Towns(), World(0, stranger=True), []
    for seed in seeds:
        for case in CASES:
            runs.append(run(case, seed, towns, **options))
            say(case, seed, f"excess {runs[-1]['excess']}")
    about = {"command": "python -m course.records.knowledge", "rows": ROWS, "length": LENGTH, "n_towns": N_TOWNS}
    about |= {"floor": towns.per_token(lambda b: b.nats)}
    about |= {"stranger": towns.per_token(lambda b: stranger.nats(b.text, KINDS))}
    return about | {"sizes": {case: sizes(case) for case in CASES}, "runs": runs}


def gaps(record: dict, worse: str, better: str) -> list[float]:
    """By how much the excess of one case is above another's, for each seed, in nats/token."""
    excess = {(r["case"], r["seed"]): r["excess"][0] for r in record["runs"]}
    return [excess[worse, seed] - excess[better, seed] for case, seed in excess if case == worse]


def stored(record: dict, case: str) -> list[float]:
    """What share of the knowledge, all that a stranger pays above the floor, each run of a case has stored."""
    knowledge = record["stranger"] - record["floor"]
    return [1 - r["excess"][0] / knowledge for r in record["runs"] if r["case"] == case]


def load() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    wanted = tuple(map(int, sys.argv[1:])) or SEEDS
    record = make(wanted)
    kept = [r for r in load()["runs"] if r["seed"] not in wanted] if FILE.exists() else []
    record["runs"] = sorted(kept + record["runs"], key=lambda r: (list(CASES).index(r["case"]), r["seed"]))
    FILE.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")
