"""Intervals are those of the textbook, and a model that knows the truth has no excess loss."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from llmkit import evaluate, tasks
from llmkit.config import preset
from llmkit.evaluate import bits_per_byte, complete, excess_loss, score, wilson
from llmkit.model import Transformer
from llmkit.tokenizer import Tokenizer
from llmkit.world import World


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.fixture(scope="module")
def tokenizer(world):
    return Tokenizer.train([d.text for d in world.documents(1000, seed=1)], vocab_size=500)


class Oracle(nn.Module):
    """A "model" whose logits are the true log-probabilities; slow, and as good as any model can be."""

    def __init__(self, world, tokenizer, floor=1e-30):
        super().__init__()
        self.world, self.tokenizer, self.floor = world, tokenizer, floor
        self.config = preset("tiny", vocab_size=tokenizer.vocab_size)
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, idx):
        rows = []
        for row in idx.tolist():
            length = len(row) - next((n for n, i in enumerate(row[::-1]) if i != self.tokenizer.eos_id), 0)  # padding
            probs = [self.world.next_token_probs(row[1 : t + 1], self.tokenizer) for t in range(length)]
            rows.append([torch.tensor(p).clamp_min(self.floor).log() for p in probs])
            rows[-1] += [torch.zeros(self.config.vocab_size, dtype=torch.float64)] * (len(row) - length)
        return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (50, 100), (299, 300), (7, 7)])
def test_wilson_equals_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    ours = wilson(successes, n)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert ours.value == successes / n and ours.n == n


def test_all_right_and_all_wrong_are_the_ends_of_their_intervals():
    assert all(wilson(n, n).high == 1.0 and wilson(0, n).low == 0.0 for n in range(1, 500))


def test_the_truth_has_no_excess_loss(world, tokenizer):
    documents = world.documents(6, seed=3)
    result = excess_loss(Oracle(world, tokenizer), tokenizer, documents)
    assert result.loss == pytest.approx(result.floor, abs=1e-4) and abs(result.excess) < 1e-4
    assert result.n == 6


def test_excess_of_a_model_that_knows_nothing(world, tokenizer):
    model = Transformer(preset("nano", vocab_size=tokenizer.vocab_size, context_length=300))
    documents = world.documents(20, seed=4)
    n_tokens = sum(len(tokenizer.encode(d.text)) + 1 for d in documents)
    result = excess_loss(model, tokenizer, documents)
    assert result.loss == pytest.approx(math.log(tokenizer.vocab_size), abs=0.3)
    assert result.floor == pytest.approx(sum(d.nats for d in documents) / n_tokens)
    assert result.excess == pytest.approx(result.loss - result.floor)
    assert result.low < result.excess < result.high


def test_the_interval_of_an_excess_holds_it_19_times_in_20(monkeypatch):
    """Documents of any length, each dearer than the truth by 0.3 nats a token and noise that grows with its length."""
    g, letters = torch.Generator().manual_seed(0), SimpleNamespace(encode=list, eos_id=0)
    held = 0
    for _ in range(1500):
        n_tokens = torch.randint(5, 40, (80,), generator=g)  # eos included
        excess = 0.3 * n_tokens + n_tokens * torch.randn(80, generator=g, dtype=torch.float64)
        documents = [SimpleNamespace(text="x" * (n - 1), nats=2.0 * n) for n in n_tokens.tolist()]
        monkeypatch.setattr(evaluate, "document_nats", lambda *_, nats=2.0 * n_tokens + excess: nats)
        result = excess_loss(None, letters, documents)
        held += result.low < 0.3 < result.high
    assert 0.93 < held / 1500 < 0.97


def test_score_counts_verified_answers(world, tokenizer):
    """A model that always says the same is right as often as that is the answer."""
    model = Transformer(preset("nano", vocab_size=tokenizer.vocab_size, context_length=300))
    task = tasks.load(world, "sums", "train", 30)
    answers = complete(model, tokenizer, [q.prompt for q in task.questions], task.max_new_tokens, batch_size=7)
    assert len(answers) == 30
    assert score(model, tokenizer, task).value == sum(map(task.verify, task.questions, answers)) / 30
    always_right = tasks.Task("sums", task.questions, lambda question, completion: 1.0, 3)
    assert score(model, tokenizer, always_right).value == 1.0


def test_no_questions_is_an_error():
    with pytest.raises(ValueError, match="at least one question"):
        wilson(0, 0)


def test_no_documents_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="no document"):
        excess_loss(None, tokenizer, [])


def test_bits_per_byte_by_hand():
    result = bits_per_byte([math.log(2) * 6, math.log(2) * 2], ["abcd", "é"])  # 6 bits for 4 bytes, 2 bits for 2
    assert result.value == pytest.approx(8 / 6) and result.n == 2
    residual = 6 - 4 * 8 / 6  # and of the second text the same with the other sign
    assert result.high - result.value == pytest.approx(1.959964 * math.sqrt(2) * residual / 6)
    assert result.value - result.low == pytest.approx(result.high - result.value)


def test_one_text_alone_has_no_interval():
    result = bits_per_byte([math.log(2) * 6], ["abcd"])
    assert result.value == pytest.approx(1.5) and math.isnan(result.low) and math.isnan(result.high)


def test_bits_per_byte_do_not_depend_on_the_tokenizer(world, tokenizer):
    documents = world.documents(40, seed=3)
    by_text = bits_per_byte([d.nats for d in documents], [d.text for d in documents])
    ids = [[*tokenizer.encode(d.text), tokenizer.eos_id] for d in documents]
    by_token = bits_per_byte([world.token_nats(i, tokenizer).sum() for i in ids], [d.text for d in documents])
    assert by_text.value == pytest.approx(by_token.value, abs=1e-9) and 0.2 < by_text.value < 0.35


def test_costs_that_belong_to_no_text_are_refused():
    with pytest.raises(ValueError, match="1 costs for 2 texts"):
        bits_per_byte([1.0], ["a", "b"])
    with pytest.raises(ValueError, match="of 0 bytes"):
        bits_per_byte([1.0], [""])
