"""logprobs: against log_softmax, and silent where the target is ignored."""

import math

import pytest
import torch

from llmkit.config import preset
from llmkit.logprobs import sequence_logprobs, token_logprobs
from llmkit.model import Transformer


def example(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, 5, 11, generator=g) * 3, torch.randint(0, 11, (2, 5), generator=g)


def test_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)]]])
    assert token_logprobs(logits, torch.tensor([[1]])).item() == pytest.approx(math.log(0.75))


@pytest.mark.parametrize("ignored", [0, 3, 10])
def test_equals_log_softmax_with_its_gradient(ignored):
    logits, targets = example()
    targets.view(-1)[:ignored] = -100
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    got = token_logprobs(a, targets)
    expected = -torch.nn.functional.cross_entropy(b.flatten(0, 1), targets.flatten(), reduction="none").view(2, 5)
    torch.testing.assert_close(got, expected)
    (got * torch.arange(10).view(2, 5)).sum().backward()
    (expected * torch.arange(10).view(2, 5)).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_ignored_positions_cannot_spread_nan():
    logits, targets = example()
    targets[0, 3:] = -100
    logits[0, 3:] = torch.nan
    logits.requires_grad_()
    got = token_logprobs(logits, targets)
    assert got.isfinite().all() and (got[0, 3:] == 0).all()
    got.sum().backward()
    assert logits.grad.isfinite().all() and (logits.grad[0, 3:] == 0).all()


def test_half_precision_logits_are_summed_in_float32():
    logits, targets = example()
    low = logits.bfloat16()
    torch.testing.assert_close(token_logprobs(low, targets), token_logprobs(low.float(), targets))


def test_sequence_logprobs_is_the_sum_over_kept_targets():
    torch.manual_seed(0)
    net = Transformer(preset("nano", n_layer=1, vocab_size=11))
    idx = torch.randint(0, 11, (3, 6))
    targets = torch.randint(0, 11, (3, 6))
    targets[0, :4] = -100
    targets[2] = -100
    expected = net(idx).log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1) * (targets != -100)
    torch.testing.assert_close(sequence_logprobs(net, idx, targets), expected.sum(-1))


def test_bad_targets_are_refused():
    logits, targets = example()
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        token_logprobs(logits, targets[:, 1:])
    with pytest.raises(ValueError, match="0 .. 10"):
        token_logprobs(logits, targets + 11)
