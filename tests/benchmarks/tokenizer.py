"""Tokenizer speed beside its peers: python -m tests.benchmarks.tokenizer

Everything runs on the Python reference that comes with Python (pydoc_data.topics), in turns, so that a busy machine
slows all alike; a ratio is the median over rounds of this library's time over the peer's time in the same round.
"""

import statistics
import time
from pydoc_data.topics import topics

from llmkit.tokenizer import Tokenizer
from tests.parity.test_tokenizer_parity import train_rust

VOCAB_SIZE, ROUNDS = 4096, 15


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(task: str, ours, peer: str, theirs, limit: float) -> None:
    ours(), theirs()
    rounds = []
    for turn in range(ROUNDS):  # who goes first alternates
        first, second = (ours, theirs) if turn % 2 else (theirs, ours)
        times = seconds(first), seconds(second)
        rounds.append(times if turn % 2 else times[::-1])
    mine, other = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    print(f"{task:<9} llmkit {mine * 1e3:6.1f} ms   {peer} {other * 1e3:6.1f} ms   ratio {ratio:.2f} (at most {limit})")


def main() -> None:
    text = "\n".join(topics.values())
    print(f"{len(text.encode()) / 1e6:.2f} MB, vocabulary {VOCAB_SIZE}, medians of {ROUNDS} rounds in turns")
    tokenizer = Tokenizer.train([text], VOCAB_SIZE)
    exported = tokenizer.to_tiktoken()
    compare(
        "training",
        lambda: Tokenizer.train([text], VOCAB_SIZE),
        "tokenizers",
        lambda: train_rust([text], VOCAB_SIZE),
        2.5,
    )
    compare("encoding", lambda: tokenizer.encode(text), "tiktoken  ", lambda: exported.encode_ordinary(text), 1.1)


if __name__ == "__main__":
    main()
