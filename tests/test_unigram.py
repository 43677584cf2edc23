import itertools
import math
import random
from collections import Counter
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmkit.data import load_tokens, save_tokens
from llmkit.tokenizer import SPECIAL_TOKENS, Tokenizer
from llmkit.unigram import BEFORE_SPACES, PATTERN, PieceModel, Unigram, common_characters, maximise, prune
from llmkit.world import World

REFERENCE = [topics[name] for name in sorted(topics)][:12]
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))  # any text but lone surrogates
NEAR_MISSES = st.text("ab é'  \n\t1２.,\u00a0…▁\u0558\U0001f600") | st.text("e t▁", max_size=40)
TOY = {"a": -2.0, "b": -2.5, "c": -4.0, "ab": -3.0, "bc": -3.5, "abc": -6.0, "aa": -3.2}


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.fixture(scope="module")
def town(world):
    return Unigram.train([d.text for d in world.documents(500, 1)], 1024)


@pytest.fixture(scope="module")
def reference():
    return Unigram.train(REFERENCE, 1024)


def segmentations(text, model):
    """All of them by the definition: every set of cuts, if each part is a piece or an unknown character."""
    for cuts in itertools.product([False, True], repeat=max(len(text) - 1, 0)):
        places = [0, *(i for i, cut in enumerate(cuts, start=1) if cut), len(text)]
        parts = [text[i:j] for i, j in itertools.pairwise(places)]
        unknown = {part for part in parts if len(part) == 1} - model.logprobs.keys()
        if all(part in model.logprobs or part in unknown for part in parts):
            yield parts, sum(model.logprobs.get(part, model.unknown) for part in parts)


# ---- the lattice, against enumeration ----

TOY_TEXTS = st.text("abcx", min_size=1, max_size=9)


@given(TOY_TEXTS)
def test_viterbi_finds_the_best_of_all(text):
    model = PieceModel(TOY)
    best = max(logprob for _, logprob in segmentations(text, model))
    pieces, logprob = model.viterbi(text)
    assert logprob == pytest.approx(best, rel=1e-6)
    assert (pieces, pytest.approx(best)) in list(segmentations(text, model))


@given(TOY_TEXTS, st.integers(1, 5))
def test_n_best_are_the_best_of_all(text, n):
    model = PieceModel(TOY)
    everything = {tuple(pieces): logprob for pieces, logprob in segmentations(text, model)}
    found = model.n_best(text, n)
    assert [p for _, p in found] == pytest.approx(sorted(everything.values(), reverse=True)[:n])
    assert len({tuple(pieces) for pieces, _ in found}) == len(found)
    assert all(everything[tuple(pieces)] == pytest.approx(logprob) for pieces, logprob in found)


@given(TOY_TEXTS)
def test_expected_counts_are_the_average_over_all(text):
    model = PieceModel(TOY)
    counts, nats = model.expected_counts({text: 3})
    total = math.log(sum(math.exp(logprob) for _, logprob in segmentations(text, model)))
    expected = Counter()
    for pieces, logprob in segmentations(text, model):
        for piece in pieces:
            expected[piece] += 3 * math.exp(logprob - total)
    assert nats == pytest.approx(-3 * total)
    assert counts == pytest.approx({piece: expected[piece] for piece in TOY})


def test_sampling_follows_the_power_of_the_probability():
    model, generator, n = PieceModel(TOY), random.Random(0), 20_000
    for alpha in (0.0, 0.5, 1.0):
        drawn = Counter(tuple(model.sample("aabcb", alpha, generator)) for _ in range(n))
        weights = {tuple(pieces): math.exp(alpha * logprob) for pieces, logprob in segmentations("aabcb", model)}
        expected = {pieces: n * weight / sum(weights.values()) for pieces, weight in weights.items()}
        assert drawn.keys() <= expected.keys()
        chi2 = sum((drawn[pieces] - e) ** 2 / e for pieces, e in expected.items())
        assert len(expected) == 6 and chi2 < 20.5  # 5 degrees of freedom, p = 0.001


def test_a_case_done_by_hand():
    # "aa": a·a costs 2 · 2.0 = 4.0, aa 3.2. With p(a·a) = e^-4 and p(aa) = e^-3.2, aa is expected e^-3.2 / (sum) times.
    counts, nats = PieceModel(TOY).expected_counts({"aa": 1})
    assert PieceModel(TOY).viterbi("aa")[0] == ["aa"]
    assert counts["aa"] == pytest.approx(1 / (1 + math.exp(-0.8))) and counts["a"] == pytest.approx(
        2 - 2 * counts["aa"]
    )
    assert nats == pytest.approx(-math.log(math.exp(-4) + math.exp(-3.2)))


def test_among_equals_the_last_piece_is_longest():
    assert PieceModel({"a": -1.0, "aa": -1.5}).viterbi("aaa")[0] == ["a", "aa"]


def test_long_words_do_not_underflow():
    counts, nats = PieceModel(TOY).expected_counts({"ab" * 20_000: 1})
    assert math.isfinite(nats) and counts["a"] + counts["ab"] == pytest.approx(20_000)
    assert "".join(PieceModel(TOY).sample("ab" * 5_000, 1.0, random.Random(0))) == "ab" * 5_000


# ---- training ----


def test_the_m_step_divides_by_the_sum_and_gives_each_piece_half_a_count_at_least():
    model = maximise({"a": 3.0, "b": 0.5, "c": 0.001})
    assert model.logprobs == pytest.approx({"a": math.log(3 / 4), "b": math.log(1 / 8), "c": math.log(1 / 8)})


def test_em_never_makes_the_text_less_probable():
    words = Counter({"abab": 40, "ab": 30, "aab": 20, "bb": 25})
    counts, history = {"a": 1, "b": 1, "ab": 1, "aa": 1, "abab": 1, "bb": 1}, []
    for _ in range(10):
        counts, nats = maximise(counts).expected_counts(words)
        history.append(nats)
    assert history == sorted(history, reverse=True) and history[0] - history[-1] > 10


def test_pruning_keeps_what_would_be_missed_and_what_it_must():
    words = Counter({"the": 100, "cat": 2})
    model = maximise(dict.fromkeys([*"thecat", "the", "cat", "th"], 1.0))
    for _ in range(3):
        counts, _ = model.expected_counts(words)
        model = maximise(counts)
    assert prune(model, counts, set("theca"), 6).keys() == {*"theca", "the"}


def test_the_seeds_shrink_to_the_vocabulary_asked_for(town, reference):
    for unigram in (town, reference):
        assert unigram.vocab_size == 1024 and len(unigram.pieces) == 1024 - 256 - 9
        sizes = [r.n_pieces for r in unigram.rounds]
        assert sizes[0] > 3_000 and sizes == sorted(sizes, reverse=True) and sizes[-1] == len(unigram.pieces)


def test_probabilities_sum_to_one_and_pieces_are_sorted(town):
    assert math.fsum(math.exp(piece.logprob) for piece in town.pieces) == pytest.approx(1, abs=1e-6)
    assert [p.logprob for p in town.pieces] == sorted((p.logprob for p in town.pieces), reverse=True)


def test_the_town_gets_words_as_pieces(town):
    texts = {piece.text for piece in town.pieces}
    assert {"▁the", "▁friend", "▁Street", "."} <= texts
    assert town.decode(town.encode("The cat")) == "The cat" and len(town.encode(" the friend")) == 2


def test_the_text_grows_more_probable_with_more_pieces_and_tokens_longer():
    texts = REFERENCE[:5]
    small, large = Unigram.train(texts, 400), Unigram.train(texts, 700)
    n_small, n_large = (sum(len(u.encode(text)) for text in texts) for u in (small, large))
    assert large.rounds[-1].nats < 0.95 * small.rounds[-1].nats and n_large < 0.85 * n_small


def test_training_does_not_depend_on_the_order_of_texts(reference):
    assert Unigram.train(REFERENCE[::-1], 1024).fingerprint == reference.fingerprint


def test_common_characters_cover_the_text_and_rare_ones_are_bytes():
    words = Counter({"ab": 5_000, "é▁": 1})
    assert common_characters(words) == {"a", "b"}
    assert common_characters(Counter({"ab": 1})) == {"a", "b"}


@pytest.mark.filterwarnings("ignore:the texts hold")
def test_bad_input_is_refused_with_what_to_do():
    with pytest.warns(UserWarning, match="the texts hold 3 of 35 pieces"):
        assert {p.text for p in Unigram.train(["abab"], 300).pieces} == {"a", "b", "ab"}
    for texts, vocab_size, message in [
        (["abc"], 265, "a piece need 266"),
        ([""], 300, "no text"),
        (["".join(map(chr, range(0x4E00, 0x4E64)))], 300, "100 pieces for their characters.* by 65"),
        (["a\ud800"], 300, "lone surrogate.* position 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            Unigram.train(texts, vocab_size)
    with pytest.raises(TypeError, match=r"Unigram.train\(\[text\]"):
        Unigram.train("abc", 300)
    for pieces, message in [
        ([("a", -1.0), ("a", -2.0)], "same text"),
        ([("▁a", -1.0), (" a", -2.0)], "same text"),
        ([("a", -math.inf)], "is -inf"),
        ([("a.", -1.0)], "BEFORE_SPACES"),
        ([("", -1.0)], "cuts piece"),
    ]:
        with pytest.raises(ValueError, match=message):
            Unigram(pieces)


# ---- the tokenizer ----


@given(UNICODE | NEAR_MISSES)
def test_text_survives(reference, text):
    assert reference.decode(reference.encode(text)) == text
    assert "".join(reference.pre_tokens(text)) == text
    assert reference.decode(reference.sample(text, 0.3, random.Random(0))) == text


@given(UNICODE | NEAR_MISSES)
def test_the_best_of_a_text_is_the_best_of_its_pre_tokens(reference, text):
    # In exact arithmetic; float32 rounds the two sums differently.
    def cost(ids):
        edges = reference.model.edges(text)
        scores = {(start, end): logprob for start, end, logprob in edges}
        position, total, left = 0, 0.0, list(ids)
        while left:
            data = bytearray()
            while True:
                data += reference.decode_bytes([left.pop(0)])
                part = data.decode("utf-8", "ignore")
                if part and part.encode() == data:
                    break
            total += scores[position, position + len(part)]
            position += len(part)
        return total

    assert cost(reference.encode(text)) == pytest.approx(cost(reference.encode_word(text)), rel=1e-5)


@given(UNICODE | NEAR_MISSES, UNICODE | NEAR_MISSES)
@pytest.mark.parametrize("pattern", [PATTERN, BEFORE_SPACES])
def test_all_pre_tokens_but_the_last_are_settled(pattern, text, more):
    unigram = Unigram([("a", -1.0)], pattern)
    settled = unigram.pre_tokens(text)[:-1]
    assert unigram.pre_tokens(text + more)[: len(settled)] == settled


def test_no_text_forges_a_special_token(town):
    ids = town.encode("".join(SPECIAL_TOKENS))
    assert max(ids) < town.eos_id == town.vocab_size - len(SPECIAL_TOKENS) == 1015
    assert town.special_tokens == Tokenizer([]).special_tokens | {n: i + 1015 for i, n in enumerate(SPECIAL_TOKENS)}
    assert town.decode([town.eos_id]) == "<|endoftext|>"


def test_unknown_characters_are_bytes(town):
    assert town.encode("中▁") == list("中▁".encode())
    assert town.decode(list("中".encode())[:2]) == "\ufffd"


def test_n_best_of_a_word_is_led_by_its_encoding(town):
    first, second, *_ = town.n_best(" friend", 5)
    assert first[0] == town.encode_word(" friend") and first[1] > second[1]
    assert {town.decode(ids) for ids, _ in town.n_best(" friend", 5)} == {" friend"}


def test_a_large_alpha_samples_the_encoding_and_a_small_one_varies(reference):
    generator, text = random.Random(0), "An assignment statement evaluates the expression list."
    assert reference.sample(text, 50.0, generator) == reference.encode(text)
    assert len({tuple(reference.sample(text, 0.1, generator)) for _ in range(20)}) > 15


@pytest.mark.parametrize("ids", [[-1], [1024], np.array([5000]), torch.tensor([1024])])
def test_ids_out_of_range_are_refused(town, ids):
    with pytest.raises(ValueError, match="from 0 to 1023"):
        town.decode(ids)


def test_ids_may_be_arrays(town):
    ids = town.encode("Emil had an egg.")
    assert town.decode(np.array(ids)) == town.decode(torch.tensor(ids)) == "Emil had an egg."


def test_the_fingerprint_names_the_ids_and_token_files_keep_it(tmp_path, town, reference):
    again = Unigram(town.pieces)
    assert again.fingerprint == town.fingerprint != reference.fingerprint
    save_tokens(tmp_path / "town.bin", ["Emil had an egg."], town)
    assert load_tokens(tmp_path / "town.bin", again).tolist() == [town.eos_id, *town.encode("Emil had an egg.")]
    with pytest.raises(ValueError, match="encode it again"):
        load_tokens(tmp_path / "town.bin", reference)


# ---- the truth does not depend on the tokenizer ----


def test_chain_rule_with_pieces_instead_of_merges(world, town, reference):
    for unigram in (town, reference):
        for document in world.documents(7, 5):
            ids = [*unigram.encode(document.text), unigram.eos_id]
            assert world.token_nats(ids, unigram).sum() == pytest.approx(document.nats, abs=1e-9)


def test_next_token_probs_with_pieces(world, town):
    document = world.documents(1, 6, kinds=["bio"])[0]
    ids = [*town.encode(document.text), town.eos_id]
    nats = world.token_nats(ids, town, kinds=("bio",))
    for t in range(0, len(ids), 7):
        probs = world.next_token_probs([town.eos_id, *ids[:t]], town, kinds=("bio",))
        assert probs.sum() == pytest.approx(1) and -math.log(probs[ids[t]]) == pytest.approx(nats[t], abs=1e-9)
