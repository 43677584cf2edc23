"""Lesson 06's clinic: short runs of the model `nano`, a healthy one and others with one fault each.

    python -m course.records.broken        writes broken.json beside this file

All start from the same weights (seed 0) and read the same batches in the same order. Kept of each: the loss and the
gradient's norm every few steps, and at five moments what it wastes on documents never trained on, how far each part of
the model has moved, and what it writes.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch

from llmkit import checkpoint
from llmkit.config import preset
from llmkit.data import IGNORE_INDEX, Batch, PackedBatches, encode_documents
from llmkit.evaluate import complete, excess_loss
from llmkit.model import Transformer
from llmkit.optim import warmup_cosine
from llmkit.train import fit
from llmkit.widgets.clinic import Case, Shot
from llmkit.world import KINDS, World

FILE = Path(__file__).with_suffix(".json")
EVERY = 2  # steps between two losses that are kept


class Recipe(NamedTuple):
    """How a run is made; every fault is one field changed."""

    lr: float = 6e-3
    warmup: float = 0.05  # share of the steps
    ahead: int = 1  # how far ahead of what is read the targets stand
    same_batch: bool = False
    frozen: str = ""  # the part of the model that gets no gradient


HEALTHY = "healthy"
RECIPES = {  # in the order in which the clinic shows them: the quiet ones last
    HEALTHY: Recipe(),
    "learning rate too high": Recipe(lr=3e-2),
    "the same batch at every step": Recipe(same_batch=True),
    "targets two ahead": Recipe(ahead=2),
    "learning rate too low": Recipe(lr=3e-4),
    "targets not moved: each is what is read": Recipe(ahead=0),
    "embedding frozen": Recipe(frozen="embedding"),
    "no warm-up": Recipe(warmup=0),
    "one layer frozen": Recipe(frozen="layer 1"),
}
SIGNS = {
    "learning rate too high": (
        "The loss falls at first, then stands still for fifty steps and comes down late and little. Every part has "
        "moved two to four times as far as in the healthy run, while the gradient is small. It does not blow up: "
        "AdamW's steps have one size, however large the gradient, and the norms inside the model do the rest."
    ),
    "the same batch at every step": (
        "The loss falls below the floor from a right beginning, and the gradient dies out: the batch is known by "
        "heart. On new documents it gets worse and worse, and it recites what it has read."
    ),
    "targets two ahead": (
        "The first loss is right and the last stays high: two tokens ahead is less certain than one. Asked for the "
        "next token it is worse still."
    ),
    "learning rate too low": (
        "The curve is smooth and much too flat. The gradient is as large as it should be, but every part has moved "
        "only a small share of the way."
    ),
    "targets not moved: each is what is read": (
        "The loss falls below the floor, and its first value is below ln V = 6.93 already. On new documents it is "
        "worse than a guess, and it writes one token again and again."
    ),
    "embedding frozen": (
        "The loss is still at 6 in the end, while all layers move as usual and the embedding not at all. Its rows, "
        "random and short, are the output weights as well (they are tied): what the layers find is said but faintly."
    ),
    "no warm-up": (
        "A quiet one. The run is ahead over the first twenty steps, is overtaken, and stays behind to the end (by 0.4 "
        "to 0.9 nats in three seeds). Only the comparison with the healthy curve, or with the learning rates, tells."
    ),
    "one layer frozen": (
        "The curve does not tell: in so short a run three layers learn as much as four, and this one is even a little "
        "ahead. What tells is who has moved: layer 1 has not, at all."
    ),
}


def shifted(batch: Batch, ahead: int) -> Batch:
    """The batch with targets `ahead` places after what is read: 1 is right, 0 is what is read itself."""
    if ahead == 0:
        return batch._replace(targets=batch.idx)
    rest = torch.full_like(batch.targets[:, : ahead - 1], IGNORE_INDEX)
    return batch._replace(targets=torch.cat([batch.targets[:, ahead - 1 :], rest], 1))


def parts_of(model: Transformer) -> dict[str, list[torch.Tensor]]:
    """The weights of each part of a model: the embedding and every layer."""
    layers = {f"layer {i}": list(block.parameters()) for i, block in enumerate(model.blocks)}
    return {"embedding": list(model.tok_emb.parameters()), **layers}


def frozen_in(model: Transformer, part: str) -> Transformer:
    """The model, with no gradient for `part` of it."""
    for weight in parts_of(model).get(part, []):
        weight.requires_grad_(False)
    return model


def train(recipe: Recipe, packed: PackedBatches, steps: int, eval_fn, eval_every: int) -> list:
    """Records of a `nano` trained by the recipe."""
    torch.manual_seed(0)
    model = frozen_in(Transformer(preset("nano")), recipe.frozen)

    def batches(step: int) -> Batch:
        return shifted(packed(0 if recipe.same_batch else step), recipe.ahead)

    schedule = warmup_cosine(steps, round(recipe.warmup * steps))
    return fit(model, batches, steps, lr=recipe.lr, schedule=schedule, eval_fn=eval_fn, eval_every=eval_every)


class Witness:
    """An eval_fn that keeps a shot of the model at each call."""

    def __init__(self, tokenizer, documents, eval_every: int):
        self.tokenizer, self.eval_every, self.shots = tokenizer, eval_every, []
        self.documents = {kind: [d for d in documents if d.kind == kind] for kind in KINDS}
        torch.manual_seed(0)
        self.first = parts_of(Transformer(preset("nano")))  # what every run starts from

    def __call__(self, model) -> dict[str, float]:
        excess = {k: round(excess_loss(model, self.tokenizer, d).excess, 3) for k, d in self.documents.items()}
        moved = {name: round(distance(now, self.first[name]), 3) for name, now in parts_of(model).items()}
        sample = "One" + complete(model, self.tokenizer, ["One"], 30)[0]
        step = self.eval_every * (len(self.shots) + 1)
        self.shots.append({"step": step, "excess": excess, "moved": moved, "sample": sample})
        return excess


def distance(now, first) -> float:
    """How far weights are from where they began, in lengths of the first ones."""
    squared = [sum(float((tensor**2).sum()) for tensor in tensors) for tensors in (
        [a.detach() - b.detach() for a, b in zip(now, first, strict=True)], [b.detach() for b in first])]  # fmt: skip
    return (squared[0] / squared[1]) ** 0.5


def make(steps: int = 200, n_documents: int = 100, n_train: int = 8000, say=print) -> dict:
    """Train and look at every run: the record."""
    world, (_, tokenizer) = World(0), checkpoint.load("draft")
    length, every = preset("nano").context_length, steps // 5
    stream = encode_documents((d.text for d in world.documents(n_train, seed=1)), tokenizer)
    held_out = world.documents(n_documents, seed=2)
    sizes = [len(tokenizer.encode(d.text)) + 1 for d in held_out]
    fitting = [d for d, size in zip(held_out, sizes, strict=True) if size <= length]
    runs = {}
    for fault, recipe in RECIPES.items():
        witness = Witness(tokenizer, fitting, every)
        records = train(recipe, PackedBatches(stream, 8, length, seed=0), steps, witness, every)
        kept = [r for r in records if r.step == 1 or r.step % EVERY == 0]
        runs[fault] = {
            "steps": [r.step for r in kept],
            "losses": [round(r.loss, 4) for r in kept],
            "grad_norms": [round(r.grad_norm, 4) for r in kept],
            "shots": witness.shots,
        }
        say(f"{fault}: {records[0].loss:.2f} to {records[-1].loss:.2f}, {witness.shots[-1]}")
    floor = sum(d.nats for d in held_out) / sum(sizes)
    return {"command": "python -m course.records.broken", "floor": round(floor, 4), "runs": runs}


def cases(record: dict) -> tuple[Case, list[Case]]:
    """The healthy run and the broken ones, as the clinic shows them."""
    made = {}
    for fault, run in record["runs"].items():
        shots = [Shot(**shot) for shot in run["shots"]]
        made[fault] = Case(fault, SIGNS.get(fault, ""), run["steps"], run["losses"], run["grad_norms"], shots)
    return made.pop(HEALTHY), list(made.values())


def load() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), separators=(",", ":")) + "\n", encoding="utf-8")
