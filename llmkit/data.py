"""Token streams, and the batches cut from them.

A stream is one flat array in which eos leads every document: eos d₁ eos d₂ … An eos begins the document after it and is
what ends the document before it, so the stream is read as a circle: the eos at its start also ends its last document.
Two ways to cut it into rows:

    packed    every row is full: T tokens and the T that follow them, whatever documents they belong to
    aligned   every row is one document, eos + ids → ids + eos: what an exact floor is compared with

A packed batch is a pure function of seed and step, so a resumed run needs no stored position.
Shapes: B rows, T positions.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from llmkit.tokenizer import Tokenizer

IGNORE_INDEX = -100
FORMAT = "llmkit tokens, version 1"


class Batch(NamedTuple):
    idx: torch.Tensor  # (B, T) int64
    targets: torch.Tensor  # (B, T) int64, IGNORE_INDEX where there is no loss
    doc_ids: torch.Tensor | None = None  # (B, T) int64, equal inside a document; None: nothing to keep apart


def map_tensors(batch: NamedTuple, function: Callable[[torch.Tensor], torch.Tensor]) -> NamedTuple:
    """The same NamedTuple with `function` applied to each of its tensors; None stays None."""
    return type(batch)(*(None if field is None else function(field) for field in batch))


def n_targets(batch: NamedTuple) -> int:
    """How much a batch weighs beside others: the targets that are not -100; its rows, if it has no field `targets`."""
    targets = getattr(batch, "targets", None)
    return len(batch[0]) if targets is None else int((targets != IGNORE_INDEX).sum())


def encode_documents(texts: Iterable[str], tokenizer: Tokenizer) -> np.ndarray:
    """The stream eos d₁ eos d₂ …, (N,) uint16 where the vocabulary fits, else uint32."""
    dtype = _dtype(tokenizer)
    documents = [np.array([tokenizer.eos_id, *tokenizer.encode(text)], dtype) for text in texts]
    return np.concatenate([np.empty(0, dtype), *documents])


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")


def save_tokens(path: str | Path, texts: Iterable[str], tokenizer: Tokenizer, n_in_memory: int = 1000) -> None:
    """Writes the stream of any number of documents, n_in_memory at a time, and a JSON header beside it (path + .json).

    The data take their name when they are whole and the header comes last, so an interrupted write is never read.
    """
    texts, dtype, n_tokens = iter(texts), _dtype(tokenizer), 0
    with open(f"{path}.unfinished", "wb") as file:
        while some := list(islice(texts, n_in_memory)):
            n_tokens += file.write(encode_documents(some, tokenizer).tobytes()) // dtype.itemsize
    if n_tokens == 0:
        raise ValueError(f"there is no document to write to {path}")
    header = {"format": FORMAT, "dtype": dtype.str, "n_tokens": n_tokens, "tokenizer": tokenizer.fingerprint}
    Path(f"{path}.json.unfinished").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    Path(f"{path}.json").unlink(missing_ok=True)
    os.replace(f"{path}.unfinished", path)
    os.replace(f"{path}.json.unfinished", f"{path}.json")


def load_tokens(path: str | Path, tokenizer: Tokenizer) -> np.ndarray:
    """The stream that `save_tokens` wrote with this tokenizer, (N,), mapped from disk instead of read.

    Raises ValueError if the write was interrupted, the file is damaged, or its ids are another tokenizer's.
    """
    try:
        header = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
        known, writer, n_tokens = header["format"] == FORMAT, header["tokenizer"], int(header["n_tokens"])
    except FileNotFoundError:
        raise ValueError(f"{path} has no header {path}.json: it was not written to its end; write it again") from None
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{path}.json is damaged, or no header of this llmkit ({FORMAT}); write the tokens again")
    if writer != tokenizer.fingerprint:
        raise ValueError(f"{path} was encoded by tokenizer {writer}, not {tokenizer.fingerprint}: encode it again")
    expected = n_tokens * _dtype(tokenizer).itemsize
    n_bytes = os.path.getsize(path) if os.path.exists(path) else 0
    if n_bytes != expected:
        raise ValueError(f"{path} has {n_bytes} bytes where its header promises {expected}: write it again")
    return np.memmap(path, _dtype(tokenizer), mode="r")


class PackedBatches:
    """Batches of full rows, for training: `batches(step)` is a pure function of the seed and the step.

    An epoch turns the circle of tokens by a random offset, tiles it with windows of T and shuffles these. So in an
    epoch every token is a target once, but for the N mod T that no window covers, drawn anew in each epoch.
    With doc_mask, doc_ids numbers the documents in a row, for attention to keep apart; a row may begin inside one.

    A stream mapped from disk is not read into memory: a batch reads its own rows. What is held is the order of an
    epoch, 8 bytes a window: 80 MB for 10 billion tokens (a file of 20 GB) in rows of 1,024.

    `tokens` is a stream, (N,), that begins with eos: so eos need not be told. ValueError unless N > T.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, context_length: int, seed: int, doc_mask: bool = True):
        if batch_size < 1 or context_length < 1:
            raise ValueError(f"batch_size={batch_size} and context_length={context_length} must be at least 1")
        if len(tokens) <= context_length:
            raise ValueError(f"{len(tokens)} tokens do not fill a row of context_length {context_length}: add text")
        self.tokens, self.batch_size, self.context_length = np.asarray(tokens), batch_size, context_length
        self.seed, self.doc_mask = seed, doc_mask
        self.n_windows = len(tokens) // context_length  # in an epoch
        self._epoch, self._offset, self._order = -1, 0, np.empty(0)

    def __call__(self, step: int) -> Batch:
        starts = np.array([self._start(row) for row in range(step * self.batch_size, (step + 1) * self.batch_size)])
        places = (starts[:, None] + np.arange(self.context_length + 1)) % len(self.tokens)  # (B, T + 1)
        windows = torch.from_numpy(self.tokens[places].astype(np.int64))
        idx, targets = windows[:, :-1], windows[:, 1:]  # (B, T) each
        doc_ids = (idx == int(self.tokens[0])).cumsum(1) if self.doc_mask else None  # (B, T)
        return Batch(idx.contiguous(), targets.contiguous(), doc_ids)

    def _start(self, row: int) -> int:
        """Where the window begins that is row number `row`, counted from the first batch of the first epoch."""
        epoch, i = divmod(row, self.n_windows)
        if self._epoch != epoch:
            draw = np.random.default_rng([self.seed, epoch])
            self._epoch, self._offset = epoch, draw.integers(len(self.tokens))
            self._order = draw.permutation(self.n_windows)
        return self._offset + self.context_length * self._order[i]


def to_batch(examples: Sequence[tuple[Sequence[int], Sequence[bool]]], context_length: int, pad_id: int) -> Batch:
    """A row for each (ids, loss_mask), padded on the right: a token is a target where its own mask is true.

    Raises ValueError on an example that does not fit, or that has nothing to learn: then its mask was lost on the way.
    """
    if not len(examples):
        raise ValueError("there are no examples to make a batch of")
    for i, (ids, mask) in enumerate(examples):
        if len(ids) != len(mask):
            raise ValueError(f"example {i} has {len(ids)} ids but {len(mask)} values in its loss mask")
        if len(ids) > context_length + 1:
            raise ValueError(
                f"example {i} needs {len(ids) - 1} positions, but context_length is {context_length}: "
                "leave out what does not fit, or shorten it"
            )
        if not any(mask[1:]):
            raise ValueError(f"example {i} has no target: its loss mask is false everywhere")
    rows = [torch.tensor(ids, dtype=torch.int64) for ids, _ in examples]
    learned = [
        row.where(torch.tensor(mask, dtype=torch.bool), IGNORE_INDEX)
        for row, (_, mask) in zip(rows, examples, strict=True)
    ]
    idx = pad_sequence([row[:-1] for row in rows], True, pad_id)  # (B, T) where T + 1 is the longest
    return Batch(idx, pad_sequence([row[1:] for row in learned], True, IGNORE_INDEX))


def aligned_batches(
    documents: Sequence[Sequence[int]], batch_size: int, context_length: int, eos_id: int
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Yields (batch, which): rows of one document each, longest first, and their places in `documents`, (B,) int64.

    Every id and the closing eos is a target, so the summed loss of a row is the model's whole price of the document.
    Raises ValueError on a document of context_length ids or more: leave these out before the floor is taken, so that
    model and floor are compared on the same texts.
    """
    too_long = sum(len(ids) >= context_length for ids in documents)
    if too_long:
        raise ValueError(
            f"{too_long} of {len(documents)} documents do not fit: with its eos a document may have at most "
            f"context_length = {context_length} tokens; keep those with len(ids) < {context_length}"
        )
    order = sorted(range(len(documents)), key=lambda i: -len(documents[i]))  # little padding
    for first in range(0, len(order), batch_size):
        which = order[first : first + batch_size]
        rows = [[eos_id, *documents[i], eos_id] for i in which]
        yield to_batch([(row, [True] * len(row)) for row in rows], context_length, eos_id), torch.tensor(which)
