"""Lesson 06: does it matter that packed documents look into their neighbours? Trained with the mask and without it.

    python -m course.records.packing       writes packing.json beside this file

A `nano` reads rows of 256 tokens that hold five documents in the mean. With the mask every place sees its own document
only; without it the causal mask is left alone. Same weights to start from and same batches in each pair; three seeds.
Measured on documents never trained on, each alone in its row, as a model is used: the excess over the floor, by kind.
"""

import json
from pathlib import Path

import torch

from llmkit import checkpoint
from llmkit.config import preset
from llmkit.data import PackedBatches, encode_documents
from llmkit.evaluate import excess_loss
from llmkit.model import Transformer
from llmkit.optim import muon
from llmkit.train import fit
from llmkit.world import KINDS, World

FILE = Path(__file__).with_suffix(".json")
LENGTH, ROWS, LAST = 256, 8, 20  # tokens in a row; rows in a batch; steps whose mean is the training loss in the end
ALL, TRAINED = "all", "training"


def train(stream, doc_mask: bool, steps: int, seed: int) -> tuple[Transformer, float]:
    """A `nano` that has read `steps` batches of packed rows, kept apart or not, and its training loss in the end."""
    torch.manual_seed(seed)
    model = Transformer(preset("nano", context_length=LENGTH))
    batches = PackedBatches(stream, ROWS, LENGTH, seed, doc_mask=doc_mask)
    records = fit(model, batches, steps, optimizer=muon(model, lr=5e-3))
    return model.eval(), sum(r.loss for r in records[-LAST:]) / len(records[-LAST:])


def measured(model: Transformer, tokenizer, documents) -> dict[str, float]:
    """Excess in nats/token, by kind and over all."""
    groups = {kind: [d for d in documents if d.kind == kind] for kind in KINDS} | {ALL: documents}
    return {kind: round(excess_loss(model, tokenizer, some).excess, 4) for kind, some in groups.items()}


def make(steps: int = 240, seeds=(0, 1, 2), n_train: int = 16_000, n_documents: int = 400, say=print) -> dict:
    """Train and measure pairs of runs: the record."""
    world, (_, tokenizer) = World(0), checkpoint.load("draft")
    stream = encode_documents((d.text for d in world.documents(n_train, seed=1)), tokenizer)
    held_out, runs = world.documents(n_documents, seed=2), []
    for seed in seeds:
        for doc_mask in (True, False):
            model, loss = train(stream, doc_mask, steps, seed)
            excess = measured(model, tokenizer, held_out)
            runs.append({"doc_mask": doc_mask, "seed": seed, "loss": round(loss, 4), "excess": excess})
            say(runs[-1])
    recipe = {"steps": steps, "rows": ROWS, "length": LENGTH, "n_documents": n_documents}
    return {"command": "python -m course.records.packing", **recipe, "runs": runs}


def without_minus_with(record: dict) -> dict[str, list[float]]:
    """What leaving the mask out costs for each seed: in the loss on the rows trained on, and in excess by kind."""
    runs = {(run["seed"], run["doc_mask"]): {TRAINED: run["loss"], **run["excess"]} for run in record["runs"]}
    seeds = sorted({seed for seed, _ in runs})
    return {name: [runs[s, False][name] - runs[s, True][name] for s in seeds] for name in (TRAINED, *KINDS, ALL)}


def load() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), separators=(",", ":")) + "\n", encoding="utf-8")
