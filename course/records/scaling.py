"""Lesson 07's long experiment: one family of models, from 24 to 128 wide, each trained on 0.13 to 4.2 million tokens.

    python -m course.records.scaling 64        trains d_model 64, goes on where it was stopped; without a number: all
                                               (about 50 minutes of one core), results in scaling.json beside this file

One dial, d_model, sizes the model: 4 layers, 4 heads of d_model/4, as in the presets `nano` (64) and `tiny` (128).
Schedule: warm-up-stable-decay (arXiv 2404.06395). Each size has one long run at a constant learning rate, the trunk;
for each amount of data D a branch leaves it D/4 tokens earlier, and in it the learning rate falls to 0. So a point
costs a quarter of a run of its own, and equals it to the last bit. The trunk's own loss after D tokens is noted too: it
is what those get who read a curve instead of finishing their runs.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from llmkit import checkpoint
from llmkit.config import ModelConfig, preset
from llmkit.cost import parameters
from llmkit.data import PackedBatches
from llmkit.model import Transformer
from llmkit.optim import muon, warmup_stable_decay
from llmkit.pipeline import tokens
from llmkit.train import document_nats, fit
from llmkit.world import KINDS, World

FILE = Path(__file__).with_suffix(".json")
WORK = Path(__file__).resolve().parents[2] / "work" / "scaling"
ROWS, T, WARMUP, N_DOCUMENTS = 4, 256, 16, 84_000  # a step reads ROWS x T tokens; no document is read twice
STEPS = (128, 256, 512, 1024, 2048, 4096)
RUNS = [  # d_model, seed, how many of STEPS
    *((64, 0, 4), (32, 0, 4), (24, 0, 4), (48, 0, 4), (96, 0, 4), (128, 0, 4)),
    *((64, 1, 3), (32, 1, 3), (64, 2, 3), (32, 2, 3)),
    *((128, 0, 5), (64, 0, 5), (32, 0, 5), (24, 0, 5), (48, 0, 5), (96, 0, 5)),
]
HELD_OUT = 128  # never part of a fit


def config(d_model: int) -> ModelConfig:
    """The member of the family that is this wide."""
    return preset("tiny", d_model=d_model, head_dim=d_model // 4, d_ff=11 * d_model // 4)


def learning_rate(d_model: int) -> float:
    """Narrow models bear, and need, larger steps: tried for 24 (best 0.016) and 64 (best 0.008)."""
    return 0.5 / d_model


class Examination:
    """`n` held-out documents, the same for every model, with what each kind costs at least."""

    def __init__(self, world: World, tokenizer, n: int = 500):
        self.documents, self.eos_id = world.documents(n, seed=2), tokenizer.eos_id
        self.ids = [tokenizer.encode(d.text) for d in self.documents]
        self.floor = self.by_kind([d.nats for d in self.documents])

    def by_kind(self, nats: Sequence[float]) -> dict[str, float]:
        """nats/token: of all documents, and of each kind."""
        sums = {}
        for document, ids, cost in zip(self.documents, self.ids, nats, strict=True):
            for kind in ("all", document.kind):
                total, n_tokens = sums.get(kind, (0.0, 0))
                sums[kind] = total + cost, n_tokens + len(ids) + 1
        return {kind: round(sums[kind][0] / sums[kind][1], 5) for kind in ("all", *KINDS)}

    def __call__(self, model: Transformer) -> dict[str, float]:
        was_training = model.training
        nats = document_nats(model.eval(), self.ids, self.eos_id).tolist()
        model.train(was_training)
        return self.by_kind(nats)


def points(d_model: int, steps: Sequence[int], stream, examine: Examination, folder: Path, seed: int = 0) -> Iterator:
    """Yields a run for each of `steps`, in order; states are kept in `folder`, so a stopped run goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = PackedBatches(stream, ROWS, T, seed)

    def train(kind: str, until: int, schedule, begin: Path | None) -> tuple[Transformer, Path]:
        """The model after `until` steps, and where its state lies; it goes on from the state at `begin`."""
        torch.manual_seed(seed)
        model, state = Transformer(config(d_model)), folder / f"{kind}-{until}.safetensors"
        if begin and not state.exists():
            shutil.copy(begin, state)
        kept = dict(state_path=state, save_every=200, resume=True)
        fit(model, batches, until, optimizer=muon(model, learning_rate(d_model)), schedule=schedule, **kept)
        return model, state

    trunk = None
    for last in steps:
        decay, stable = last // 4, warmup_stable_decay(10**9, WARMUP, 0)
        _, trunk = train("trunk", last - decay, stable, trunk)
        decayed, _ = train("decayed", last, warmup_stable_decay(last, WARMUP, decay), trunk)
        still_high, trunk = train("trunk", last, stable, trunk)
        size = parameters(config(d_model))
        sizes = {"n": size.total, "n_embedding": size.embedding, "d": last * ROWS * T}
        yield {"d_model": d_model, "seed": seed, **sizes, "loss": examine(decayed), "trunk": examine(still_high)}


def make(d_model: int, seed: int, n_steps: int, stream, examine: Examination, say=print) -> None:
    """Trains one row of RUNS, or what is missing of it, into a file of its own: several can be made side by side."""
    folder, runs = WORK / f"{d_model}-{seed}", []
    file = folder / "runs.json"
    if file.exists() and len(json.loads(file.read_text(encoding="utf-8"))) >= n_steps:
        return
    for run in points(d_model, STEPS[:n_steps], stream, examine, folder, seed):
        runs.append(run)
        say(*(run[name] for name in ("d_model", "seed", "d")), run["loss"]["all"], run["trunk"]["all"], flush=True)
        file.write_text(json.dumps(runs), encoding="utf-8")


def gather(examine: Examination) -> dict:
    """The record: all that has been made so far."""
    files = [WORK / f"{d_model}-{seed}" / "runs.json" for d_model, seed in sorted({row[:2] for row in RUNS})]
    runs = [run for file in files if file.exists() for run in json.loads(file.read_text(encoding="utf-8"))]
    recipe = {"rows": ROWS, "context_length": T, "warmup": WARMUP, "lr": "0.5 / d_model", "held_out": HELD_OUT}
    command = "python -m course.records.scaling"
    return {"command": command, **recipe, "n_documents": len(examine.ids), "floor": examine.floor, "runs": runs}


def load() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


def main(chosen: list[int]) -> None:
    world, (_, tokenizer) = World(0), checkpoint.load("draft")
    stream = tokens(world, tokenizer, N_DOCUMENTS, WORK / "data")
    examine = Examination(world, tokenizer)
    for d_model, seed, n_steps in RUNS:
        if not chosen or d_model in chosen:
            make(d_model, seed, n_steps, stream, examine)
    FILE.write_text(json.dumps(gather(examine), separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
