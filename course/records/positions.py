"""Lesson 05's long experiment: one small model under every scheme of positions, trained on 64 tokens, tested on 512.

    python -m course.records.positions        writes positions.json beside this file

Training: half of each batch are windows of the town's text; into the others a *needle* is put at three places,
"The word of the day is kite", and again at the end, as a question (passkey retrieval, arXiv 2305.16300). Tested, on
other text and at lengths never trained on: the loss by position, next to the exact floor, and how often a single needle
is found, by the length of the text and the depth of the needle. RoPE is tested again with its angles stretched, and no
further training.

Shapes: B rows, T positions.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from llmkit import checkpoint
from llmkit.config import RopeScaling, preset
from llmkit.data import Batch, PackedBatches, encode_documents, to_batch
from llmkit.logprobs import token_logprobs
from llmkit.model import Transformer
from llmkit.optim import muon
from llmkit.train import fit
from llmkit.world import World

FILE = Path(__file__).with_suffix(".json")
SCHEMES = ("learned", "sinusoidal", "rope", "alibi", "none")
SCALINGS = ("linear", "ntk", "yarn")
TRAINED, TESTED, BIN = 64, 512, 32  # tokens; positions to an average
LENGTHS, DEPTHS = (32, 64, 128, 256, 512), (0.0, 0.25, 0.5, 0.75, 1.0)  # of a haystack; of the needle in it
NEEDLE, WORDS = " The word of the day is", ("thing", "fruit", "box", "place", "weather")


class Haystacks:
    """Texts of the town and needles to hide in them; `seed` 1 is for training, every other one is held out."""

    def __init__(self, world: World, tokenizer, seed: int, n_documents: int):
        self.eos_id = tokenizer.eos_id
        texts = (d.text for d in world.documents(n_documents, seed))
        self.stream = encode_documents(texts, tokenizer).astype(np.int64)
        self.needle = tokenizer.encode(NEEDLE)
        words = [tokenizer.encode(f" {word}") for kind in WORDS for word in world.town.words[kind]]
        self.words = sorted({ids[0] for ids in words if len(ids) == 1})

    def row(self, rng: np.random.Generator, length: int, depths) -> list[int]:
        """`length` + 1 ids: a piece of text with a needle at each of `depths` (0: its beginning, 1: its end), then the
        question, and as the last id the answer."""
        needle = [*self.needle, self.words[rng.integers(len(self.words))]]
        size = length + 1 - (len(depths) + 1) * len(needle)
        start = rng.integers(len(self.stream) - size)
        places = [round(depth * size) for depth in sorted(depths)]
        pieces = np.split(self.stream[start : start + size], places)
        return [i for piece in pieces for i in (*piece.tolist(), *needle)]


def training_batches(hay: Haystacks, seed: int, batch_size: int = 16):
    """step -> Batch of `batch_size` rows of TRAINED tokens, half of them with needles."""
    n_needles = batch_size // 2
    packed = PackedBatches(hay.stream, batch_size - n_needles, TRAINED, seed, doc_mask=False)

    def batches(step: int) -> Batch:
        rng, text = np.random.default_rng([seed, step]), packed(step)
        rows = [hay.row(rng, TRAINED, rng.random(3)) for _ in range(n_needles)]
        needles = to_batch([(row, [True] * len(row)) for row in rows], TRAINED, hay.eos_id)
        return Batch(torch.cat([text.idx, needles.idx]), torch.cat([text.targets, needles.targets]))

    return batches


def train(scheme: str, hay: Haystacks, steps: int, seed: int = 0) -> Transformer:
    """A `nano` with positions of this scheme, its tables long enough for TESTED tokens."""
    torch.manual_seed(seed)
    model = Transformer(preset("nano", positions=scheme, context_length=TESTED))
    fit(model, training_batches(hay, seed), steps, optimizer=muon(model, lr=5e-3))
    return model.eval()


def rebuilt(model: Transformer, **switches) -> Transformer:
    """The same weights with other switches on which no weight depends: `rope_scaling`, `sliding_window`."""
    other = Transformer(replace(model.config, **switches))
    other.load_state_dict(model.state_dict())
    return other.eval()


def stretched(model: Transformer, kind: str, factor: float = TESTED / TRAINED) -> Transformer:
    """The same weights with RoPE's angles scaled for texts `factor` times as long."""
    return rebuilt(model, rope_scaling=RopeScaling(kind, factor, original_context=TRAINED))


def long_rows(hay: Haystacks, n: int) -> torch.Tensor:
    """(n, TESTED + 1) ids: documents one after the other, each row beginning with a new one."""
    begins, rows, at = np.flatnonzero(hay.stream == hay.eos_id), [], 0
    while len(rows) < n:
        rows.append(hay.stream[at : at + TESTED + 1])
        at = begins[np.searchsorted(begins, at + TESTED)]
    return torch.from_numpy(np.stack(rows))


def binned(values) -> list[float]:
    """(n, TESTED) -> the average of each BIN positions."""
    means = torch.as_tensor(values, dtype=torch.float64).view(-1, TESTED // BIN, BIN).mean((0, 2))
    return [round(x, 4) for x in means.tolist()]


def floor_by_position(world: World, tokenizer, rows: torch.Tensor) -> list[float]:
    """Nats/token that the best possible reader pays, by position in the rows."""
    return binned(np.stack([world.token_nats(row[1:].tolist(), tokenizer) for row in rows]))


@torch.no_grad()
def loss_by_position(model: Transformer, rows: torch.Tensor) -> list[float]:
    """Nats/token, by position in the rows; the whole row is one text to the model."""
    return binned(torch.cat([-token_logprobs(model(part[:, :-1]), part[:, 1:]) for part in rows.split(8)]))


@torch.no_grad()
def needles_found(model: Transformer, hay: Haystacks, n: int, lengths=LENGTHS, depths=DEPTHS) -> list[list[float]]:
    """Share of `n` needles found (the likeliest next token is the answer), by length and by depth."""
    rng, found = np.random.default_rng(0), []
    for length in lengths:
        rows = [[hay.row(rng, length, [depth]) for _ in range(n)] for depth in depths]
        rows = torch.tensor(rows)  # (depths, n, T + 1)
        best = torch.stack([model(part[:, :-1])[:, -1].argmax(-1) for part in rows])  # (depths, n)
        found.append([round(x, 4) for x in (best == rows[..., -1]).double().mean(1).tolist()])
    return found


def measured(model: Transformer, scheme: str, seed: int, hay: Haystacks, rows: torch.Tensor, n: int) -> dict:
    """One entry of the record."""
    about = {"scheme": scheme, "seed": seed}
    return about | {"loss": loss_by_position(model, rows), "needle": needles_found(model, hay, n)}


def make(steps: int = 500, seeds=(0, 1, 2, 3), n_rows: int = 16, n_needles: int = 20, say=print) -> dict:
    """Train and measure everything: the record."""
    world, (_, tokenizer) = World(0), checkpoint.load("draft")
    hay, held_out = Haystacks(world, tokenizer, 1, 8000), Haystacks(world, tokenizer, 2, 400)
    rows, runs = long_rows(held_out, n_rows), []
    for seed in seeds:
        for scheme in SCHEMES:
            model = train(scheme, hay, steps, seed)
            runs.append(measured(model, scheme, seed, held_out, rows, n_needles))
            say(scheme, seed, runs[-1]["loss"][::5], runs[-1]["needle"])
            if scheme == "rope":
                for kind in SCALINGS:
                    runs.append(measured(stretched(model, kind), kind, seed, held_out, rows, n_needles))
    recipe = {"steps": steps, "trained": TRAINED, "tested": TESTED, "bin": BIN, "lengths": LENGTHS, "depths": DEPTHS}
    recipe |= {"n_rows": n_rows, "n_needles": n_needles, "floor": floor_by_position(world, tokenizer, rows)}
    return {"command": "python -m course.records.positions", **recipe, "runs": runs}


def load() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), separators=(",", ":")) + "\n", encoding="utf-8")
