"""filter_logits keeps what the Hugging Face processors keep, bit for bit, ties and extremes included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.sampling import filter_logits

logits_process = pytest.importorskip("transformers.generation.logits_process")

# A small pool makes ties and saturated softmaxes common; the floats make everything else possible.
LOGIT = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1.5, 30.0, -30.0, 1e4, -1e4, 1e-7, float("-inf")]),
    st.floats(-50, 50, width=32),
)
FRACTION = st.one_of(st.none(), st.sampled_from([0.0, 1e-6, 0.25, 0.5, 0.75, 0.9, 0.999, 1.0]), st.floats(0, 1))


@st.composite
def logit_rows(draw):
    n_rows, vocab = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    rows = [draw(st.lists(LOGIT, min_size=vocab, max_size=vocab)) for _ in range(n_rows)]
    for row in rows:
        if max(row) == float("-inf"):
            row[0] = 0.0  # a row without any token is an error here, NaN there
    return torch.tensor(rows)


def processors(logits, temperature, top_k, top_p, min_p):
    """The processors as transformers' generate builds them: neutral values are left out."""
    chain = []
    if temperature != 1.0:
        chain.append(logits_process.TemperatureLogitsWarper(temperature))
    if top_k is not None:
        chain.append(logits_process.TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1.0:
        chain.append(logits_process.TopPLogitsWarper(top_p))
    if min_p is not None:
        chain.append(logits_process.MinPLogitsWarper(min_p))
    for processor in chain:
        logits = processor(None, logits)
    return logits


def assert_same(logits, temperature, top_k, top_p, min_p):
    ours = filter_logits(logits, temperature, top_k, top_p, min_p)
    theirs = processors(logits, temperature, top_k, top_p, min_p)
    assert torch.equal(ours.isneginf(), theirs.isneginf())
    assert torch.equal(ours.softmax(-1), theirs.softmax(-1))


@settings(max_examples=600, deadline=None)
@given(
    logits=logit_rows(),
    temperature=st.one_of(st.just(1.0), st.floats(0.01, 100)),
    top_k=st.one_of(st.none(), st.integers(1, 15)),
    top_p=FRACTION,
    min_p=FRACTION,
)
def test_same_kept_set_and_probabilities(logits, temperature, top_k, top_p, min_p):
    assert_same(logits, temperature, top_k, top_p, min_p)


@pytest.mark.parametrize("vocab", [17, 1024, 50_257])
def test_same_on_real_vocabulary_sizes(vocab):
    logits = torch.randn(8, vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    logits[0] = 0.0  # a uniform row: the nucleus must cut through ties at the same place
    for settings_ in [(0.7, 50, 0.9, 0.05), (1.3, None, 0.5, None), (1.0, 5, None, 0.3), (0.2, None, 0.99, 0.01)]:
        assert_same(logits, *settings_)
