"""Lesson 07's long experiment: one family of models, 24 to 128 wide, on functions alone and on the town's whole text.

    python -m course.records.scaling            trains what is missing (some 25 minutes of one core), goes on where it
    python -m course.records.scaling town-64    was stopped, and writes scaling.json beside this file; or only some

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

import numpy as np
import torch

from llmkit import checkpoint
from llmkit.config import ModelConfig, preset
from llmkit.cost import parameters
from llmkit.data import PackedBatches, encode_documents
from llmkit.model import Transformer
from llmkit.optim import muon, warmup_stable_decay
from llmkit.train import document_nats, fit
from llmkit.world import World

FILE = Path(__file__).with_suffix(".json")
WORK = Path(__file__).resolve().parents[2] / "work" / "scaling"
ROWS, T, WARMUP = 4, 256, 16  # a step reads ROWS x T tokens
TEXTS = {"functions": (("function",), 27_000), "town": (None, 84_000)}  # kinds, documents: none is read twice
SHORT, LONG = (64, 128, 256, 512), (128, 256, 512, 1024)  # steps
RUNS = [  # text, d_model, seed, steps
    *(("town", d_model, 0, LONG) for d_model in (32, 48, 64, 96, 128)),
    *(("functions", d_model, 0, SHORT) for d_model in (24, 32, 48, 64, 96)),
    *(("functions", 32, seed, SHORT[:3]) for seed in (1, 2)),
]
HELD_OUT = 128  # never part of a fit


def config(d_model: int) -> ModelConfig:
    """The member of the family that is this wide."""
    return preset("tiny", d_model=d_model, head_dim=d_model // 4, d_ff=11 * d_model // 4)


def learning_rate(d_model: int) -> float:
    """Narrow models need larger steps: of 0.004, 0.008, 0.016 and 0.03, 0.016 was best at 24 and 0.008 at 64."""
    return 0.5 / d_model


class Examination:
    """`n` held-out documents, the same for every model, with what each kind costs at least."""

    def __init__(self, world: World, tokenizer, kinds: tuple[str, ...] | None, n: int = 500):
        self.documents, self.eos_id = world.documents(n, seed=2, kinds=kinds), tokenizer.eos_id
        self.ids = [tokenizer.encode(d.text) for d in self.documents]
        self.floor = self.by_kind([d.nats for d in self.documents])

    def by_kind(self, nats: Sequence[float]) -> dict[str, float]:
        """nats/token: of all documents, and of each kind."""
        sums = {}
        for document, ids, cost in zip(self.documents, self.ids, nats, strict=True):
            for kind in ("all", document.kind):
                total, n_tokens = sums.get(kind, (0.0, 0))
                sums[kind] = total + cost, n_tokens + len(ids) + 1
        return {kind: round(total / n_tokens, 5) for kind, (total, n_tokens) in sorted(sums.items())}

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


def stream(world: World, tokenizer, text: str):
    """The training tokens of a text, written once."""
    kinds, n = TEXTS[text]
    file = WORK / f"{text}.npy"
    if not file.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        np.save(file, encode_documents((d.text for d in world.documents(n, seed=1, kinds=kinds)), tokenizer))
    return np.load(file)


def make(text: str, d_model: int, seed: int, steps: Sequence[int], tokens, examine: Examination) -> None:
    """Trains one row of RUNS into a file of its own, so that several can be made side by side."""
    folder, runs = WORK / f"{text}-{d_model}-{seed}", []
    for run in points(d_model, steps, tokens, examine, folder, seed):
        runs.append({"text": text, **run})
        print(text, d_model, seed, run["d"], run["loss"]["all"], run["trunk"]["all"], flush=True)
        (folder / "runs.json").write_text(json.dumps(runs), encoding="utf-8")


def gather(examinations: dict[str, Examination]) -> dict:
    """The record: all that has been made so far."""
    files = [WORK / f"{text}-{d_model}-{seed}" / "runs.json" for text, d_model, seed, _ in sorted(RUNS)]
    runs = [run for file in files if file.exists() for run in json.loads(file.read_text(encoding="utf-8"))]
    recipe = {"rows": ROWS, "context_length": T, "warmup": WARMUP, "lr": "0.5 / d_model", "held_out": HELD_OUT}
    floors = {text: examine.floor for text, examine in examinations.items()}
    return {"command": "python -m course.records.scaling", **recipe, "floor": floors, "runs": runs}


def load() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


def train(chosen: Sequence[str] = ()) -> dict:
    """Train the rows of RUNS that are chosen, by text ("town"), size ("64") or both ("town-64"); none: all. Rows that
    are there are left as they are. The record of all that has been made so far."""
    world, (_, tokenizer) = World(0), checkpoint.load("draft")
    examinations = {text: Examination(world, tokenizer, kinds) for text, (kinds, _) in TEXTS.items()}
    for text, d_model, seed, steps in RUNS:
        done = WORK / f"{text}-{d_model}-{seed}" / "runs.json"
        if not chosen or {text, str(d_model), f"{text}-{d_model}"} & set(chosen):
            if not done.exists() or len(json.loads(done.read_text(encoding="utf-8"))) < len(steps):
                make(text, d_model, seed, steps, stream(world, tokenizer, text), examinations[text])
    return gather(examinations)


if __name__ == "__main__":
    FILE.write_text(json.dumps(train(sys.argv[1:]), separators=(",", ":")) + "\n", encoding="utf-8")
