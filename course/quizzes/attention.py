"""Lesson 02: what is looked up, why the root, what a mask lets through, what an ablation proves, and NaN."""

from course.quiz import Question

QUIZ = (
    Question(
        "In attention, what decides *which* token is looked at, and what decides *what* is taken from it?",
        "b",
        (
            ("The query decides both.", "The query alone decides nothing: it is compared with the keys."),
            ("Query and key where, the value what.",
             "Yes. Keys are what tokens offer to be found by, values what they hand over. The two need not resemble "
             "each other."),
            ("The key decides where, the query what.", "Where is decided by both together: by their product."),
            ("The value decides both, through the softmax.", "Values come in after the softmax, as what is averaged."),
        ),
    ),
    Question(
        "A head has vectors of 256 independent numbers of mean 0 and variance 1. How large are its raw scores, "
        "typically?",
        "c",
        (
            ("About 1.", "That is so after dividing by √256."),
            ("About 256.", "256 is their variance. The typical size is its root."),
            ("About 16.",
             "Yes: variances add up to 256, whose root is 16. A difference of 16 between two scores is a factor of "
             "e¹⁶ between two weights."),
            ("About 4.", "That would be the fourth root. The variance is 256."),
        ),
    ),
    Question(
        "Validation loss falls to 0.3 nats/token on a text whose entropy is 0.5. What has happened?",
        "d",
        (
            ("The model has learned the text perfectly.",
             "A perfect model pays the entropy, 0.5 in the mean. Nobody pays less on fresh text."),
            ("The validation set is too easy.", "Its entropy says exactly how easy it is: 0.5."),
            ("Too few tokens were measured; it is luck.",
             "Luck of this size is possible over a few dozen tokens, but not over many thousand."),
            ("The model sees what it has to predict.",
             "Yes. A leak in the mask, targets that were not moved, or validation texts among the training texts."),
        ),
    ),
    Question(
        "A head puts 70 % of its weight on the token that gets copied. Is it needed for the copying?",
        "a",
        (
            ("Only an ablation can say.",
             "Yes: take it out and measure the loss. A head may look and write nothing of use, or others may do the "
             "same and fill in for it."),
            ("Yes, since it looks at the right place.",
             "Looking is not using: what its value does to the logits counts."),
            ("No, attention weights mean nothing.", "They are a good hint. It is the proof that is missing."),
            ("Yes, if no other head looks there.", "It may still be copied by other ways, and the looking be idle."),
        ),
    ),
    Question(
        "One row of a batch has no key that its first query may see. Scores are masked with -inf. What follows?",
        "b",
        (
            ("That row gets uniform weights.", "That is what -1e9 in place of -inf gives, which nobody notices."),
            ("0/0 in its softmax, and so nan.",
             "Yes. After the mean the whole loss is nan, and by the gradient all weights. So a mask must leave each "
             "row something, or the row is set to 0."),
            ("Nothing: masked rows are skipped.", "Nothing skips them. The softmax divides by a sum of zeros."),
            ("Its weights are all zero, as desired.", "One would wish so, but e^-inf over the sum of zeros is 0/0."),
        ),
    ),
    Question(
        "With 12 query heads and 4 key/value heads, what is shared?",
        "c",
        (
            ("Each key/value head's output is copied to three places.",
             "The three queries differ, and so do the outputs."),
            ("Three heads have the same attention weights.", "Weights come from query and key; the queries differ."),
            ("Three query heads look at the same keys and take from the same values.",
             "Yes. They ask different questions of the same notes, and the notes to be kept are a third."),
            ("All heads share one query.", "It is the other way round: queries are many, keys and values few."),
        ),
    ),
)
