"""Lesson 01: the bytes of a text, and byte-pair encoding in three functions: count, merge, encode."""

from collections import Counter
from itertools import pairwise

from course.exercise import Exercise

# ---- 1. bytes ----


def to_bytes(text):
    return list(text.encode("utf-8"))


def check_to_bytes(answer):
    answer("Hi!").should_be(
        [72, 105, 33],
        (["H", "i", "!"],
         "Those are the characters. Asked for are numbers, one for each byte of text.encode('utf-8')."),
        ([b"H", b"i", b"!"], "Those are bytes objects, one for each character. Go through the bytes of the text."),
        (["0x48", "0x69", "0x21"], "Those are the right bytes, but as text in hexadecimal. Return them as numbers."),
        (b"Hi!", "Right, but as a bytes object. list(…) makes a list of numbers of it."),
        ([255, 254, 72, 0, 105, 0, 33, 0], "That is UTF-16, a mark in front and two bytes a letter. Ask for UTF-8."),
    )
    answer("é", errors={UnicodeEncodeError: "That encoding does not know é. UTF-8 knows every character."}).should_be(
        [195, 169],
        ([233],
         "That is 233, the number of the character é (or its Latin-1 byte). In UTF-8 everything above 127 takes two "
         "to four bytes."),
        ([101, 204, 129],
         "The text was normalised: é became e and an accent. A tokenizer must give back what it was given."),
        ([63], "é became a question mark: the text is lost. UTF-8 knows every character, nothing needs replacing."),
        ([], "é was dropped: the text is lost. UTF-8 knows every character, nothing needs ignoring."),
    )
    answer("🪁").should_be([240, 159, 170, 129])


TO_BYTES = Exercise(
    solution=to_bytes,
    difficulty=1,
    statement="""
        Before any tokenizer there are bytes: 256 of them write every text there is. Return the UTF-8 bytes of `text`
        as a list of numbers. "Hi!" is [72, 105, 33], and "é" has two.""",
    check=check_to_bytes,
    hints=(
        "A str holds characters. Which method of str turns characters into bytes?",
        "text.encode('utf-8') is a bytes object. What do you get when you go through it with a loop?",
        "Going through bytes gives numbers from 0 to 255, so list(text.encode('utf-8')) is all.",
    ),
    wrong=(
        (lambda text: [ord(c) for c in text], "number of the character"),
        (lambda text: list(text), "characters"),
        (lambda text: text.encode(), "bytes object"),
        (lambda text: list(text.encode("utf-16")), "UTF-16"),
        (lambda text: list(text.encode("ascii")), "does not know é"),
        (lambda text: list(text.encode("ascii", "ignore")), "dropped"),
        (lambda text: list(text.encode("ascii", "replace")), "question mark"),
        (lambda text: [hex(b) for b in text.encode()], "hexadecimal"),
        (lambda text: [c.encode() for c in text], "one for each character"),
    ),
)

# ---- 2. count pairs ----


def count_pairs(words):
    counts = Counter()
    for word, n in words.items():
        for pair in pairwise(word):
            counts[pair] += n
    return counts


def check_count_pairs(answer):
    words = {("k", "i", "t", "e"): 5, ("k", "i", "t"): 2, ("i", "t"): 10}
    answer(words).should_be(
        {("k", "i"): 7, ("i", "t"): 17, ("t", "e"): 5},
        ({("k", "i"): 2, ("i", "t"): 3, ("t", "e"): 1},
         "Every word was counted once. `kite` occurs five times in the text, so each of its pairs does too."),
        ({("k", "i"): 2, ("i", "t"): 10, ("t", "e"): 5},
         "A pair's count was overwritten by that of a later word. Add to what has been counted before."),
        ({("k", "i"): 7, ("i", "t"): 5}, "The last pair of each word is missing: a word of n symbols has n - 1 pairs."),
        ({("k", "i"): 7, ("i", "t"): 17, ("t", "e"): 5, ("e", "k"): 5, ("t", "i"): 2},
         "Pairs across two words were counted. Merges stay inside a word, so that one word is always cut alike."),
        ({("k", "i"): 7, ("t", "e"): 5, ("i", "t"): 10},
         "Pairs that share a symbol were left out: k i t e has k i, i t and t e. Move on by one symbol, not by two."),
        ({"ki": 7, "it": 17, "te": 5},
         "The counts are right, but the keys are glued text. Keep (left, right): symbols can be longer than a letter."),
        ({("i", "k"): 7, ("i", "t"): 17, ("e", "t"): 5},
         "The pairs were sorted. Order matters: k i is not i k, and only one of them may be merged."),
        ({"k": 7, "i": 17, "t": 17, "e": 5}, "Those are single symbols. Asked for are neighbours, two by two."),
        ({("k", "i"): 7, ("i", "t"): 17, ("t", "e"): 5, ("e",): 5, ("t",): 12},
         "The last symbol of each word was counted alone: a slice at the end is shorter than a pair."),
    )
    answer({("a", "a", "a"): 1}).should_be(
        {("a", "a"): 2},
        ({("a", "a"): 1},
         "Inside one word a pair may come twice: a a a has (a, a) at two places, and each one counts."),
    )
    answer({("x",): 3}).should_be({})


def across_words(words):
    text = [(symbol, n, i) for i, (word, n) in enumerate(words.items()) for symbol in word]
    counts = Counter()
    for (left, n, _), (right, _, _) in pairwise(text):
        counts[left, right] += n
    return counts


def tally(words, pairs_of, weigh=True):
    counts = Counter()
    for word, n in words.items():
        for pair in pairs_of(word):
            counts[pair] += n if weigh else 1
    return counts


COUNT_PAIRS = Exercise(
    solution=count_pairs,
    difficulty=2,
    statement="""
        BPE looks for the most frequent pair of neighbours. `words` is a dict from a word, a tuple of symbols, to how
        often it occurs in the text. Return a dict from each pair (left, right) of neighbours inside a word to how
        often it occurs in the text. {("i", "n", "n"): 3} gives {("i", "n"): 3, ("n", "n"): 3}.""",
    check=check_count_pairs,
    hints=(
        "Start with one word that stands in the text once. Which pairs does k i t e have?",
        "zip(word, word[1:]) goes through neighbours. A pair in a word that occurs n times occurs n times.",
        "For each word, n in words.items(), for each pair in zip(word, word[1:]): counts[pair] += n, with a Counter.",
    ),
    wrong=(
        (lambda words: tally(words, pairwise, weigh=False), "counted once"),
        (lambda words: tally(words, lambda w: [w[i : i + 2] for i in range(len(w) - 2)]), "last pair"),
        (lambda words: tally(words, lambda w: zip(w[::2], w[1::2], strict=False)), "share a symbol"),
        (lambda words: tally(words, lambda w: map("".join, pairwise(w))), "glued"),
        (lambda words: tally(words, lambda w: (tuple(sorted(p)) for p in pairwise(w))), "sorted"),
        (lambda words: tally(words, lambda w: set(pairwise(w))), "at two places"),
        (lambda words: tally(words, lambda w: w), "single symbols"),
        (lambda words: tally(words, lambda w: [w[i : i + 2] for i in range(len(w))]), "counted alone"),
        (across_words, "across two words"),
        (lambda words: {p: n for word, n in words.items() for p in pairwise(word)}, "overwritten"),
    ),
)

# ---- 3. merge one pair ----


def merge_pair(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == tuple(pair)
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1
    return merged


def check_merge_pair(answer):
    no_next = {IndexError: "The last id has no next one to look at. A slice, ids[i : i + 2], never fails."}
    answer([1, 2, 3, 1, 2], (1, 2), 9, errors=no_next).should_be(
        [9, 3, 9],
        ([1, 2, 3, 1, 2], "Nothing was merged. A slice of a list is a list, and a list never equals a tuple."),
        ([9, 3, 1, 2], "Only the first place was merged. Wherever the pair occurs it becomes the new id."),
        ([9, 3], "The end got lost: the last id, or pair, must come along too."),
        ([9, 2, 3, 9, 2], "The left id was replaced but the right one stayed. The two together become one."),
        ([9, 9, 3, 9, 9],
         "Both ids were replaced, each by itself. The two together become one: the list gets shorter."),
    )
    answer([1, 2, 3], (1, 2), 9).should_be(
        [9, 3], ([9], "The end got lost: a last id that is no part of a pair must come along too."))
    answer([2, 1, 1, 3, 2], (1, 2), 9).should_be(
        [2, 1, 1, 3, 2],
        ([9, 1, 3, 2], "2 1 became the new id, but the pair is 1 2. Order matters."),
        ([2, 9, 9, 3, 9], "Single ids were replaced. Only where 1 is followed by 2 is there a pair."),
    )
    answer([1, 1, 1, 4], (1, 1), 9).should_be(
        [9, 1, 4],
        ([9, 9, 4], "The middle 1 was used twice. After a merge go on behind both ids."),
        ([1, 9, 4], "Merged from the right. Where pairs overlap, the convention is to go from left to right."),
    )


def loses_the_end(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids) - 1:
        found = tuple(ids[i : i + 2]) == pair
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1
    return merged


def uses_ids_twice(ids, pair, new_id):
    starts = [tuple(two) == pair for two in pairwise(ids)] + [False]
    return [new_id if start else i for i, start, after in zip(ids, starts, [False] + starts, strict=False)
            if start or not after]


MERGE_PAIR = Exercise(
    solution=merge_pair,
    difficulty=2,
    statement="""
        `pair` is a pair of ids. Return a new list: `ids`, but wherever the pair occurs, the one id `new_id` in its
        place, from left to right. [1, 2, 3, 1, 2] with the pair (1, 2) and the new id 9 becomes [9, 3, 9].""",
    check=check_merge_pair,
    hints=(
        "Walk through the list with an index. At each place there are two cases: the pair begins here, or it does not.",
        "In the first case you append new_id and go two places on, in the second you append ids[i] and go one on.",
        "while i < len(ids): compare tuple(ids[i:i+2]) with pair. At the end the slice is shorter: no match, no error.",
    ),
    wrong=(
        (lambda ids, pair, new_id: [new_id, *ids[2:]] if tuple(ids[:2]) == pair else ids, "Only the first place"),
        (lambda ids, pair, new_id: list(ids), "never equals a tuple"),
        (loses_the_end, "end got lost"),
        (uses_ids_twice, "used twice"),
        (lambda ids, pair, new_id: merge_pair(ids[::-1], pair[::-1], new_id)[::-1], "from the right"),
        (lambda ids, pair, new_id: [new_id if i in pair else i for i in ids], "each by itself"),
        (lambda ids, pair, new_id: merge_pair(merge_pair(ids, pair, new_id), pair[::-1], new_id), "Order matters"),
        (lambda ids, pair, new_id: [new_id if (i, ids[n + 1]) == pair else i for n, i in enumerate(ids)], "no next"),
    ),
)

# ---- 4. encode ----


def encode(ids, merges):
    for pair, new_id in merges.items():
        ids = merge_pair(ids, pair, new_id)
    return ids


def check_encode(answer):
    merges = {(2, 3): 10, (1, 2): 11, (10, 4): 12}  # learned in this order
    answer([1, 2, 1, 2], merges).should_be(
        [11, 11],
        ([1, 2, 1, 2], "Nothing was merged. Look for each merge in what the merges before it have left."),
        ([11, 1, 2], "Only the first place was merged. Apply a merge wherever its pair occurs."),
    )
    answer([2, 3, 4, 1, 2, 3], merges).should_be(
        [12, 1, 10],
        ([12, 11, 3],
         "Taken from left to right, as pairs came along. The merge learned first goes first, wherever its pair is."),
        ([10, 4, 11, 3], "The merges went backwards: the one learned last came first. Begin with the first."),
        ([10, 4, 1, 10],
         "It stopped too early: merges build on each other. 10 came out of a merge, and 10 4 is a pair too."),
    )
    answer([1, 2, 1, 2, 3], merges).should_be(
        [11, 1, 10],
        ([11, 11, 3],
         "The most frequent pair of this text went first. Encoding does not count: it repeats what training learned, "
         "in that order."),
    )
    answer([1, 2, 3], {(1, 2): 10, (2, 3): 11}).should_be(
        [10, 3], ([1, 11], "Taken from right to left. The merge learned first goes first, wherever its pair is."))
    answer([5, 6], merges).should_be([5, 6])


def as_they_come(ids, merges, which):
    while places := [i for i, pair in enumerate(pairwise(ids)) if pair in merges]:
        i = places[which]
        ids = [*ids[:i], merges[ids[i], ids[i + 1]], *ids[i + 2 :]]
    return ids


def most_frequent_first(ids, merges):
    while pairs := {pair: n for pair, n in Counter(pairwise(ids)).items() if pair in merges}:
        best = max(pairs, key=lambda pair: (pairs[pair], -list(merges).index(pair)))
        ids = merge_pair(ids, best, merges[best])
    return ids


def one_merge(ids, merges):
    pair = next((pair for pair in merges if pair in set(pairwise(ids))), None)
    return merge_pair(ids, pair, merges[pair]) if pair else ids


ENCODE = Exercise(
    solution=encode,
    difficulty=3,
    statement="""
        Encode with merges that are already learned. `ids` is a list of ids, `merges` a dict from a pair to its new
        id, in the order in which they were learned. As long as some merge applies, apply the one learned first,
        everywhere. Return the new list. [1, 2, 3] with {(2, 3): 10, (1, 2): 11} is [1, 10].""",
    check=check_encode,
    hints=(
        "Two merges may want the same id, here the 2. Which one wins, and how do you know?",
        "A dict keeps its order. A pair can only use ids that were made by earlier merges, never by later ones.",
        "So one pass is enough: for pair, new_id in merges.items(): ids = merge_pair(ids, pair, new_id).",
    ),
    wrong=(
        (lambda ids, merges: as_they_come(ids, merges, 0), "left to right"),
        (lambda ids, merges: as_they_come(ids, merges, -1), "right to left"),
        (most_frequent_first, "most frequent"),
        (one_merge, "stopped too early"),
        (lambda ids, merges: ids, "Nothing was merged"),
        (lambda ids, merges: encode(ids, dict(reversed(merges.items()))), "backwards"),
    ),
)

EXERCISES = (TO_BYTES, COUNT_PAIRS, MERGE_PAIR, ENCODE)
