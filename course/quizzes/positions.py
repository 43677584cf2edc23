"""Lesson 05: what attention knows without positions, what RoPE's scores depend on, and what longer texts need."""

from course.quiz import Question

QUIZ = (
    Question(
        ("Attention without positions and without a causal mask reads “Ada gave Tom the key” and “Tom gave Ada the "
         "key”. What differs?"),
        "b",
        (
            ("Everything: the order of the words is in the order of the rows.",
             "The rows change places, but each row's sum over keys is the same: a sum has no order."),
            ("Nothing but the order of the output rows.",
             "Yes. Each word's output depends on which words are there, not on where they stand."),
            ("Only the output of “gave”.",
             "It sees the same set of words in both sentences, so its output is the same."),
            ("The scores, since they are products of neighbours.",
             "Scores are products of every query with every key, wherever the two stand."),
        ),
    ),
    Question(
        ("A query at position 40 looks at a key at position 35, with RoPE. Where else is their score the same, the "
         "contents being equal?"),
        "d",
        (
            ("At no other place, since RoPE turns each of them by an angle of its own.",
             "It turns both, and what the product keeps is the difference of the angles."),
            ("At 35 and 40, the two exchanged.",
             "Then the distance is -5. Turning forwards and backwards are not the same."),
            ("Wherever the sum of the positions is 75.", "It is the difference that counts."),
            ("At 5 and 0, and at any two places five apart.", "Yes: the score depends on the distance alone."),
        ),
    ),
    Question(
        "Learned positions were trained on 64 tokens. The table has 512 rows. What is at position 100?",
        "c",
        (
            ("An error, since the model does not know position 100.",
             "The table has such a row, so nothing complains. That makes it worse."),
            ("An interpolation of the positions nearby.",
             "Rows of a table know nothing of each other. Nobody interpolates."),
            ("What it was initialised with.",
             "Yes: no gradient ever reached it. The model reads noise with its words."),
            ("The same as at position 36, as the table goes round.",
             "It does not go round: row 100 is a row of its own."),
        ),
    ),
    Question(
        "Without training, linear scaling by 8 hurts a RoPE model more than NTK scaling does. Why?",
        "a",
        (
            ("It slows the fast pairs too, by which neighbours are told apart.",
             "Yes. To the fastest pair, a neighbour now looks an eighth of a token away."),
            ("It changes the lengths of queries and keys.",
             "Rotations keep lengths. Only YaRN changes them, on purpose and by little."),
            ("It needs positions that the model has never seen.",
             "On the contrary: it squeezes all positions into those that it has seen."),
            ("It works on whole numbers only.", "Angles are real numbers. Position 2.5 is as good as 2."),
        ),
    ),
    Question(
        "A model's loss stays flat up to eight times its trained length. Does it use the long context?",
        "b",
        (
            ("Yes, since otherwise its loss would have to rise somewhere.",
             "Not if nothing far away is needed: ignoring what is far keeps the loss flat too."),
            ("Open: ask it for something far away.",
             "Yes. A needle hidden at a known depth shows whether it can be fetched."),
            ("No, as its loss would have to fall.",
             "It falls only if the text holds something worth looking back for. Ours are short documents."),
            ("Only with ALiBi.", "ALiBi is flat by design, and its far-away keys are just what its bias pushes down."),
        ),
    ),
)
