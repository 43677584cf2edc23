"""A run small enough to be repeated, killed and divided: a model that learns to count; how two runs are compared."""

import torch

from llmkit.config import ModelConfig
from llmkit.data import Batch
from llmkit.model import Transformer
from llmkit.train import next_token_loss

CONFIG = ModelConfig(
    vocab_size=32, context_length=16, n_layer=2, n_head=2, n_kv_head=1, d_model=16, head_dim=8, d_ff=32
)


def make_model(seed=0):
    torch.manual_seed(seed)
    return Transformer(CONFIG)


def batches(step, batch_size=4):
    """Counting upwards from a random id: the next token is always the last one plus 1."""
    g = torch.Generator().manual_seed(step)
    rows = (torch.randint(0, 32, (batch_size, 1), generator=g) + torch.arange(13)) % 32
    return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), torch.zeros(batch_size, 12, dtype=torch.int64))


def noisy_loss(model, batch):
    """Draws from torch's global generator, which therefore has to be resumed as well."""
    return next_token_loss(model, batch) * (1 + 0.1 * torch.rand(()))


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def results(records):
    """What must not depend on the clock or on where a run was cut."""
    return [(r.step, r.loss, r.lr, r.grad_norm, r.tokens, r.evals) for r in records]
