"""Lesson 00: what a text costs, how costs are compared, where a fine-tuned model is scored, what a preference means."""

import math

import torch

from course.exercise import Exercise

# ---- 1. the nats of a text ----


def text_nats(probs):
    return -sum(math.log(p) for p in probs)


def check_text_nats(answer):
    probs = [0.5, 0.25, 0.1]
    nats = text_nats(probs)
    answer(probs).should_be(
        nats,
        (math.exp(-nats), "That is the probability of the text. Its nats are the negative natural logarithm of that."),
        (-nats, "The sign is missing: logarithms of probabilities are negative, nats are what a text costs."),
        (nats / 3, "That is nats per token, the mean. Here the whole text is asked for: the sum."),
        (nats / math.log(2), "Those are bits: the logarithm has base 2. For nats it is the natural one, math.log."),
        (-math.log(0.5), "That is the first token alone. Does `return` stand inside the loop?"),
        (-math.log(0.1), "That is the last token alone: each one replaced the sum so far. Add up."),
        (-math.log(sum(probs)), "The logarithm of a product is the sum of logarithms, not the logarithm of the sum."),
    )
    underflow = ("Multiplied out, 400 probabilities of 0.1 are 1e-400, which is 0 for a computer. "
                 "Take the logarithm of each one before you add, then nothing gets that small.")
    answer([0.1] * 400, errors={ValueError: underflow}).should_be(400 * math.log(10), (math.inf, underflow))


TEXT_NATS = Exercise(
    solution=text_nats,
    difficulty=1,
    statement="""
        A model gave each token of a text a probability, given the tokens before it. `probs` is the list of them.
        Return what the whole text costs in nats: minus the natural logarithm of the product. It must also work for
        long texts. For [0.5, 0.5] it is 1.386.""",
    check=check_text_nats,
    hints=(
        "The probability of the text is the product of all of them: formula 1.",
        "ln(a · b) = ln a + ln b. So there is no need to multiply anything.",
        "Go through probs, add up math.log(p), and turn the sign around at the end.",
    ),
    wrong=(
        (lambda probs: -math.log(math.prod(probs)), "one before you add"),
        (lambda probs: float(-torch.tensor(probs).prod().log()), "one before you add"),
        (lambda probs: math.prod(probs), "the probability of the text"),
        (lambda probs: sum(math.log(p) for p in probs), "sign"),
        (lambda probs: -sum(math.log(p) for p in probs) / len(probs), "per token"),
        (lambda probs: -sum(math.log2(p) for p in probs), "bits"),
        (lambda probs: -math.log(sum(probs)), "not the logarithm of the sum"),
        (lambda probs: next(-math.log(p) for p in probs), "first token alone"),
        (lambda probs: -math.log(probs[-1]), "last token alone"),
    ),
)

# ---- 2. bits per byte ----


def bits_per_byte(nats, text):
    return nats / math.log(2) / len(text.encode("utf-8"))


def check_bits_per_byte(answer):
    text = "Ida has a kite."
    bits = bits_per_byte(20.0, text)
    answer(20.0, text).should_be(
        bits,
        (20 / 15, "Those are nats per byte. One nat is 1 / ln 2, about 1.44 bits."),
        (20 * math.log(2) / 15,
         "Multiplied where it should be divided: a nat is worth more than a bit, so there are more bits."),
        (20 / math.log(2),
         "Those are the bits of the whole text; divide by its bytes, so that long and short ones compare."),
        (1 / bits, "Upside down: that many bytes share one bit. Bits go on top, bytes below."),
        (20 / math.log(2) / 4,
         "Divided by words. How text is cut differs from model to model; its bytes are the same for all."),
        (math.log2(20) / 15,
         "Nats are logarithms already. They are not taken a logarithm of, only measured in another unit: divide."),
        (bits / 8, "Divided by 8 once too often: that is per bit of the file, and here it is per byte."),
    )
    characters = "Divided by characters: é is one character but two bytes in UTF-8. Encode the text, then count."
    answer(20.0, "Zoé et René").should_be(bits_per_byte(20.0, "Zoé et René"), (20 / math.log(2) / 11, characters))


BITS_PER_BYTE = Exercise(
    solution=bits_per_byte,
    difficulty=1,
    statement="""
        Two models cut text into different tokens, so their nats per token cannot be compared. Bits per byte can.
        `nats` is what a model pays for the whole `text`, a str; with a logarithm to base 2 instead of the natural one,
        the same cost is in bits. Return it in bits per byte of the text in UTF-8. 20 nats for "Ida has a kite." are
        1.924 bits per byte.""",
    check=check_bits_per_byte,
    hints=(
        "Two steps: nats into bits, then divide by the number of bytes.",
        "A bit is a choice between two: it costs ln 2 nats. So how many bits are 20 nats?",
        "The bytes of a text are text.encode('utf-8'); len counts them.",
    ),
    wrong=(
        (lambda nats, text: nats / len(text.encode()), "nats per byte"),
        (lambda nats, text: nats * math.log(2) / len(text.encode()), "Multiplied"),
        (lambda nats, text: nats / math.log(2) / len(text), "characters"),
        (lambda nats, text: nats / math.log(2) / len(text.split()), "words"),
        (lambda nats, text: nats / math.log(2), "whole text"),
        (lambda nats, text: len(text.encode()) * math.log(2) / nats, "Upside down"),
        (lambda nats, text: math.log2(nats) / len(text.encode()), "logarithms already"),
        (lambda nats, text: nats / math.log(2) / (8 * len(text.encode())), "per bit of the file"),
    ),
)

# ---- 3. the loss of fine-tuning ----


def response_loss(nats, loss_mask):
    return nats[loss_mask].mean()


def check_response_loss(answer):
    nats = torch.tensor([4.0, 2.0, 6.0, 1.0, 0.5])
    mask = torch.tensor([False, False, False, True, True])
    answer(nats, mask).should_be(
        0.75,
        (2.7, "That is the mean over all tokens. The prompt was given to the model; only what it answers is its own."),
        (0.3,
         "The right sum over the wrong count: masked tokens must not be counted either, or long prompts look easy."),
        (1.5,
         "That is the sum. With it, a long answer would weigh more than a short one for its length alone: take the "
         "mean."),
        (4.0, "That is the mean over the prompt: the mask is turned around. True marks what is learned."),
        (-0.75, "`nats` are costs: the minus sign of -ln p is in them already."),
        (3.5, "Shifted by one: entry t of `nats` and entry t of `loss_mask` are about the same token already."),
        (torch.tensor([1.0, 0.5]), "Those are the right tokens; now reduce them to their mean."),
        (torch.tensor([0.0, 0.0, 0.0, 1.0, 0.5]), "The prompt is zeroed, but this is still a value for each token."),
    )
    answer(nats, torch.tensor([False, True, False, True, True])).should_be(
        3.5 / 3,
        (2.375, "It looks for the first answer and takes everything after it. A chat has many turns: go by the mask."),
        (0.75, "It looks only at the last answer. A chat has many turns: go by the mask."),
    )


def from_the_first_answer(nats, loss_mask):
    return nats[loss_mask.int().argmax() :].mean()


RESPONSE_LOSS = Exercise(
    solution=response_loss,
    difficulty=2,
    statement="""
        Fine-tuning shows the model a prompt and an answer, and scores it on the answer alone. `nats` is a float
        tensor of shape (T,), what each token cost; `loss_mask`, a bool tensor of shape (T,), is True at the answer's
        tokens. Return the mean cost of an answer token.""",
    check=check_response_loss,
    hints=(
        "Which tokens count? And by how many is their sum divided?",
        "A bool tensor picks elements: x[mask] has as many elements as mask has True.",
        "Pick with the mask, then .mean(). The same by arithmetic: (nats * loss_mask).sum() / loss_mask.sum().",
    ),
    wrong=(
        (lambda nats, loss_mask: nats.mean(), "all tokens"),
        (lambda nats, loss_mask: (nats * loss_mask).mean(), "wrong count"),
        (lambda nats, loss_mask: (nats * loss_mask).sum(), "the sum"),
        (lambda nats, loss_mask: nats[~loss_mask].mean(), "turned around"),
        (lambda nats, loss_mask: nats * loss_mask, "for each token"),
        (lambda nats, loss_mask: nats[loss_mask], "reduce"),
        (lambda nats, loss_mask: -nats[loss_mask].mean(), "minus sign"),
        (from_the_first_answer, "everything after it"),
        (lambda nats, loss_mask: nats[:-1][loss_mask[1:]].mean(), "Shifted by one"),
    ),
)

# ---- 4. a preference ----


def preference(chosen, rejected):
    gap = chosen - rejected
    return 1 / (1 + math.exp(-gap)) if gap >= 0 else math.exp(gap) / (1 + math.exp(gap))


def check_preference(answer):
    right = preference(2.0, 1.0)
    answer(2.0, 1.0).should_be(
        right,
        (1 - right,
         "That is how probable the other one is. exp of the chosen reward goes on top: σ(chosen - rejected)."),
        (2 / 3, "Rewards are not probabilities: they may be negative. Exponentiate them before you take the share."),
        (preference(2.0, 0.0),
         "The rejected reward plays no part in that. Only the difference of the two means anything."),
        (math.e, "Those are the odds, chosen to rejected. A probability is the chosen one's share of both together."),
        (1.0, "That is the difference, or a verdict. Asked for is a probability: σ of the difference."),
        (-math.log(right), "That is the loss, -ln of it. Here the probability itself is asked for."),
    )
    shift = ("Adding 1,000 to both rewards changes nothing for people who compare, but exp(1000) is too large for a "
             "computer. Work with the difference.")
    answer(1002.0, 1001.0, errors={OverflowError: shift}).should_be(right, (math.nan, shift))
    far = ("Right in mathematics, but for a gap of -1,000 it computes exp(1000), which is too large. When the gap is "
           "negative, use the same fraction multiplied through by exp(gap).")
    answer(-500.0, 500.0, errors={OverflowError: far}).should_be(0.0, (math.nan, far))


PREFERENCE = Exercise(
    solution=preference,
    difficulty=3,
    statement="""
        Bradley and Terry: an answer with the reward `chosen` is preferred to one with the reward `rejected` with
        probability exp(chosen) / (exp(chosen) + exp(rejected)), which is the sigmoid σ of their difference. Both are
        floats. Return it, also for rewards in the thousands, without overflow. For (2.0, 1.0) it is 0.731.""",
    check=check_preference,
    hints=(
        "Divide top and bottom by exp(chosen): one exponential is left. Of what?",
        "σ(x) = 1 / (1 + exp(-x)). For large negative x this exp overflows: try σ(-1000).",
        "Two cases: 1 / (1 + exp(-x)) for x ≥ 0, exp(x) / (1 + exp(x)) for x < 0. Neither sees exp of more than 0.",
    ),
    wrong=(
        (lambda chosen, rejected: math.exp(chosen) / (math.exp(chosen) + math.exp(rejected)), "Adding 1,000"),
        (lambda chosen, rejected: 1 / (1 + math.exp(rejected - chosen)), "Right in mathematics"),
        (lambda chosen, rejected: 1 / (1 + math.exp(chosen - rejected)), "the other one"),
        (lambda chosen, rejected: chosen / (chosen + rejected), "not probabilities"),
        (lambda chosen, rejected: 1 / (1 + math.exp(-chosen)), "plays no part"),
        (lambda chosen, rejected: math.exp(chosen - rejected), "odds"),
        (lambda chosen, rejected: float(chosen > rejected), "verdict"),
        (lambda chosen, rejected: math.log(1 + math.exp(rejected - chosen)), "the loss"),
    ),
)

EXERCISES = (TEXT_NATS, BITS_PER_BYTE, RESPONSE_LOSS, PREFERENCE)
