"""Unigram encoding against sentencepiece: its trained pieces in our class, and ours in its model file."""

import io
import math
import struct
from pydoc_data.topics import topics

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from llmkit.tokenizer import SPECIAL_TOKENS
from llmkit.unigram import BEFORE_SPACES, Unigram
from llmkit.world import World

TRAINING = [topics[name] for name in sorted(topics)[:12]]
OTHER = [topics[name] for name in sorted(topics)[12:40]]
UNICODE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60)
ENGLISH = st.lists(st.sampled_from(" ".join(OTHER[:4]).split(" ")), max_size=30).map(" ".join)
TIES = st.text("aab *=-\n", max_size=80)  # runs, where many segmentations have the same probability
TEXTS = UNICODE | ENGLISH | TIES


def sp_train(texts, **options):
    """A sentencepiece processor and our tokenizer with its pieces, and the ids of ours by the ids of theirs."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="unigram", vocab_size=800, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1, minloglevel=2,
        max_sentence_length=10**6, **options,
    )  # fmt: skip
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    special = (sp.is_byte, sp.is_control, sp.is_unknown)
    normal = [id for id in range(sp.vocab_size()) if not any(is_special(id) for is_special in special)]
    unigram = Unigram([(sp.id_to_piece(id), sp.get_score(id)) for id in normal], BEFORE_SPACES)
    to_ours = {sp.piece_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
    return sp, unigram, to_ours | {id: place for place, id in enumerate(normal, start=256)}


def sp_export(unigram):
    """Our pieces as a sentencepiece model with equal ids, its unknown token last: protobuf's wire format by hand."""

    def base128(n):
        return bytes([n]) if n < 128 else bytes([n % 128 + 128]) + base128(n // 128)

    def number(field, value):
        return base128(field * 8) + base128(value)

    def message(field, payload):
        return base128(field * 8 + 2) + base128(len(payload)) + payload

    normal, unknown, control, byte = 1, 2, 3, 6
    rows = [(f"<0x{value:02X}>", 0.0, byte) for value in range(256)]
    rows += [(piece.text, piece.logprob, normal) for piece in unigram.pieces]
    rows += [(name, 0.0, control) for name in SPECIAL_TOKENS] + [("<unk>", 0.0, unknown)]
    pieces = [message(1, message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + number(3, kind))
              for text, score, kind in rows]  # fmt: skip
    trainer = number(3, 1) + number(35, 1) + message(47, SPECIAL_TOKENS[0].encode())  # unigram, byte_fallback, eos
    normalizer = message(1, b"identity") + number(3, 0) + number(4, 0) + number(5, 1)  # only spaces become ▁
    model = b"".join(pieces) + message(2, trainer) + message(3, normalizer)
    return sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.fixture(scope="module")
def imported():
    return sp_train(TRAINING, add_dummy_prefix=False)


@pytest.fixture(scope="module")
def ours():
    return Unigram.train(TRAINING, 1024)


@pytest.fixture(scope="module")
def exported(ours):
    return sp_export(ours)


def cost(unigram, ids):
    """−log P of a segmentation, its unknown characters left out."""
    return -math.fsum(unigram.pieces[id - 256].logprob for id in ids if id >= 256)


def assert_equal_or_tied(unigram, ids, theirs):
    """The same ids; or the same text at the same cost, as near as float32 sums can tell."""
    if ids != theirs:
        assert unigram.decode(ids) == unigram.decode(theirs)
        assert cost(unigram, ids) == pytest.approx(cost(unigram, theirs), rel=3e-7 * len(ids))


@given(TEXTS)
def test_ids_with_sentencepieces_own_pieces(imported, text):
    sp, unigram, to_ours = imported
    theirs = [to_ours[id] for id in sp.encode(text)]
    assert list(unigram.encode_word(text)) == theirs
    assert_equal_or_tied(unigram, unigram.encode(text), theirs)
    for word in unigram.pre_tokens(text):
        assert list(unigram.encode_word(word)) == [to_ours[id] for id in sp.encode(word)]


@given(TEXTS)
def test_ids_with_our_pieces(ours, exported, text):
    theirs = exported.encode(text)
    assert list(ours.encode_word(text)) == theirs
    assert_equal_or_tied(ours, ours.encode(text), theirs)
    assert exported.decode(theirs) == ours.decode(theirs) == text


def test_ids_on_long_texts(imported, ours, exported):
    sp, unigram, to_ours = imported
    town = "\n".join(d.text for d in World(0).documents(50, 1))
    for text in [*OTHER, town]:
        assert list(unigram.encode_word(text)) == [to_ours[id] for id in sp.encode(text)]
        assert list(ours.encode_word(text)) == exported.encode(text)
        assert_equal_or_tied(ours, ours.encode(text), exported.encode(text))


def test_rounding_settles_ties_by_what_stands_before():
    # "▁" "aa" "a" and "▁" "a" "aa" cost the same; so the docstring of Unigram promises less for `encode`.
    unigram = Unigram([("a", -2.3), ("aa", -3.1), ("b", -1.3), ("▁", -1.9)], BEFORE_SPACES)
    exported, differ = sp_export(unigram), 0
    for n in range(100):
        text = "b" * n + " aaa"
        assert list(unigram.encode_word(text)) == exported.encode(text)
        assert_equal_or_tied(unigram, unigram.encode(text), exported.encode(text))
        differ += unigram.encode(text) != exported.encode(text)
    assert differ == 6


@given(TEXTS)
def test_a_dummy_prefix_is_a_space_before_the_text(imported_with_prefix, text):
    sp, unigram, to_ours = imported_with_prefix
    ours = list(unigram.encode_word(" " + text)) if text else []
    assert ours == [to_ours[id] for id in sp.encode(text)]


@pytest.fixture(scope="module")
def imported_with_prefix():
    return sp_train(TRAINING, add_dummy_prefix=True)


@given(st.text("abc", min_size=1, max_size=8))
def test_n_best_have_the_same_probabilities(ours, exported, word):
    theirs = exported.nbest_encode(word, nbest_size=6)
    found = ours.n_best(word, 6)
    assert [cost(ours, ids) for ids, _ in found] == pytest.approx([cost(ours, ids) for ids in theirs], rel=1e-5)


def test_where_we_differ_the_sign_for_a_space_survives_as_itself(ours, exported):
    text = "a▁b"
    assert ours.decode(ours.encode(text)) == text
    assert exported.decode(exported.encode(text)) == "a b"


def test_the_export_is_whole(ours, exported):
    assert exported.vocab_size() == ours.vocab_size + 1 and exported.eos_id() == ours.eos_id
    names = "".join(SPECIAL_TOKENS)
    assert exported.encode(names) == ours.encode(names) and max(ours.encode(names)) < ours.eos_id


def test_training_compresses_unseen_text_as_well_as_theirs(imported, ours):
    sp, unigram, _ = imported
    n_pieces = min(len(unigram.pieces), len(ours.pieces))
    ours = Unigram.train(TRAINING, n_pieces + 265)
    theirs = sum(len(sp.encode(text)) for text in OTHER)
    assert len(ours.pieces) == len(unigram.pieces)
    assert sum(len(ours.encode(text)) for text in OTHER) < 0.95 * theirs  # indentation in one piece
