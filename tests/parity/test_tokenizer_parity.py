"""The tokenizer against tiktoken (ids, on exported ranks) and the Rust library `tokenizers` (merges and ids)."""

import json
import random
from pydoc_data.topics import topics

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers, trainers

from llmkit.tokenizer import PATTERN, SPECIAL_TOKENS, Tokenizer

REFERENCE = "\n".join(topics.values())
ASSIGNED_EVERYWHERE = st.text(
    st.characters(max_codepoint=0x52F, exclude_categories=["Cs", "Cn"]) | st.sampled_from("中文，あ🙂")
)

_visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
PRINTED = {byte: chr(byte) for byte in _visible}  # GPT-2's printable stand-ins for the bytes
PRINTED |= {byte: chr(256 + i) for i, byte in enumerate(sorted(set(range(256)) - set(_visible)))}


def train_rust(texts, vocab_size):
    rust = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    rust.train_from_iterator(texts, trainer)
    return rust


def printed(tokenizer, id):
    return "".join(PRINTED[byte] for byte in tokenizer.token_bytes(id))


def assert_same_merges(tokenizer, rust):
    theirs = [tuple(pair) for pair in json.loads(rust.to_str())["model"]["merges"]]
    assert [(printed(tokenizer, m.left), printed(tokenizer, m.right)) for m in tokenizer.merges] == theirs


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([REFERENCE], 4096)


@pytest.fixture(scope="module")
def rust():
    return train_rust([REFERENCE], 4096)


def test_merges_equal_the_rust_library_ties_included(tokenizer, rust):
    assert len(tokenizer.merges) == 4096 - 256 - 9
    assert_same_merges(tokenizer, rust)


@pytest.mark.filterwarnings("ignore:no pair is left")
@pytest.mark.parametrize("seed", range(20))
def test_merges_equal_the_rust_library_where_almost_all_is_a_tie(seed):
    draw = random.Random(seed)
    texts = ["".join(draw.choices("aab \té中\n1,'", k=60)) for _ in range(4)]
    assert_same_merges(Tokenizer.train(texts, 400), train_rust(texts, 400))


@given(ASSIGNED_EVERYWHERE)
def test_ids_equal_the_rust_library(tokenizer, rust, text):
    assert [printed(tokenizer, id) for id in tokenizer.encode(text)] == rust.encode(text).tokens


def test_ids_equal_the_rust_library_on_the_reference(tokenizer, rust):
    assert [printed(tokenizer, id) for id in tokenizer.encode(REFERENCE)] == rust.encode(REFERENCE).tokens


@given(ASSIGNED_EVERYWHERE)
def test_the_definition_equals_tiktoken_on_exported_ranks(tokenizer, text):
    assert tokenizer.encode_plain(text) == tokenizer.to_tiktoken().encode_ordinary(text)


def test_the_export_is_whole(tokenizer):
    exported = tokenizer.to_tiktoken()
    assert tokenizer.encode_plain(REFERENCE) == exported.encode_ordinary(REFERENCE)
    assert exported.n_vocab == tokenizer.vocab_size and exported.eot_token == tokenizer.eos_id
    assert exported.encode("a<|end|>b", allowed_special="all") == [97, tokenizer.special_tokens["<|end|>"], 98]
    assert [exported.decode_single_token_bytes(i) for i in range(exported.n_vocab)] == [
        tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)
    ]
