"""Lesson 07: what each term of the law means, what a fit and its interval tell, and who wants a small model."""

from course.quiz import Question

QUIZ = (
    Question(
        "L = E + A/N^α + B/D^β. A model of fixed size reads ever more text. Where does its loss end?",
        "c",
        (
            ("At zero.", "Text has entropy: nobody foresees what was drawn at random."),
            ("At E.", "D takes its term to zero, but N is fixed: what the size lacks stays."),
            ("At E + A/N^α.", "Yes: the data term goes, the size's term stays."),
            ("Nowhere: the loss falls without end.", "It falls ever more slowly, towards a limit above E."),
        ),
    ),
    Question(
        "Somebody fits the law to five sizes and reports E = 1.69. What is that number?",
        "b",
        (
            (
                "The measured entropy of their text.",
                "No run of theirs was there. It is what remains when two power laws are taken off.",
            ),
            (
                "An extrapolation, whose error nobody can check on real text.",
                "Yes. Only where the text's source is known, as here, can fitted and true E be laid side by side.",
            ),
            ("The loss of their largest model.", "That is higher by what its size and data lack."),
            (
                "A constant of the English language.",
                "It depends on the text, on the tokenizer, and on the family and recipe of the runs.",
            ),
        ),
    ),
    Question(
        "The learning rate of a run falls to 0 at its end, after 4 million tokens. Its loss is noted every 0.5 "
        "million, and a law is fitted to these numbers. What is wrong with them?",
        "d",
        (
            (
                "Nothing: a loss on held-out documents is a loss, however high the learning rate stands.",
                "Then why does it drop as soon as the learning rate falls?",
            ),
            ("They are too few.", "More of the same kind would be wrong in the same way."),
            ("They are measured on one seed.", "True of most scaling laws, and small beside the real trouble."),
            (
                "All but the last are of unfinished runs: a run made for 0.5 million would have ended lower.",
                "Yes. All runs look worse than they could be, and not all by the same amount, which bends the law.",
            ),
        ),
    ),
    Question(
        "A lab will serve a trillion tokens of its model. What should it train, compared with the compute-optimal one?",
        "a",
        (
            (
                "A smaller model, on more tokens.",
                "Yes. Training it costs more for the same loss, and each served token less.",
            ),
            (
                "A larger model, which reaches the same loss with fewer tokens.",
                "That is cheaper for nobody: it costs more to train and to serve.",
            ),
            ("The same: optimal is optimal.", "It is optimal for training alone."),
            ("The same size, on fewer tokens.", "Then it is worse. The loss was to be kept."),
        ),
    ),
    Question(
        "Two laws fit the same runs equally well, and disagree on a model a hundred times larger. What helps most?",
        "b",
        (
            ("More starting points for the fit.", "Both fit equally well already: the runs cannot tell them apart."),
            (
                "Runs over a wider range of sizes and data.",
                "Yes. What a fit says beyond its runs depends on how long the lever is.",
            ),
            ("Averaging the two.", "An average of two guesses has no more data behind it."),
            (
                "Repeating each run with other seeds and taking the means.",
                "It takes away noise. It does not tell how the curve goes on.",
            ),
        ),
    ),
    Question(
        "A law fitted to small runs predicts 1.31 for a large model, with a bootstrap interval of 1.21 to 1.42. What "
        "does the interval tell?",
        "c",
        (
            (
                "That the loss will lie in it, with a probability of 95 %.",
                "Only if the formula holds out there, and no draw of the small runs can test that.",
            ),
            (
                "How much the loss varies from seed to seed of the large model.",
                "No large model was trained. What varies is which of the small runs are drawn.",
            ),
            (
                "What other small runs like these might have predicted, by the same formula.",
                "Yes. Noise in the runs is in it. A formula that fails further out is not.",
            ),
            (
                "Nothing, as long as the true loss is not known.",
                "It does tell how much the runs leave open: a wide one says that they do not suffice.",
            ),
        ),
    ),
)
