"""The life of the model as one script: every checkpoint that the course ships is made by a stage of this file.

    python -m llmkit.pipeline base            train (or resume) one stage
    python -m llmkit.pipeline --list          the stages and their recipes

A stage writes its state and log to work/runs/<stage>, survives being killed at any moment (run it again, it goes on),
and ends by saving a checkpoint with a card: data, recipe, loss beside the floor for each kind, and scores with 95 %
intervals.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from llmkit import checkpoint, device, evaluate, tasks
from llmkit.config import preset
from llmkit.data import PackedBatches, load_tokens, save_tokens
from llmkit.model import Transformer
from llmkit.optim import muon, warmup_cosine
from llmkit.tokenizer import Tokenizer
from llmkit.train import Record, fit
from llmkit.world import KINDS, World

ROOT = Path(__file__).resolve().parents[1]
DATA_SEED, VALIDATION_SEED = 1, 2
N_TOKENIZER_DOCUMENTS = 20_000
N_VALIDATION_DOCUMENTS, N_QUESTIONS = 1_000, 300


@dataclass(frozen=True)
class Pretraining:
    """How a model is pretrained on the town; with batch and context this says how many tokens it reads."""

    preset: str
    steps: int
    batch_size: int
    context_length: int
    lr: float
    n_documents: int
    seed: int = 0

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_size * self.context_length


STAGES = {
    "draft": Pretraining("tiny", steps=4_000, batch_size=16, context_length=128, lr=5e-3, n_documents=160_000),
    "base": Pretraining("small", steps=4_000, batch_size=16, context_length=256, lr=4e-3, n_documents=300_000),
}


def town_tokenizer(world: World) -> Tokenizer:
    """The tokenizer that every model of the course shares: 1,024 ids learned from the town."""
    return Tokenizer.train(
        [d.text for d in world.documents(N_TOKENIZER_DOCUMENTS, DATA_SEED)], preset("small").vocab_size
    )


def tokens(world: World, tokenizer: Tokenizer, n_documents: int, folder: Path):
    """The training documents as one memory-mapped stream of ids, written once."""
    path = folder / f"town-{world.fingerprint}-{tokenizer.fingerprint[:8]}-{n_documents}.bin"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_tokens(path, (d.text for d in world.documents(n_documents, DATA_SEED)), tokenizer)
    return load_tokens(path, tokenizer)


def pretrain(name: str, work: Path, out: Path) -> None:
    """Train stage `name`, resuming what was begun, and save its checkpoint to `out`/name."""
    recipe, world = STAGES[name], World(0)
    tokenizer = town_tokenizer(world)
    stream = tokens(world, tokenizer, recipe.n_documents, work / "data")
    device.seed_everything(recipe.seed)
    machine = device.best_device().value
    dtype = device.best_dtype(machine).value
    model = Transformer(preset(recipe.preset)).to(machine).compute_in(dtype)
    batches = PackedBatches(stream, recipe.batch_size, recipe.context_length, recipe.seed)
    run = work / "runs" / name
    run.mkdir(parents=True, exist_ok=True)
    fit(
        model, batches, recipe.steps,
        optimizer=muon(model, recipe.lr), schedule=warmup_cosine(recipe.steps, recipe.steps // 20, floor=0.05),
        on_step=progress(recipe.steps), log_path=run / "log.jsonl",
        state_path=run / "state.safetensors", save_every=100, resume=True,
    )  # fmt: skip
    card = {
        "what": f"{recipe.preset} model pretrained on the town of {world.town.name}", "world": world.fingerprint,
        "command": f"python -m llmkit.pipeline {name}", "recipe": asdict(recipe), "tokens": recipe.tokens,
        "dtype": str(dtype).removeprefix("torch."), **report(model.compute_in(None), tokenizer, world),
    }  # fmt: skip
    saved = checkpoint.save(out / name, model, tokenizer, card, dtype=torch.bfloat16)
    print(f"saved {saved}")


def report(model, tokenizer, world: World) -> dict:
    """What a card says of a model: loss and floor per kind, and the score of every task with its interval."""
    model.eval()
    documents = world.documents(N_VALIDATION_DOCUMENTS, VALIDATION_SEED)
    losses = {kind: evaluate.excess_loss(model, tokenizer, [d for d in documents if d.kind == kind]) for kind in KINDS}
    scores = {f"{task}/{split}": evaluate.score(model, tokenizer, tasks.load(world, task, split, N_QUESTIONS))
              for task in tasks.VERIFIERS for split in ("train", "test")}  # fmt: skip
    return {"loss": {k: asdict(v) for k, v in losses.items()}, "scores": {k: asdict(v) for k, v in scores.items()}}


def progress(steps: int, every_s: float = 20.0):
    """An `on_step` that prints a line now and then: step, loss, speed, time left."""
    printed = -every_s

    def on_step(record: Record) -> None:
        nonlocal printed
        if record.seconds - printed >= every_s or record.step == steps:
            printed = record.seconds
            minutes = record.seconds / record.step * (steps - record.step) / 60
            done = f"step {record.step:,}/{steps:,}  loss {record.loss:.3f}"
            print(f"{done}  {record.tok_s:,.0f} tokens/s  {minutes:.1f} min left", flush=True)

    return on_step


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m llmkit.pipeline", description=__doc__.split("\n")[0])
    parser.add_argument("stage", nargs="?", choices=STAGES)
    parser.add_argument("--list", action="store_true", help="print the stages and their recipes")
    parser.add_argument("--work", type=Path, default=ROOT / "work", help="where token files, states and logs go")
    parser.add_argument("--out", type=Path, default=ROOT / "course" / "checkpoints", help="where the checkpoint goes")
    arguments = parser.parse_args()
    if arguments.list or not arguments.stage:
        for name, recipe in STAGES.items():
            print(f"{name:8} {recipe}")
        return
    pretrain(arguments.stage, arguments.work, arguments.out)


if __name__ == "__main__":
    main()
