"""Lesson 04: what changes shape and what does not, what the lens and patches show, and what decoding costs."""

from course.quiz import Question

QUIZ = (
    Question(
        "A prompt of T tokens goes through a model with L layers. Which tensor has the same shape after every layer?",
        "c",
        (
            ("The attention weights, as each layer looks at the same tokens.",
             "They have one shape too, but they are not passed on: every layer makes its own."),
            ("The logits: one row of V numbers for each token.",
             "Logits are made once, after the last layer. The lens makes them earlier, the model does not."),
            ("The residual stream, (B, T, C).",
             "Yes. Layers only add to it, so whatever reads it at the end can be tried on it anywhere."),
            ("None: each layer makes a shorter summary of the text.",
             "No token is dropped. What a layer writes is added to a stream of unchanged shape."),
        ),
    ),
    Question(
        "The logit lens shows the right answer only after the last layer. What follows?",
        "b",
        (
            ("The earlier layers do nothing for this answer.",
             "They may prepare what the last layer needs. Patching showed that the name has to travel first."),
            ("Before the last layer, the output head cannot read the answer off the stream.",
             "Yes, and no more than that: the information may be there in directions that the head does not read."),
            ("The answer was found by the last layer alone.",
             "It became readable there. Exchanging earlier values changes it, so they matter."),
            ("The model guesses until the end.",
             "What the lens shows before the end is not what the model would say: it was never asked there."),
        ),
    ),
    Question(
        "Patched before layer 0, the last token's stream changes nothing; after the last layer, everything. Why?",
        "a",
        (
            ("By then the layers between have carried the name there from earlier tokens.",
             "Yes. At first the last token is the same word in both prompts; what differs must be brought to it."),
            ("Later layers are more sensitive.",
             "The same patch at the name's own tokens does the reverse: much early, little late. It is the place that "
             "matters, not the sensitivity."),
            ("The stream grows with depth, so that a late patch is larger.",
             "The norm takes size out before every layer. What counts is what the value says."),
            ("The last token is masked in early layers.",
             "The causal mask lets every token see itself and all before it, in each layer."),
        ),
    ),
    Question(
        "A head's share of the logit is 0.0. May it be removed without harm?",
        "d",
        (
            ("Yes, since shares add up to the logit exactly.",
             "They add up for this run. Remove a head, and what later layers write changes too."),
            ("Yes, if its share is 0.0 on many prompts.",
             "It may still feed later layers on all of these prompts. Ablate it and see."),
            ("No, since all heads have about the same importance.",
             "They have not: some parts write most of the logit. But shares count only what goes straight to it."),
            ("Perhaps not: it may write what a later layer reads.",
             "Yes. Direct attribution sees the direct path only. What a part is needed for shows when it is ablated."),
        ),
    ),
    Question(
        "A prompt of 1,000 tokens is answered with 100. Where does the KV cache save work?",
        "b",
        (
            ("In prefill: the prompt need not be computed.",
             "Somebody must compute its keys and values once. Prefill fills the cache."),
            ("In decoding: a new token costs one token's work.",
             "Yes. The past's keys and values do not change, as no token sees a later one."),
            ("In both, by about half of all the work that there is.",
             "Prefill is the same with and without. And in decoding it is not half, but about a factor of the length."),
            ("Nowhere: it saves memory.",
             "It takes memory, in proportion to the text, and pays with it for work not done twice."),
        ),
    ),
)
