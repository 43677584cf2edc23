"""Tokenizer speed beside its peers.  `python -m tests.benchmarks.tokenizer [rounds]`

Everything runs on the Python reference that comes with Python (pydoc_data.topics), in turns, so that a busy machine
slows all alike; a ratio is the median over rounds of this library's time over the peer's time in the same round.
"""

import statistics
import sys
from pydoc_data.topics import topics

from llmkit.tokenizer import Tokenizer
from tests.benchmarks.measure import in_turns, ratio
from tests.parity.test_tokenizer_parity import train_rust

TEXT, VOCAB_SIZE = "\n".join(topics.values()), 4096


def compare(task: str, ours, peer: str, theirs, limit: float, rounds: int) -> None:
    seconds = in_turns({"llmkit": ours, peer: theirs}, rounds)
    times = "   ".join(f"{name} {statistics.median(some) * 1e3:6.1f} ms" for name, some in seconds.items())
    print(f"{task:<9} {times}   ratio {ratio(*seconds.values()):.2f} (at most {limit})")


def main(rounds: int = 15, text: str = TEXT, vocab_size: int = VOCAB_SIZE) -> None:
    print(f"{len(text.encode()) / 1e6:.2f} MB, vocabulary {vocab_size}, medians of {rounds} rounds in turns")
    tokenizer = Tokenizer.train([text], vocab_size)
    exported = tokenizer.to_tiktoken()
    train, train_peer = lambda: Tokenizer.train([text], vocab_size), lambda: train_rust([text], vocab_size)
    compare("training", train, "tokenizers", train_peer, 2.5, rounds)
    encode, encode_peer = lambda: tokenizer.encode(text), lambda: exported.encode_ordinary(text)
    compare("encoding", encode, "tiktoken  ", encode_peer, 1.1, rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
