"""Lesson 08's long experiment: dense against sparse on the town, three ways to balance, and a router that collapses.

    python -m course.records.moe                writes moe.json beside this file
    python -m course.records.moe dense sparse   only these cases, beside what the file already holds

Five `nano`s see the same tokens, by Muon: a dense one; one as wide as eight experts ("wide", the sparse one's size);
and one of 8 experts of which 2 are active ("sparse", the dense one's work), balanced by the loss, by the bias, or not.
Three more have one expert a token, as Switch (arXiv 2101.03961), and AdamW with a high learning rate: there routers
collapse.

Kept: the loss on held-out documents over steps, beside the floor; the excess over the floor for each kind, with its
95 % interval; how much each expert had to do, by step; and where each kind's tokens go in the end.
"""

import json
import sys
from pathlib import Path

import torch

from llmkit import checkpoint
from llmkit.config import MoEConfig, preset
from llmkit.cost import forward_flops, parameters
from llmkit.data import PackedBatches, encode_documents
from llmkit.evaluate import excess_loss
from llmkit.model import Transformer
from llmkit.moe import balanced, expert_load, routings, update_bias
from llmkit.optim import adamw, muon
from llmkit.train import fit, next_token_loss
from llmkit.world import KINDS, World

FILE = Path(__file__).with_suffix(".json")
ROWS, LENGTH = 8, 256  # of a batch; tokens
TWO, ONE = MoEConfig(8, 2, 88), MoEConfig(8, 1, 176, norm_weights=False)
CASES = {  # what differs from `nano`; how it is balanced, and with what weight; optimizer and lr; steps; seeds
    "dense": ({}, (None, 0), (muon, 5e-3), 400, (0, 1)),
    "sparse": (dict(moe=TWO), ("loss", 0.01), (muon, 5e-3), 400, (0, 1)),
    "wide": (dict(d_ff=8 * 88), (None, 0), (muon, 5e-3), 400, (0, 1)),
    "sparse, bias": (dict(moe=TWO), ("bias", 0.01), (muon, 5e-3), 400, (0,)),
    "sparse, alone": (dict(moe=TWO), (None, 0), (muon, 5e-3), 400, (0,)),
    "one, alone": (dict(moe=ONE), (None, 0), (adamw, 6e-3), 200, (0,)),
    "one, loss": (dict(moe=ONE), ("loss", 0.01), (adamw, 6e-3), 200, (0,)),
    "one, bias": (dict(moe=ONE), ("bias", 0.01), (adamw, 6e-3), 200, (0,)),
}


class Town:
    """What all cases share: text to learn, and documents to be judged by."""

    def __init__(self, n_documents: int = 16_000, n_judged: int = 500):
        world, (_, self.tokenizer) = World(0), checkpoint.load("draft")
        self.stream = encode_documents((d.text for d in world.documents(n_documents, seed=1)), self.tokenizer)
        self.judged = world.documents(n_judged, seed=2)


def run(case: str, seed: int, town: Town, steps: int | None = None, every: int = 50) -> dict:
    """Train and measure one model: an entry of the record."""
    overrides, (balance, weight), (make, lr), full, _ = CASES[case]
    torch.manual_seed(seed)
    model = Transformer(preset("nano", context_length=LENGTH, **overrides))
    loads, judged = [], town.judged[:200]

    def after(record):
        if model.config.moe is None or record.evals:  # the last forward pass is the evaluation's
            return
        if record.step % 10 == 0:
            loads.append([record.step, [[round(x, 3) for x in expert_load(r).tolist()] for r in routings(model)]])
        if balance == "bias":
            update_bias(model, weight)

    records = fit(
        model,
        PackedBatches(town.stream, ROWS, LENGTH, seed),
        steps or full,
        optimizer=make(model, lr),
        loss_fn=balanced(next_token_loss, weight) if balance == "loss" else next_token_loss,
        on_step=after,
        eval_fn=lambda model: {"loss": excess_loss(model, town.tokenizer, judged).loss},
        eval_every=every,
    )
    losses = [[r.step, round(r.evals["loss"], 4)] for r in records if r.evals]
    about = {"case": case, "seed": seed, "seconds": round(records[-1].seconds), "loss": losses}
    return about | {"excess": excess_by_kind(model.eval(), town), "load": loads, "routes": routes(model, town)}


def excess_by_kind(model: Transformer, town: Town) -> dict:
    """Kind (and "all") -> [excess, low, high] in nats/token."""
    parts = {"all": town.judged} | {kind: [d for d in town.judged if d.kind == kind] for kind in KINDS}
    measured = {kind: excess_loss(model, town.tokenizer, part) for kind, part in parts.items() if part}
    return {kind: [round(x, 4) for x in (e.excess, e.low, e.high)] for kind, e in measured.items()}


@torch.no_grad()
def routes(model: Transformer, town: Town) -> dict:
    """Kind -> for each layer, the share of its tokens' assignments that each expert got: L x E."""
    if model.config.moe is None:
        return {}
    counts = {}
    for document in town.judged:
        ids = torch.tensor([[town.tokenizer.eos_id, *town.tokenizer.encode(document.text)]])
        model(ids)
        sent = torch.stack([expert_load(r) * ids.shape[1] for r in routings(model)])  # (L, E)
        counts[document.kind] = counts.get(document.kind, 0) + sent
    return {
        kind: [[round(x, 3) for x in row] for row in (n / n.sum(-1, keepdim=True)).tolist()]
        for kind, n in counts.items()
    }


def sizes(case: str) -> dict:
    """Parameters, those that a token uses, and the forward pass's FLOPs a token in a text of LENGTH."""
    config = preset("nano", context_length=LENGTH, **CASES[case][0])
    count, flops = parameters(config), forward_flops(config, LENGTH).total
    return {"parameters": count.total, "active": count.active, "flops": round(flops / LENGTH)}


def header(town: Town) -> dict:
    """What all runs have in common."""
    judged = town.judged[:200]
    n_tokens = sum(len(town.tokenizer.encode(d.text)) + 1 for d in judged)
    about = {"command": "python -m course.records.moe", "rows": ROWS, "length": LENGTH}
    floor = sum(d.nats for d in judged) / n_tokens
    about |= {"balance": {case: setting[1] for case, setting in CASES.items()}}
    return about | {"floor": round(floor, 4), "sizes": {case: sizes(case) for case in CASES}}


def make(cases=CASES, seeds=(0, 1), done=lambda entry, town: None, say=print) -> dict:
    """Run these cases: the record of them. `done` is called with each run as soon as it is there."""
    town, runs = Town(), []
    for seed, case in ((seed, case) for seed in seeds for case in cases if seed in CASES[case][-1]):
        runs.append(entry := run(case, seed, town))
        done(entry, town)
        say(case, seed, f"{entry['seconds']} s, loss {entry['loss'][-1][1]}, excess {entry['excess']['all']}")
    return header(town) | {"runs": runs}


def add(entry: dict, town: Town) -> None:
    """Put one run into the file, in the place of an older one."""
    runs = load()["runs"] if FILE.exists() else []
    runs = [r for r in runs if (r["case"], r["seed"]) != (entry["case"], entry["seed"])] + [entry]
    runs.sort(key=lambda r: (list(CASES).index(r["case"]), r["seed"]))
    FILE.write_text(json.dumps(header(town) | {"runs": runs}, separators=(",", ":")) + "\n", encoding="utf-8")


def load() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    make(sys.argv[1:] or CASES, done=add)
