"""Lesson 06: rows cut from a stream, documents kept apart, a learning rate, and the distance from the floor."""

import math

import torch

from course.exercise import Exercise

# ---- 1. cut a stream ----


def cut(stream, context_length):
    n = (len(stream) - 1) // context_length
    idx = stream[: n * context_length].view(n, context_length)
    targets = stream[1 : n * context_length + 1].view(n, context_length)
    return idx, targets


def check_cut(answer):
    stream = torch.arange(10, 20)
    idx = torch.tensor([[10, 11, 12], [13, 14, 15], [16, 17, 18]])
    answer(stream, 3).should_be(
        (idx, idx + 1),
        ((idx, idx), "The targets are what the model reads: it would learn to copy. They are the same ids, one later."),
        ((idx, idx - 1),
         "The targets lie one back: the model would predict the past. They are the same ids, one later."),
        ((idx + 1, idx), "idx and targets are exchanged. The model reads first, and predicts what comes after."),
        ((idx[:2], idx[:2] + 1),
         "A row is missing: 10 ids give three rows of 3, since the last target is id number 10."),
        ((torch.tensor([[10, 11, 12], [14, 15, 16]]), torch.tensor([[11, 12, 13], [15, 16, 17]])),
         "Rows were cut T + 1 apart, so 14 is never a target. Each row begins where the last targets end."),
        ((torch.tensor([[10, 11], [13, 14], [16, 17]]), torch.tensor([[11, 12], [14, 15], [17, 18]])),
         "Rows of T were cut first and shifted after, which leaves T - 1. Shift the stream, then cut both."),
    )
    overrun = ("It fails for 9 ids. The last has no next one, so 8 can be read: two rows of 3, and what is left over "
               "is dropped.")
    exact = answer(stream[:9], 3, errors={RuntimeError: overrun, ValueError: overrun, IndexError: overrun})
    exact.should_be(
        (idx[:2], idx[:2] + 1),
        ((idx, torch.tensor([[11, 12, 13], [14, 15, 16], [17, 18, 10]])),
         "The last target is the first id of the stream, since roll goes round in a circle. That row must go."),
    )


def cut_apart(stream, context_length):
    n = len(stream) // (context_length + 1)
    rows = stream[: n * (context_length + 1)].view(n, context_length + 1)
    return rows[:, :-1], rows[:, 1:]


CUT = Exercise(
    solution=cut,
    difficulty=1,
    statement="""
        `stream` is an int64 tensor of N ids. Return (idx, targets), two tensors of shape (n, T) with T =
        `context_length`: idx holds the stream row after row, targets the id that follows each. As many full rows as
        there are; what is left over is dropped. The ids 10 … 16 with T = 3 give [[10, 11, 12], [13, 14, 15]] and
        [[11, 12, 13], [14, 15, 16]].""",
    check=check_cut,
    hints=(
        "The targets are the stream too, seen from one place further on.",
        "An id counts only if the id after it exists. So how many of the N ids can be in idx at most?",
        "n = (N - 1) // T rows. idx is stream[: n * T] and targets is stream[1 : n * T + 1], each .view(n, T).",
    ),
    wrong=(
        (lambda stream, context_length: (cut(stream, context_length)[0],) * 2, "learn to copy"),
        (lambda stream, context_length: cut(stream, context_length)[::-1], "exchanged"),
        (lambda stream, context_length: [t[:-1] for t in cut(stream, context_length)], "row is missing"),
        (lambda stream, T: [part.view(-1, T) for part in (stream[:-1], stream[1:])], "fails for 9 ids"),
        (lambda ids, T: [part[: len(ids) // T * T].view(-1, T) for part in (ids, ids[1:])], "fails for 9 ids"),
        (cut_apart, "T + 1 apart"),
        (lambda ids, T: [ids[: len(ids) // T * T].view(-1, T)[:, k : T - 1 + k] for k in (0, 1)], "leaves T - 1"),
        (lambda ids, T: [part[: len(ids) // T * T].view(-1, T) for part in (ids, ids.roll(-1))], "circle"),
    ),
)

# ---- 2. a mask for packed documents ----


def document_mask(doc_ids):
    T = len(doc_ids)
    same_document = doc_ids[:, None] == doc_ids[None, :]  # (T, T)
    return same_document & torch.ones(T, T, dtype=torch.bool).tril()


def check_document_mask(answer):
    doc_ids = torch.tensor([0, 0, 1, 1, 1])
    same_document = doc_ids[:, None] == doc_ids[None, :]
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    mask = same_document & causal
    no_bools = "tril() of torch.ones gives floats, and & joins only True and False: ask for ones of dtype=torch.bool."
    answer(doc_ids, errors={NotImplementedError: no_bools}).should_be(
        mask,
        (same_document,
         "Within a document every place sees the whole of it, the future too: the model could copy the answer."),
        (causal, "That is the causal mask alone: the second document still looks into the first."),
        (mask.T, "Turned on its side: row t is what place t may look at, and row 0 may look at column 0 only."),
        (~mask, "True and False are exchanged. Here True means that looking is allowed."),
        (same_document & causal.tril(-1),
         "A place must see itself too. Without it the first row has nothing to look at, and its softmax is nan."),
        (same_document | causal,
         "Its own document, or anything earlier: that lets either be enough. Both must hold, so join them with &."),
        (mask.float(), "Right, but in ones and zeros. A mask is of bools: compare, and join with &."),
        (torch.where(mask, 0.0, -math.inf),
         "Those are numbers to add to the scores. Asked for is the bool mask behind them."),
    )
    answer(torch.tensor([4, 4, 4, 7])).should_be(document_mask(torch.tensor([4, 4, 4, 7])))


def causal_only(doc_ids):
    return torch.ones(len(doc_ids), len(doc_ids), dtype=torch.bool).tril()


DOCUMENT_MASK = Exercise(
    solution=document_mask,
    difficulty=2,
    statement="""
        A packed row holds several documents. `doc_ids`, an int64 tensor of shape (T,), says which one each place
        belongs to. Return the attention mask: a bool tensor of shape (T, T) whose [t, s] is True if place t may look
        at place s, which must be in the same document, and not later than t.""",
    check=check_document_mask,
    hints=(
        "Two conditions, each a (T, T) table of True and False. Write one after the other.",
        "doc_ids[:, None] == doc_ids[None, :] compares every place with every other. tril() keeps what is not later.",
        "Join the comparison and torch.ones(T, T, dtype=torch.bool).tril() with &.",
    ),
    wrong=(
        (lambda doc_ids: doc_ids[:, None] == doc_ids[None, :], "the future too"),
        (causal_only, "causal mask alone"),
        (lambda doc_ids: document_mask(doc_ids).T, "on its side"),
        (lambda doc_ids: ~document_mask(doc_ids), "exchanged"),
        (lambda doc_ids: document_mask(doc_ids).tril(-1), "see itself"),
        (lambda doc_ids: (doc_ids[:, None] == doc_ids) | causal_only(doc_ids), "either be enough"),
        (lambda doc_ids: (doc_ids[:, None] == doc_ids) & torch.ones(len(doc_ids), len(doc_ids)).tril(), "gives floats"),
        (lambda doc_ids: document_mask(doc_ids).float(), "ones and zeros"),
        (lambda doc_ids: torch.where(document_mask(doc_ids), 0.0, -math.inf), "add to the scores"),
    ),
)

# ---- 3. a learning rate ----


def learning_rate(step, peak, warmup, steps):
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    return peak * (1 + math.cos(math.pi * progress)) / 2


def check_learning_rate(answer):
    def rate(step):
        return answer(step, 0.01, 10, 110)

    rate(0).should_be(
        0.001,
        (0.0, "Step 0 has the rate 0, so its batch teaches nothing. Count from one: the first step gets 1 / warmup."),
        (0.01,
         "There is no warm-up: step 0 has the full rate, while the optimizer knows nothing of the gradients yet."),
        (0.1, "That is the factor, a share of the peak. Return the rate itself: multiply by `peak`."),
    )
    rate(9).should_be(0.01, (0.0091, "The warm-up has `warmup` steps, 0 to warmup - 1: the last has the peak already."))
    rate(10).should_be(
        0.01,
        (0.011, "The warm-up is one step too long: its last step is warmup - 1, and at `warmup` the cosine begins."),
        (0.02, "1 + cos goes from 2 to 0. Halve it."),
        (0.01 * half_wave(10 / 110),
         "The cosine began at step 0, so the rate jumps when the warm-up ends. Begin there: (step - warmup) on top."),
    )
    rate(35).should_be(  # a quarter of the way down
        0.01 * half_wave(1 / 4),
        (0.01 * half_wave(25 / 110),
         "The cosine is stretched over `steps`, but only steps - warmup are left: it would end before it is down."),
        (0.005 * (1 + math.cos(1 / 4)), "π is missing: half a wave of the cosine goes from 0 to π."),
        (0.01 * math.cos(math.pi / 4), "cos goes from 1 to -1, so the rate turns negative. Add 1, and halve the sum."),
        (0.01 * math.cos(math.pi / 8), "That is a quarter of a wave, which is steepest at its end. Half a wave: π."),
        (0.001 + 0.009 * half_wave(1 / 4), "It comes down to a tenth of the peak, as in the figure; here, to 0."),
        (0.01, "After the warm-up the rate stays at its peak. It should come down along half a cosine."),
        (0.0075, "It comes down in a straight line. A cosine stays high for longer: here still at 0.854 of the peak."),
    )
    rate(110).should_be(0.0)


def schedule(after, warm=lambda step, warmup: (step + 1) / warmup):
    """A learning rate with another course after the warm-up, or another warm-up."""

    def rate(step, peak, warmup, steps):
        return peak * (warm(step, warmup) if step < warmup else after(step, warmup, steps))

    return rate


def half_wave(progress):
    return (1 + math.cos(math.pi * progress)) / 2


LEARNING_RATE = Exercise(
    solution=learning_rate,
    difficulty=2,
    statement="""
        Return the learning rate of `step`, counted from 0. Over the first `warmup` steps it grows in a straight line,
        from `peak` / `warmup` at step 0 to `peak` at step `warmup` - 1. From step `warmup` on it falls along half a
        cosine, from `peak` to 0 at step `steps`. With a peak of 0.01, 10 steps of warm-up and 110 steps it is 0.001
        at step 0, 0.01 at steps 9 and 10, and 0.005 at step 60.""",
    check=check_learning_rate,
    hints=(
        "Two cases: step < warmup, and the rest. In the first, which share of the warm-up is done after this step?",
        "After it, progress = (step - warmup) / (steps - warmup) goes from 0 to 1. Where does cos(π · progress) go?",
        "From 1 to -1. So (1 + cos(π · progress)) / 2 goes from 1 to 0. Both cases are shares of the peak: multiply.",
    ),
    wrong=(
        (schedule(lambda s, w, n: half_wave((s - w) / (n - w)), warm=lambda s, w: s / w), "teaches nothing"),
        (lambda step, peak, warmup, steps: peak * half_wave(step / steps), "no warm-up"),
        (lambda step, peak, warmup, steps: learning_rate(step, 1.0, warmup, steps), "the factor"),
        (schedule(lambda s, w, n: half_wave(s / n)), "began at step 0"),
        (schedule(lambda s, w, n: half_wave((s - w) / n)), "stretched"),
        (schedule(lambda s, w, n: math.cos(math.pi * (s - w) / (n - w))), "negative"),
        (schedule(lambda s, w, n: math.cos(math.pi / 2 * (s - w) / (n - w))), "quarter"),
        (schedule(lambda s, w, n: 1 - (s - w) / (n - w)), "straight line"),
        (schedule(lambda s, w, n: 1), "stays at its peak"),
        (schedule(lambda s, w, n: 0.1 + 0.9 * half_wave((s - w) / (n - w))), "to a tenth"),
        (schedule(lambda s, w, n: (1 + math.cos((s - w) / (n - w))) / 2), "π is missing"),
        (schedule(lambda s, w, n: 2 * half_wave((s - w) / (n - w))), "Halve it"),
        (lambda s, p, w, n: p * (s + 1) / w if s <= w else learning_rate(s, p, w, n), "one step too long"),
        (schedule(lambda s, w, n: 1, lambda s, w: (1 + s * (1 - 1 / w)) / w), "has the peak already"),
    ),
)

# ---- 4. the distance from the floor ----


def excess(model_nats, floor_nats, n_ids):
    wasted = sum(model_nats) - sum(floor_nats)
    n_tokens = sum(n + 1 for n in n_ids)  # the end of each document is predicted too
    return wasted / n_tokens


def check_excess(answer):
    answer([12.0, 60.0], [10.0, 40.0], [4, 9]).should_be(
        22 / 15,
        (1.2,
         "That is the mean of the documents' own rates: 4 ids weigh as much as 9. Add up first, divide once."),
        (22 / 13, "The ends are missing: the model pays for predicting each eos too, so a document has n + 1 tokens."),
        (22 / 14, "One end was counted for all of them, but each document has its own."),
        (11.0, "That is nats per document. Long documents waste more because they are long: divide by tokens."),
        (22.0, "That is the waste in all, which grows with the number of documents. Divide it by the tokens."),
        (72 / 15, "That is the model's loss. The floor must come off: no model can do without it."),
        (72 / 50, "That is a ratio. Excess loss is a difference, so that 0 means perfect."),
        (-22 / 15, "The sign is turned around: what the model pays comes first, the floor comes off."),
    )
    answer([5.0, 30.0], [6.0, 20.0], [4, 9]).should_be(
        9 / 15,
        (10 / 15,
         "Below the floor, 0 was counted. On one document a model can be lucky: let luck count."),
        (11 / 15, "Luck was counted as waste: on one document the model may be below the floor. No abs."),
    )


def excess_by(per_document, n_extra=1):
    """The mean over tokens of what a function says is wasted on a document."""

    def by(model_nats, floor_nats, n_ids):
        return sum(map(per_document, model_nats, floor_nats)) / sum(n + n_extra for n in n_ids)

    return by


def mean_of_rates(model_nats, floor_nats, n_ids):
    return sum((m - f) / (n + 1) for m, f, n in zip(model_nats, floor_nats, n_ids, strict=True)) / len(n_ids)


EXCESS = Exercise(
    solution=excess,
    difficulty=3,
    statement="""
        How much does a model waste per token? Three lists have an entry for each document: `model_nats`, what it cost
        the model, `floor_nats`, the least it can cost, and `n_ids`, its number of ids. The eos at the end of each is
        predicted and paid for too. Return the excess loss in nats per token, every token weighing the same.""",
    check=check_excess,
    hints=(
        "For one document: what was wasted, and over how many predictions?",
        "Tokens are to weigh alike, not documents. So add up before you divide.",
        "(sum(model_nats) - sum(floor_nats)) divided by the sum of n + 1.",
    ),
    wrong=(
        (mean_of_rates, "documents' own rates"),
        (excess_by(lambda m, f: m - f, n_extra=0), "ends are missing"),
        (lambda m, f, n_ids: (sum(m) - sum(f)) / (sum(n_ids) + 1), "each document has its own"),
        (lambda model_nats, floor_nats, n_ids: (sum(model_nats) - sum(floor_nats)) / len(n_ids), "per document"),
        (lambda model_nats, floor_nats, n_ids: sum(model_nats) / sum(floor_nats), "ratio"),
        (excess_by(lambda m, f: m), "model's loss"),
        (excess_by(lambda m, f: f - m), "sign"),
        (excess_by(lambda m, f: max(m - f, 0)), "0 was counted"),
        (excess_by(lambda m, f: abs(m - f)), "No abs"),
    ),
)

EXERCISES = (CUT, DOCUMENT_MASK, LEARNING_RATE, EXCESS)
