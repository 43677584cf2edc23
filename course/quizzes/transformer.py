"""Lesson 03: the stream, the place of the norm, what parts are for, what they cost, and what an ablation says."""

from course.quiz import Question

QUIZ = (
    Question(
        "What does the residual stream of a token hold after three layers?",
        "b",
        (
            ("The output of the third layer.", "Layers do not hand on outputs. They add to what is there."),
            ("Its embedding plus all that six parts have added.",
             "Yes: three times attention, three times MLP. Every part can read what any earlier one wrote."),
            ("The average of the three layers.", "Nothing is averaged. What is written is summed, so its size grows."),
            ("A copy of the embedding, which the layers leave alone, with their results beside it.",
             "Beside it would need more room. All write into the same C numbers."),
        ),
    ),
    Question(
        "In which models does the stream itself go through a norm again and again, in every layer?",
        "c",
        (
            ("In pre-norm models.", "There the norms stand on the branches: what a part reads is normed, not the sum."),
            ("In every model with norms.", "It depends on where they stand."),
            ("In post-norm models.",
             "Yes: each sum is normed, so the direct way goes through two norms a layer. Deep ones train badly."),
            ("In none.", "The transformer of 2017 was built so, and many after it."),
        ),
    ),
    Question(
        "Where are most of the weights of this lesson's model, and of most others?",
        "a",
        (
            ("In the MLPs.",
             "Yes, more than two thirds here. Attention has a quarter, and the vocabulary's share falls as models "
             "grow."),
            ("In attention.", "Its four matrices are smaller than the MLP's three, more so with shared keys."),
            ("In the embedding.", "Only where the model is small beside its vocabulary."),
            ("In the norms.", "They are a few thousand."),
        ),
    ),
    Question(
        "One layer's attention is taken out, and stories hardly suffer. What follows?",
        "d",
        (
            ("That layer could be left out in training.", "Trained without it, another model comes out."),
            ("The layer does nothing for stories.", "Others may do the same work and fill in for it."),
            ("The measurement is wrong.", "It may be quite right. What it means is the question."),
            ("Stories do not depend on it alone.",
             "Yes, no more than that. To say more, take out several parts together, and measure other texts."),
        ),
    ),
    Question(
        "How many operations does training take for a token, in a model of N weights and short texts?",
        "b",
        (
            ("2 N.", "That is the forward pass: one product and one sum a weight."),
            ("6 N.", "Yes: 2 N forward, and twice that backward, for the gradients of weights and inputs."),
            ("N.", "A multiply-add is two operations, and there is a backward pass."),
            ("N².", "Each weight meets each token once on the way forward, not each other weight."),
        ),
    ),
)
