"""How much sooner does the course's recipe reach a loss than GPT-2's?  `python -m tests.benchmarks.recipes [steps]`

Two recipes on the same stream of the town's text, `tiny` in size: GPT-2's architecture by AdamW (learned positions,
LayerNorm, GELU, biases; weight decay 0.1, betas 0.9 and 0.95, warm-up, cosine to a tenth; the best of four learning
rates), and what lesson 06 does: the course's architecture by Muon, its rate falling in a straight line to zero. Both
compute in the same dtype: bfloat16 where the hardware has it, or float32, or what is named after the steps. The first
sets the loss to reach: its loss on held-out documents when its steps are over. The second is given shorter and shorter
schedules, and the shortest that still reaches that loss counts. Time is the number of steps times the seconds of a
step, which are measured in turns, so that a disturbance meets both alike. What GPT-2's throughput is beside
transformers' own: `tests.benchmarks.training`.
"""

import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch

from llmkit import checkpoint
from llmkit.config import preset
from llmkit.data import PackedBatches, encode_documents
from llmkit.device import best_device, best_dtype
from llmkit.model import Transformer
from llmkit.optim import adamw, muon, warmup_cosine, warmup_stable_decay
from llmkit.train import document_nats, fit, next_token_loss
from llmkit.world import World
from tests.benchmarks.measure import in_turns, ratio

ROWS, LENGTH = 8, 256
GPT2 = dict(norm="layer", mlp="gelu", positions="learned", bias=True, qk_norm=False, n_kv_head=4, d_ff=512)
RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2)  # of AdamW
SHARES = (0.5, 0.45, 0.4, 0.35)  # of the first recipe's steps


class Recipe(NamedTuple):
    name: str
    switches: dict
    optimizer: Callable
    lr: float
    schedule: Callable

    def start(self, dtype):
        torch.manual_seed(0)
        model = Transformer(preset("tiny", **self.switches)).to(best_device().value).compute_in(dtype)
        return model, self.optimizer(model, self.lr)


def cosine(steps: int):
    return warmup_cosine(steps, warmup=steps // 20)


def line(steps: int):
    return warmup_stable_decay(steps, warmup=steps // 20, decay=steps - steps // 20)


GPT = [Recipe("GPT-2, AdamW", GPT2, adamw, lr, cosine) for lr in RATES]
OURS = Recipe("course, Muon", {}, muon, 5e-3, line)


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


def train(recipe: Recipe, text: Text, steps: int, dtype) -> float:
    model, optimizer = recipe.start(dtype)
    fit(model, text.batches, steps, optimizer=optimizer, schedule=recipe.schedule(steps))
    return text.loss(model.compute_in(None))


def step_seconds(text: Text, dtype, rounds: int) -> list[list[float]]:
    """Seconds of optimizer steps of GPT-2's recipe and of the course's, in turns."""

    def stepper(recipe):
        model, optimizer = recipe.start(dtype)

        def step():
            next_token_loss(model, text.batches(0)).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    seconds = in_turns({recipe.name: stepper(recipe) for recipe in (GPT[0], OURS)}, rounds, best_device().value)
    return list(seconds.values())


def main(steps: int = 500, dtype: str = "", rounds: int = 15):
    dtype = getattr(torch, dtype) if dtype else best_dtype(best_device().value).value
    text = Text(60 * steps)
    times = step_seconds(text, dtype, rounds)
    gpt_s, ours_s = map(statistics.median, times)
    minutes = steps * (len(RATES) * gpt_s + sum(SHARES) * ours_s) / 60
    print(
        f"{dtype} for both, {ROWS} x {LENGTH} tokens a step: {GPT[0].name} {1e3 * gpt_s:.0f} ms a step, "
        f"{OURS.name} {1e3 * ours_s:.0f}; all of it takes {minutes:.0f} minutes or less",
        flush=True,
    )
    losses = [train(recipe, text, steps, dtype) for recipe in GPT]
    rounded = [round(loss, 3) for loss in losses]
    print(f"{GPT[0].name}, {steps} steps, learning rates {RATES}: {rounded} nats/token", flush=True)
    faster = None
    for share in SHARES:
        loss = train(OURS, text, int(share * steps), dtype)
        print(f"{OURS.name}, {share * steps:.0f} steps: {loss:.3f} nats/token", flush=True)
        if loss > min(losses):
            break
        faster = ratio(*times) / share
    print(
        f"{OURS.name} reaches {min(losses):.3f} nats/token {faster:.2f} times as fast as {GPT[0].name}"
        if faster
        else f"{OURS.name} does not reach {min(losses):.3f} nats/token in {SHARES[0]:.0%} of the steps"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
