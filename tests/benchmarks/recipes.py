"""How much sooner does the course's recipe reach a loss than GPT-2's?  `python -m tests.benchmarks.recipes [steps]`

Two runs on the same stream of the town's text, `tiny` in size: GPT-2's architecture by AdamW (learned positions,
LayerNorm, GELU, biases; weight decay 0.1, betas 0.9 and 0.95, warm-up, cosine to a tenth, float32; the best of four
learning rates), and what lesson 06 does: the course's architecture by Muon, its rate falling in a straight line to
zero, products in bfloat16 where the hardware has it. The first sets the loss to reach: its loss on
held-out documents when its steps are over. The second is given shorter and shorter schedules, and the shortest that
still reaches that loss counts. Time is the number of steps times the seconds of a step, which are measured in turns, so
that a disturbance meets both alike. What GPT-2's throughput is beside transformers' own: `tests.benchmarks.training`.
"""

import statistics
import sys

import torch

from llmkit import checkpoint
from llmkit.config import preset
from llmkit.data import PackedBatches, encode_documents
from llmkit.device import Timer, best_device, best_dtype
from llmkit.model import Transformer
from llmkit.optim import adamw, muon, warmup_cosine, warmup_stable_decay
from llmkit.train import document_nats, fit, next_token_loss
from llmkit.world import World

ROWS, LENGTH = 8, 256
GPT2 = dict(norm="layer", mlp="gelu", positions="learned", bias=True, qk_norm=False, n_kv_head=4, d_ff=512)
RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2)  # of AdamW
SHARES = (0.5, 0.45, 0.4, 0.35)  # of the first recipe's steps


class Recipe:
    def __init__(self, name, switches, optimizer, lr, schedule, dtype=None):
        self.name, self.switches, self.optimizer, self.lr = name, switches, optimizer, lr
        self.schedule, self.dtype = schedule, dtype

    def start(self):
        torch.manual_seed(0)
        model = Transformer(preset("tiny", **self.switches)).to(best_device().value).compute_in(self.dtype)
        return model, self.optimizer(model, self.lr)


def cosine(steps: int):
    return warmup_cosine(steps, warmup=steps // 20)


def line(steps: int):
    return warmup_stable_decay(steps, warmup=steps // 20, decay=steps - steps // 20)


GPT = [Recipe("GPT-2, AdamW", GPT2, adamw, lr, cosine) for lr in RATES]
OURS = Recipe("course, Muon", {}, muon, 5e-3, line, best_dtype(best_device().value.type).value)


class Text:
    """Batches for training, and held-out documents with what they cost a model."""

    def __init__(self, n_documents: int):
        _, tokenizer = checkpoint.load("draft")
        world = World(0)
        self.eos_id = tokenizer.eos_id
        stream = encode_documents((d.text for d in world.documents(n_documents, seed=1)), tokenizer)
        self.batches = PackedBatches(stream, ROWS, LENGTH, seed=0)
        held_out = [tokenizer.encode(d.text) for d in world.documents(300, seed=2)]
        self.held_out = [ids for ids in held_out if len(ids) < LENGTH]

    def loss(self, model) -> float:
        """nats/token over the held-out documents."""
        nats = document_nats(model.eval(), self.held_out, self.eos_id)
        return nats.sum().item() / sum(len(ids) + 1 for ids in self.held_out)


def train(recipe: Recipe, text: Text, steps: int) -> float:
    model, optimizer = recipe.start()
    fit(model, text.batches, steps, optimizer=optimizer, schedule=recipe.schedule(steps))
    return text.loss(model.compute_in(None))


def seconds_a_step(text: Text, rounds: int = 9) -> dict[str, float]:
    """Median seconds of an optimizer step of each recipe, in turns."""
    runs = {recipe.name: recipe.start() for recipe in (GPT[0], OURS)}
    times = {name: [] for name in runs}
    for i in range(rounds + 2):
        for name, (model, optimizer) in runs.items():
            with Timer(best_device().value) as timer:
                next_token_loss(model, text.batches(i)).backward()
                optimizer.step()
                optimizer.zero_grad()
            times[name].append(timer.elapsed_s)
    return {name: statistics.median(some[2:]) for name, some in times.items()}


def main(steps: int = 500):
    text = Text(60 * steps)
    seconds = seconds_a_step(text)
    print({name: f"{1e3 * s:.0f} ms a step" for name, s in seconds.items()}, flush=True)
    losses = [train(recipe, text, steps) for recipe in GPT]
    goal = min(losses)
    print(f"{GPT[0].name}, learning rates {RATES}: {[round(loss, 3) for loss in losses]} nats/token", flush=True)
    for share in SHARES:
        loss = train(OURS, text, int(share * steps))
        ratio = seconds[GPT[0].name] / (share * seconds[OURS.name])
        print(f"{OURS.name}: {loss:.3f} after {share * steps:.0f} steps, {ratio:.2f} times as fast", flush=True)
        if loss > goal:
            break


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
