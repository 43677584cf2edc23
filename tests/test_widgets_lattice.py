"""The lattice of a Unigram model, without a browser."""
import math
from itertools import combinations

import pytest
from widget_checks import HOSTILE, assert_bundle, assert_harmless, assert_readable, texts

from llmkit.unigram import Unigram
from llmkit.widgets.lattice import MAX_CHARACTERS, N_BEST, in_lanes, lattice, percent, read

TOY = Unigram([("a", -2.0), ("b", -2.5), ("c", -3.0), ("ab", -3.5), ("bc", -4.0), ("abc", -5.0)])


def segmentations(text):
    """(pieces, ln P) of every cutting into pieces of TOY, the best first."""
    known, found = TOY.model.logprobs, []
    for n in range(len(text)):
        for cuts in combinations(range(1, len(text)), n):
            places = [0, *cuts, len(text)]
            pieces = [text[i:j] for i, j in zip(places, places[1:], strict=False)]
            if all(piece in known for piece in pieces):
                found.append((pieces, sum(known[piece] for piece in pieces)))
    return sorted(found, key=lambda item: -item[1])


def test_it_counts_all_segmentations_and_ranks_the_best():
    cuts, every = read(TOY, "abcab"), segmentations("abcab")
    assert cuts.n_paths == len(every) == 8
    assert [logprob for _, logprob in cuts.best] == pytest.approx([logprob for _, logprob in every[:N_BEST]])
    assert cuts.best[0][0] == every[0][0]
    assert cuts.logprob == pytest.approx(math.log(sum(math.exp(logprob) for _, logprob in every)))


def test_the_line_and_the_drawing_name_the_chosen_segmentation():
    frame = lattice(TOY, "abc")
    # e^-5 of e^-5 + e^-6 + e^-6.5 + e^-7.5
    assert frame.said == "4 segmentations. Number 1: abc costs 5.00 nats, 59.8% of the probability."
    frame.controls["rank"].value = 2
    assert frame.said.startswith("k-th best: 1 → 2. 4 segmentations. Number 2: a·bc costs 6.00 nats")
    written = texts(frame.svg)
    assert {"ab", "bc", "abc", "2. a·bc", "3. ab·c", "6.50", "5.0"} <= set(written)
    assert_readable(frame.svg)
    frame.controls["text"].value = "a"  # has one segmentation only
    assert "1 segmentation. Number 1: a costs 2.00 nats, 100.0% of the probability." in frame.said


def test_models_by_name_are_switched():
    frame = lattice({"toy": TOY, "letters": Unigram([("a", -1.0), ("b", -1.0)])}, "ab")
    assert "2 segmentations" in frame.said
    frame.controls["model"].value = "letters"
    assert "1 segmentation. Number 1: a·b costs 2.00 nats" in frame.said


def test_boxes_in_a_lane_do_not_overlap():
    edges = read(TOY, "abcabcab").edges
    placed = list(zip(edges, in_lanes(edges), strict=True))
    for (first, lane), (second, other) in combinations(placed, 2):
        assert lane != other or first[1] <= second[0] or second[1] <= first[0]
    assert max(lane for _, lane in placed) + 1 <= 7


@pytest.mark.parametrize("text", [HOSTILE, "é😀 \n", "a" * 50])
def test_any_text_is_drawn(text):
    frame = lattice(TOY, text)
    assert_harmless(frame)
    assert_bundle(frame)
    assert len(read(TOY, text).text) <= MAX_CHARACTERS


def test_characters_without_a_piece_are_spelled_in_bytes():
    frame = lattice(TOY, "aé")
    assert "bytes" in texts(frame.svg) and "a·é costs" in frame.said


def test_an_empty_text_is_a_sentence_and_the_drawing_stays():
    frame = lattice(TOY, "ab")
    before = frame.svg
    frame.controls["text"].value = ""
    assert frame.said == "Type a word." and frame.svg == before


def test_shares_never_round_to_all_or_nothing():
    shares = [percent(share) for share in (1, 0.9999, 0.5, 0.0001)]
    assert shares == ["100.0%", "> 99.9%", "50.0%", "< 0.1%"]
