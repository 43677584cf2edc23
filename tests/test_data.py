import json
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmkit import data
from llmkit.config import preset
from llmkit.device import peak_memory_bytes
from llmkit.model import Transformer
from llmkit.tokenizer import Tokenizer
from llmkit.train import fit

TEXTS = ["Ann has a cat.", "", "Bob has Ann's cat.", "é 中", "the cat has Bob", "a" * 50]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS * 3, 290)


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return data.encode_documents(TEXTS * 5, tokenizer)


def test_every_document_is_led_by_eos(tokenizer, tokens):
    eos = tokenizer.eos_id
    expected = [id for text in TEXTS for id in [eos, *tokenizer.encode(text)]] * 5
    assert tokens.tolist() == expected and tokens.dtype == np.uint16
    assert len(data.encode_documents([], tokenizer)) == 0


def test_a_large_vocabulary_gets_wider_ids():
    class Large:
        vocab_size, eos_id = 100_000, 99_999

        def encode(self, text):
            return [70_000]

    assert data.encode_documents(["x"], Large()).tolist() == [99_999, 70_000]


# ---- token files ----


def test_a_token_file_comes_back_as_written(tokenizer, tokens, tmp_path):
    path = tmp_path / "tokens.bin"
    data.save_tokens(path, iter(TEXTS * 5), tokenizer, n_in_memory=4)
    loaded = data.load_tokens(path, tokenizer)
    assert isinstance(loaded, np.memmap) and np.array_equal(loaded, tokens)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tokens.bin", "tokens.bin.json"]
    one, other = (data.PackedBatches(stream, 2, 16, seed=0)(3) for stream in (loaded, tokens))
    assert all(map(torch.equal, one, other))


def test_the_texts_are_streamed(tokenizer, tmp_path):
    asked = []

    def texts():
        for _ in range(10):
            asked.append((tmp_path / "t.unfinished").stat().st_size)
            yield "a" * 100_000

    data.save_tokens(tmp_path / "t", texts(), tokenizer, n_in_memory=2)
    assert asked == sorted(asked) and 0 < asked[5] < asked[9]


def test_an_interrupted_write_leaves_the_old_file(tokenizer, tokens, tmp_path):
    path = tmp_path / "tokens.bin"
    data.save_tokens(path, TEXTS * 5, tokenizer)

    def failing():
        yield TEXTS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.save_tokens(path, failing(), tokenizer)
    assert np.array_equal(data.load_tokens(path, tokenizer), tokens)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path, header: path.write_bytes(path.read_bytes()[:-1]), "bytes where its header promises"),
        (lambda path, header: path.unlink(), "has 0 bytes where its header promises"),
        (lambda path, header: header.unlink(), "was not written to its end"),
        (lambda path, header: header.write_text("{"), "is damaged, or no header"),
        (lambda path, header: header.write_bytes(b"\xff"), "is damaged, or no header"),
        (lambda path, header: header.write_text("[1]"), "is damaged, or no header"),
        (lambda path, header: header.write_text('{"format": "npy"}'), "is damaged, or no header"),
        (
            lambda path, header: header.write_text(json.dumps(json.loads(header.read_text()) | {"tokenizer": "0f"})),
            "was encoded by tokenizer 0f, not",
        ),
    ],
)
def test_a_spoilt_token_file_gets_a_sentence(tokenizer, tmp_path, spoil, sentence):
    path, header = tmp_path / "tokens.bin", tmp_path / "tokens.bin.json"
    data.save_tokens(path, TEXTS, tokenizer)
    spoil(path, header)
    with pytest.raises(ValueError, match=sentence):
        data.load_tokens(path, tokenizer)


def test_no_documents_is_an_error(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="there is no document to write"):
        data.save_tokens(tmp_path / "t", [], tokenizer)


@pytest.mark.skipif(peak_memory_bytes() is None, reason="this platform does not tell a process's peak memory")
def test_a_large_token_file_trains_without_being_read(tokenizer, tmp_path):
    path, n_tokens = tmp_path / "large.bin", 2**31  # 4 GiB of zeros, of which the disk holds next to nothing
    with open(path, "wb") as file:
        file.truncate(2 * n_tokens)
    header = {"format": data.FORMAT, "dtype": "<u2", "n_tokens": n_tokens, "tokenizer": tokenizer.fingerprint}
    (tmp_path / "large.bin.json").write_text(json.dumps(header))
    model = Transformer(preset("nano", context_length=1024))
    small = data.PackedBatches(np.zeros(2000, np.uint16), 1, 1024, seed=0)
    before = fit(model, small, 3)[-1].peak_bytes  # the model's own work
    large = data.PackedBatches(data.load_tokens(path, tokenizer), 1, 1024, seed=0)
    assert large.n_windows == 2**21  # in an order that takes 16 MiB
    assert fit(model, large, 3)[-1].peak_bytes - before < 2**26


# ---- packed rows ----


def epoch_of(batches, epoch):
    """Rows of one epoch, whatever batches they fell into."""
    n = batches.n_windows
    first, last = epoch * n // batches.batch_size, (epoch + 1) * n // batches.batch_size
    rows = [row for step in range(first, last + 1) for row in zip(*batches(step), strict=True)]
    skipped = epoch * n - first * batches.batch_size
    return rows[skipped : skipped + n]


@given(st.integers(9, 60), st.integers(1, 8), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_holds_every_token_once(n_tokens, context_length, batch_size, epoch):
    tokens = np.arange(n_tokens)  # each token its own place
    batches = data.PackedBatches(tokens, batch_size, context_length, seed=7)
    rows = epoch_of(batches, epoch)
    targets = torch.cat([targets for _, targets, _ in rows]).tolist()
    assert len(set(targets)) == len(targets) == n_tokens - n_tokens % context_length
    for idx, targets, _ in rows:
        assert ((idx + 1) % n_tokens == targets).all()  # the target is the next token, around the circle


def test_a_batch_is_a_function_of_seed_and_step(tokens):
    def make(seed):
        return data.PackedBatches(tokens, 4, 16, seed)

    used, fresh = make(1), make(1)
    for step in (0, 1, 50, 3):
        used(step)
    assert all(torch.equal(a, b) for a, b in zip(used(2), fresh(2), strict=True))
    assert not torch.equal(make(1)(2).idx, make(2)(2).idx)


def test_epochs_differ_in_offset_and_order():
    batches = data.PackedBatches(np.arange(101), 1, 10, seed=0)
    starts = [[idx[0].item() for idx, _, _ in epoch_of(batches, epoch)] for epoch in range(3)]
    assert len({frozenset(start % 10 for start in epoch) for epoch in starts}) > 1
    for epoch in starts:
        assert any((later - earlier) % 101 != 10 for earlier, later in pairwise(epoch))


def test_the_contract_of_a_batch(tokenizer, tokens):
    batch = data.PackedBatches(tokens, 3, 16, seed=0)(0)
    for part in batch:
        assert part.shape == (3, 16) and part.dtype == torch.int64 and part.is_contiguous()
    assert data.PackedBatches(tokens, 3, 16, seed=0, doc_mask=False)(0).doc_ids is None


def test_doc_ids_change_exactly_at_eos(tokenizer, tokens):
    idx, _, doc_ids = data.PackedBatches(tokens, 8, 32, seed=0)(0)
    begins = idx == tokenizer.eos_id
    assert begins.any()
    assert torch.equal(doc_ids.diff(dim=1), begins[:, 1:].long())


def test_too_few_tokens_for_a_row():
    with pytest.raises(ValueError, match="16 tokens do not fill a row of context_length 16"):
        data.PackedBatches(np.zeros(16, np.uint16), 1, 16, seed=0)
    for batch_size, context_length in ((0, 8), (2, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            data.PackedBatches(np.zeros(16, np.uint16), batch_size, context_length, seed=0)


# ---- aligned rows and chat rows ----


def test_aligned_rows_are_whole_documents_in_both_directions():
    documents = [[1, 2, 3], [], [4, 5], [6], np.array([7, 8, 9, 1], np.uint16)]
    seen = []
    for batch, which in data.aligned_batches(documents, 2, context_length=5, eos_id=0):
        assert batch.doc_ids is None and batch.idx.dtype == batch.targets.dtype == which.dtype == torch.int64
        assert batch.idx.shape == (len(which), max(len(documents[i]) for i in which) + 1)
        for idx, targets, i in zip(batch.idx, batch.targets, which.tolist(), strict=True):
            document, n = list(documents[i]), len(documents[i]) + 1
            assert idx[:n].tolist() == [0, *document] and targets[:n].tolist() == [*document, 0]
            assert (idx[n:] == 0).all() and (targets[n:] == -100).all()
            seen.append(i)
    assert sorted(seen) == list(range(5)) and seen[0] == 4


def test_aligned_rows_refuse_what_does_not_fit():
    documents = [[1] * 4, [1] * 5, [1] * 6]
    with pytest.raises(ValueError, match=r"2 of 3 documents do not fit.*keep those with len\(ids\) < 5"):
        next(data.aligned_batches(documents, 2, context_length=5, eos_id=0))
    assert len(list(islice(data.aligned_batches(documents[:1], 2, context_length=5, eos_id=0), 2))) == 1


def test_a_target_stands_where_its_own_mask_is_true():
    examples = [([9, 1, 2, 3], [False, False, True, True]), ([9, 4], [False, True])]
    batch = data.to_batch(examples, context_length=8, pad_id=0)
    assert batch.idx.tolist() == [[9, 1, 2], [9, 0, 0]]
    assert batch.targets.tolist() == [[-100, 2, 3], [4, -100, -100]]


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (([1, 2, 3], [False, True]), "3 ids but 2 values"),
        (([1, 2, 3, 4], [False, True, True, True]), "needs 3 positions, but context_length is 2"),
        (([1, 2, 3], [True, False, False]), "has no target"),
    ],
)
def test_bad_examples_are_named(example, sentence):
    with pytest.raises(ValueError, match="example 1 .*" + sentence):
        data.to_batch([([1, 2], [False, True]), example], context_length=2, pad_id=0)
    with pytest.raises(ValueError, match="no examples"):
        data.to_batch([], context_length=2, pad_id=0)
