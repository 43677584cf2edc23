"""Lesson 00: the cost of a text, the floor, where a loss is taken, preferences, and what pretraining alone gives."""

from course.quiz import Question

QUIZ = (
    Question(
        "A text of 10 tokens costs a model 5 nats, another text of 40 tokens costs it 12 nats. What follows?",
        "c",
        (
            ("The second text is less probable, so the model is worse at it.",
             "Less probable it is, but it is longer too: per token it costs 0.3 nats against 0.5."),
            ("Nothing; nats of different texts cannot be compared.",
             "They can: exp(-nats) is the probability of each. Whether you compare texts or tokens is up to you."),
            ("The second is less probable as a whole, yet easier per token.",
             "Yes: exp(-12) against exp(-5), and 0.3 against 0.5 nats per token."),
            ("The second is more probable, since it has more tokens.",
             "Every further token multiplies by a probability of at most 1, so it can only make a text less probable."),
        ),
    ),
    Question(
        "A model reaches 0.93 nats per token on the town, and the best possible is 0.88. What is in these 0.88?",
        "b",
        (
            ("A sign of a model too small; a larger one would reach 0.",
             "No model can: names and things are drawn at random, and nobody foresees a draw."),
            ("The randomness of the text itself.",
             "Yes: the floor, or entropy, which even a perfect reader pays. Only the remaining 0.05 can still be "
             "learned."),
            ("What the tokenizer loses when it cuts words into pieces.",
             "A lossless tokenizer loses nothing: the same text comes back, and its probability is the same."),
            ("The loss on the training set.",
             "The floor knows no model and no training set: it comes from the program that writes the town."),
        ),
    ),
    Question(
        "Why is the loss of fine-tuning taken on the response only?",
        "d",
        (
            ("Prompts are too short to matter.",
             "They are often longer than the answers, and would then make up most of the loss."),
            ("The model cannot compute probabilities for the prompt.",
             "It can, and in pretraining it does: every token of a text has its probability."),
            ("It saves half of the computation.",
             "Hardly any: the prompt still runs through the whole network, since the answer depends on it."),
            ("The model is to learn to answer, not to ask.",
             "Yes. Prompts come from somebody else; imitating users is not the task."),
        ),
    ),
    Question(
        "Two answers have the rewards 3 and 1. What does Bradley–Terry say if both rewards grow by 5?",
        "a",
        (
            ("Nothing changes: only the difference of the rewards counts.",
             "Yes, σ(2) before and after. So a reward has no zero of its own, and only comparisons pin it down."),
            ("The first is preferred less clearly: 8 to 6 instead of 3 to 1.",
             "That would be a share of the rewards. Bradley–Terry takes the share of their exponentials."),
            ("The first is preferred more clearly.", "Only a larger difference does that; it is 2 as before."),
            ("Both become equally likely.", "That needs equal rewards. The difference is still 2."),
        ),
    ),
    Question(
        "The model is asked for the pet of a resident it has never read about. What will pretraining alone make it do?",
        "b",
        (
            ("Say that it does not know.", "Nobody in its texts ever says so. A later stage has to teach that."),
            ("Name a pet, fluently.",
             "Yes. It continues text, and a pet comes next there. You see a draw from the pets that residents have."),
            ("Stop at once, as there is nothing to say.",
             "Its texts do not stop in the middle of a biography, so neither does it."),
            ("Output random letters.", "It knows very well what kind of word comes here; it just does not know which."),
        ),
    ),
)
