"""The life of the model as one script: every checkpoint that the course ships is made by a stage of this file.

    python -m llmkit.pipeline trial           a rehearsal with little of everything, in about a minute
    python -m llmkit.pipeline base            train (or resume) one stage
    python -m llmkit.pipeline --list          the stages and their recipes
    torchrun --nproc-per-node 8 -m llmkit.pipeline base         the same on eight GPUs (DDP)

A stage writes its state and log to work/runs/<stage> and ends by saving a checkpoint with a card: data, recipe, loss
beside the floor for each kind, and scores with 95 % intervals. Ctrl-C saves and stops; a kill at any moment costs
what came after the last save. The same command goes on from there.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from llmkit import checkpoint, device, distributed, evaluate, tasks
from llmkit.config import preset
from llmkit.data import PackedBatches, load_tokens, save_tokens
from llmkit.model import Transformer
from llmkit.optim import muon, warmup_cosine
from llmkit.tokenizer import Tokenizer
from llmkit.train import NonFiniteLoss, Record, fit
from llmkit.world import KINDS, World

ROOT = Path(__file__).resolve().parents[1]
DATA_SEED, VALIDATION_SEED = 1, 2
N_TOKENIZER_DOCUMENTS = 20_000
SAVE_EVERY, N_WATCHED = 100, 100  # updates between saves; documents that the excess on the way is taken from


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
    n_validation: int = 1_000  # documents of the report
    n_questions: int = 300  # of the report, for each task

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_size * self.context_length


STAGES = {
    "trial": Pretraining("tiny", 30, batch_size=4, context_length=128, lr=5e-3, n_documents=2_000,
                         n_validation=100, n_questions=5),
    "draft": Pretraining("tiny", steps=4_000, batch_size=16, context_length=128, lr=5e-3, n_documents=160_000),
    "base": Pretraining("small", steps=4_000, batch_size=16, context_length=256, lr=4e-3, n_documents=300_000),
}  # fmt: skip


def town_tokenizer(world: World) -> Tokenizer:
    """The tokenizer that every model of the course shares: 1,024 ids learned from the town."""
    return Tokenizer.train(
        [d.text for d in world.documents(N_TOKENIZER_DOCUMENTS, DATA_SEED)], preset("small").vocab_size
    )


def tokens(world: World, tokenizer: Tokenizer, n_documents: int, folder: Path):
    """The training documents as one memory-mapped stream of ids, written where no whole one is found."""
    path = folder / f"town-{world.fingerprint}-{tokenizer.fingerprint[:8]}-{n_documents}.bin"
    if distributed.is_main():
        try:
            load_tokens(path, tokenizer)
        except ValueError:  # not there, cut off in writing, or damaged
            folder.mkdir(parents=True, exist_ok=True)
            save_tokens(path, (d.text for d in world.documents(n_documents, DATA_SEED)), tokenizer)
    distributed.wait()
    return load_tokens(path, tokenizer)


def pretrain(name: str, work: Path, out: Path, machine: torch.device | None = None) -> None:
    """Train stage `name`, resuming what was begun, and save its checkpoint to `out`/name."""
    recipe, world = STAGES[name], World(0)
    tokenizer = town_tokenizer(world)
    stream = tokens(world, tokenizer, recipe.n_documents, work / "data")
    documents = world.documents(recipe.n_validation, VALIDATION_SEED)
    device.seed_everything(recipe.seed)
    machine = machine or device.best_device().value
    dtype = device.best_dtype(machine).value
    model = Transformer(preset(recipe.preset)).to(machine).compute_in(dtype)
    batches = PackedBatches(stream, recipe.batch_size, recipe.context_length, recipe.seed)
    run = work / "runs" / name
    with asked_to_stop() as asked:
        show = progress(recipe.steps)
        records = fit(
            distributed.wrap(model, "ddp"), batches, recipe.steps,
            optimizer=muon(model, recipe.lr), schedule=warmup_cosine(recipe.steps, recipe.steps // 20, floor=0.05),
            eval_fn=lambda model: excess(model, tokenizer, documents[:N_WATCHED]), eval_every=SAVE_EVERY,
            on_step=lambda record: show(record) or asked.is_set(), log_path=run / "log.jsonl",
            state_path=run / "state.safetensors", save_every=SAVE_EVERY, resume=True,
        )  # fmt: skip
    if not distributed.is_main():
        return
    if records and records[-1].step < recipe.steps:
        print(f"stopped after update {records[-1].step:,}, which is saved; the same command goes on from there")
        return
    card = {
        "what": f"{recipe.preset} model pretrained on the town of {world.town.name}", "world": world.fingerprint,
        "command": f"python -m llmkit.pipeline {name}", "recipe": asdict(recipe), "tokens": recipe.tokens,
        "dtype": str(dtype).removeprefix("torch."),
        **report(model.compute_in(None), tokenizer, world, documents, recipe.n_questions),
    }  # fmt: skip
    saved = checkpoint.save(out / name, model, tokenizer, card, dtype=torch.bfloat16)
    print(f"saved {saved}")


def report(model, tokenizer, world: World, documents, n_questions: int) -> dict:
    """What a card says of a model: loss and floor per kind, and the score of every task with its interval."""
    model.eval()
    losses = {kind: evaluate.excess_loss(model, tokenizer, [d for d in documents if d.kind == kind]) for kind in KINDS}
    scores = {f"{task}/{split}": evaluate.score(model, tokenizer, tasks.load(world, task, split, n_questions))
              for task in tasks.VERIFIERS for split in ("train", "test")}  # fmt: skip
    return {"loss": {k: asdict(v) for k, v in losses.items()}, "scores": {k: asdict(v) for k, v in scores.items()}}


def excess(model, tokenizer, documents) -> dict[str, float]:
    """How far above the least possible loss the model is so far, in nats/token on held-out documents."""
    return {"excess": evaluate.excess_loss(model, tokenizer, documents).excess}


def progress(steps: int, every_s: float = 20.0) -> Callable[[Record], None]:
    """An `on_step` that prints a line now and then: step, loss, excess so far, speed, time left."""
    before, known = Record(0, 0.0, 0.0, 0.0, tokens=0, tok_s=0.0, seconds=0.0), ""

    def on_step(record: Record) -> None:
        nonlocal before, known
        if record.evals:
            known = f"  excess {record.evals['excess']:.3f}"
        if before.step == 0 and record.step > 1:  # a resumed run: its speed is told from here on
            before = record
        elif record.seconds - before.seconds >= every_s or record.step in (1, steps):
            n, seconds = record.step - before.step, record.seconds - before.seconds
            done = f"step {record.step:,}/{steps:,}  loss {record.loss:.3f}{known}"
            speed = f"{(record.tokens - before.tokens) / seconds:,.0f} tokens/s"
            print(f"{done}  {speed}  {seconds / n * (steps - record.step) / 60:.1f} min left", flush=True)
            before = record

    return on_step


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that an update is finished and saved; pressed again, it interrupts as usual."""
    asked = threading.Event()

    def ask(signal_number, frame):
        asked.set()
        signal.signal(signal.SIGINT, usual)
        print("stopping after this update (Ctrl-C again: at once, going back to the last save)", flush=True)

    usual = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, usual)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m llmkit.pipeline", description=__doc__.split("\n")[0])
    parser.add_argument("stage", nargs="?", choices=STAGES)
    parser.add_argument("--list", action="store_true", help="print the stages and their recipes")
    parser.add_argument("--work", type=Path, default=ROOT / "work", help="where token files, states and logs go")
    parser.add_argument("--out", type=Path, help="where the checkpoint goes: the course's own, a trial's to WORK")
    arguments = parser.parse_args()
    if arguments.list or not arguments.stage:
        for name, recipe in STAGES.items():
            print(f"{name:8} {recipe}")
        return
    shelf = arguments.work / "checkpoints" if arguments.stage == "trial" else checkpoint.SHIPPED
    try:
        with distributed.launched() as machine:
            pretrain(arguments.stage, arguments.work, arguments.out or shelf, machine)
    except (checkpoint.CheckpointError, NonFiniteLoss, OSError) as error:  # what can go wrong on a sound machine
        parser.exit(1, f"{parser.prog} {arguments.stage}: {error}\n")


if __name__ == "__main__":
    main()
