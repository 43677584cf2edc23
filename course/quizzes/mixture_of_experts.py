"""Lesson 08: what a mixture saves, why routers collapse, what the bias does, who is dropped, and what experts know."""

from course.quiz import Question

QUIZ = (
    Question(
        "A model has 8 experts a layer and sends each token to 2. Beside a dense model of as many parameters, it saves",
        "c",
        (
            (
                "memory: only 2 of 8 experts need be loaded.",
                "The next token may want the other six. All of them must lie ready.",
            ),
            (
                "parameters, by sharing them between tokens.",
                "It has as many. Every weight of a model is shared anyway.",
            ),
            (
                "arithmetic in the MLPs, to about a quarter.",
                "Yes. Attention, embeddings and router cost what they cost; each token passes through 2 of 8 experts.",
            ),
            (
                "time, to exactly a quarter.",
                "Eight small products are slower than one large one, tokens have to be sorted, and attention is not "
                "touched at all.",
            ),
        ),
    ),
    Question(
        "Why does a router without any balancing tend to send everything to a few experts?",
        "b",
        (
            ("Because a softmax cannot give equal probabilities.", "It gives them for equal logits, as at the start."),
            (
                "An expert that is chosen is trained, becomes better, and is chosen more.",
                "Yes. Those that nobody chooses get no gradient, and stay as bad as they were.",
            ),
            (
                "Because the loss is lower with fewer experts.",
                "It is not, in the end. But a gradient sees only the experts that were chosen.",
            ),
            (
                "Because most tokens are alike.",
                "Even where they are not: what feeds itself is the choice, whatever the tokens are.",
            ),
        ),
    ),
    Question(
        "The balance loss is E · Σ f P, with f counted and P averaged. Through which of them does the router learn?",
        "a",
        (
            ("P alone.", "Yes. Counts have no gradient; f says how hard each expert's probability is pushed down."),
            ("f alone.", "Counting is not differentiable: f does not change if the router moves a little."),
            ("Both alike.", "Only if counting had a gradient."),
            (
                "Neither: it is a number to look at.",
                "That is what it becomes if nobody adds it to the loss, as in this lesson's bug.",
            ),
        ),
    ),
    Question(
        "A bias on each expert's score, moved after each step, balances without a loss. Where does the bias enter?",
        "d",
        (
            (
                "In the choice and in the weights.",
                "Then an expert that is lifted would also speak louder, and the output would depend on the load.",
            ),
            ("In the weights alone.", "Then it could not change who goes where."),
            ("In the expert's output, as in a linear layer.", "It is the router's, and never meets the stream."),
            (
                "In the choice alone.",
                "Yes. Weights are the router's own probabilities, so the language loss is free of it.",
            ),
        ),
    ),
    Question(
        "With a capacity, the same text gets other logits in another batch. Why?",
        "b",
        (
            ("Attention looks into the neighbour rows.", "Rows never see each other in attention."),
            (
                "Whether its tokens find room depends on who was served before them.",
                "Yes. Without a capacity each token is computed by itself, and the batch does not matter.",
            ),
            (
                "Rounding differs with the size of the products.",
                "By a millionth. Here whole experts are missing from the sum.",
            ),
            ("The router normalises over the batch.", "Its softmax runs over the experts, for each token alone."),
        ),
    ),
    Question(
        "Expert 3 takes 60 % of all names, and somebody calls it the expert for persons. What do you ask first?",
        "c",
        (
            ("Whether it is so in all layers.", "Worth knowing, but one layer would be interesting enough."),
            ("How large the expert is.", "All have the same size."),
            (
                "What the tokens alone predict: the same expert, whatever they mean?",
                "Yes. Most of what a router decides can be read off the token's identity; a topic must explain more "
                "than that, and more than shuffled labels do.",
            ),
            (
                "Whether the load is balanced.",
                "A skewed load makes 60 % less surprising, so compare with its share of all tokens, too. But that "
                "does not tell a word list from a topic.",
            ),
        ),
    ),
)
