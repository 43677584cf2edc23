"""How good is the model? Loss beside the truth, bits per byte, and task scores, each with a 95 % interval.

Scores are shares of questions answered rightly, so their intervals are Wilson's; losses are means over documents, and
their intervals come from the spread between documents (a document, not a token, is the independent unit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmkit.generate import generate_ragged
from llmkit.tasks import Task
from llmkit.train import document_nats

Z95 = 1.959964


@dataclass(frozen=True)
class Score:
    """A share of `n` questions, or a mean over `n` texts, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Excess:
    """nats/token on documents: the model's, the least possible, and their difference with its 95 % interval."""

    loss: float
    floor: float
    excess: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int) -> Score:
    """A proportion with Wilson's 95 % interval (JASA 22, 1927), which stays inside [0, 1] and honest at its ends."""
    if n < 1:
        raise ValueError("a score needs at least one question")
    p, z2 = successes / n, Z95**2
    centre, half = p + z2 / (2 * n), Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return Score(p, max(min(low, p), 0.0), min(max(high, p), 1.0), n)  # at 0 and 1 rounding can put p outside


def score(model, tokenizer, task: Task, batch_size: int = 50) -> Score:
    """Greedy answers to every question of a task, verified. ValueError if there are none, or a prompt does not fit."""
    answers = complete(model, tokenizer, [q.prompt for q in task.questions], task.max_new_tokens, batch_size)
    return wilson(sum(task.verify(q, a) for q, a in zip(task.questions, answers, strict=True)), len(task.questions))


def complete(
    model, tokenizer, prompts: Sequence[str], max_new_tokens: int, batch_size: int = 50, **sampling
) -> list[str]:
    """What the model writes after each prompt, up to the document's end; greedy unless `sampling` says otherwise."""
    sampling = {"temperature": 0.0} | sampling
    texts = []
    for begin in range(0, len(prompts), batch_size):
        ids = [
            torch.tensor([tokenizer.eos_id, *tokenizer.encode(prompt)])
            for prompt in prompts[begin : begin + batch_size]
        ]
        rows = generate_ragged(model, ids, max_new_tokens, eos_id=tokenizer.eos_id, **sampling)
        for prompt, row in zip(ids, rows, strict=True):
            texts.append(tokenizer.decode([i for i in row[len(prompt) :].tolist() if i != tokenizer.eos_id]))
    return texts


def excess_loss(model, tokenizer, documents) -> Excess:
    """The model's loss on documents of the town beside the least possible one, end of document included.

    Draw the documents from the mixture that the model learned, and choose kinds afterwards: a document drawn from one
    kind has the nats of a reader who was told the kind. ValueError without documents, or if one does not fit the
    model's context.
    """
    if not len(documents):
        raise ValueError("there is no document to take the loss of: draw more of them, or choose other kinds")
    ids = [tokenizer.encode(d.text) for d in documents]
    lengths = torch.tensor([len(i) + 1 for i in ids], dtype=torch.float64)
    nats = document_nats(model, ids, tokenizer.eos_id)
    truth = torch.tensor([d.nats for d in documents], dtype=torch.float64)
    excess, half = _ratio(nats - truth, lengths)
    loss, floor = (float(total.sum() / lengths.sum()) for total in (nats, truth))
    return Excess(loss, floor, excess, excess - half, excess + half, len(ids))


def bits_per_byte(nats: Sequence[float], texts: Sequence[str]) -> Score:
    """What texts cost, nats[i] for all of texts[i], in bits per byte of UTF-8: comparable between tokenizers.

    With the nats of `Document`s it is the least possible. ValueError without a byte, or if the numbers do not match.
    """
    sizes = torch.tensor([len(text.encode()) for text in texts], dtype=torch.float64)
    if len(nats) != len(texts) or not sizes.sum():
        raise ValueError(f"{len(nats)} costs for {len(texts)} texts of {int(sizes.sum())} bytes: each needs its own")
    value, half = _ratio(torch.as_tensor(nats, dtype=torch.float64) / math.log(2), sizes)
    return Score(value, value - half, value + half, len(texts))


def _ratio(amounts: torch.Tensor, sizes: torch.Tensor) -> tuple[float, float]:
    """The sum of amounts (n,) over the sum of sizes (n,), and half its 95 % interval, by the delta method; NaN of one
    alone, which says nothing about the spread."""
    ratio = amounts.sum() / sizes.sum()
    residual = amounts - ratio * sizes
    return float(ratio), Z95 * float(residual.square().sum().sqrt() / sizes.sum()) if len(sizes) > 1 else math.nan
