"""Lesson 01: why bytes, what merges do, what a vocabulary costs, special tokens, and where a prompt may end."""

from course.quiz import Question

QUIZ = (
    Question(
        "Why does a byte-level tokenizer never meet an unknown character?",
        "b",
        (
            ("It was trained on texts in which every character of Unicode occurs.",
             "It may never have seen most of them. It does not need to."),
            ("Every text is bytes, and all 256 bytes are in its vocabulary.",
             "Yes. What it has not learned to merge stays as single bytes: longer, but never lost."),
            ("It replaces unknown characters by a special token.",
             "That loses the text: decode could not give it back. Byte-level tokenizers have no such token."),
            ("It splits unknown words into characters.",
             "A character can be new as well. It splits further, into bytes."),
        ),
    ),
    Question(
        ("A tokenizer trained on English turns an article into 1,000 tokens, and its Greek translation into 3,000. "
         "What does that mean for Greek?"),
        "d",
        (
            ("It cannot be written.", "Byte-level tokenizers write everything. The question is at what length."),
            ("The model has seen less Greek, so it knows it three times less well.",
             "Tokens per text measure the tokenizer. What the model knows depends on what it was trained on."),
            ("Nothing: the model reads the same text.",
             "It is the same content, but in three times as many steps, and each step costs time and room."),
            ("It costs three times the compute and context.",
             "Yes. Price, speed and context length are all counted in tokens."),
        ),
    ),
    Question(
        "BPE has learned the merges (h, e), (t, h), (th, e), in this order. How is `the` encoded?",
        "a",
        (
            ("t he", "Yes: (h, e) was learned first, so it goes first, and after it there is no t h any more."),
            ("the", "That takes (t, h) first, because it stands further left. What counts is the order of learning."),
            ("th e", "(t, h) was learned second. When its turn comes, the h is already part of he."),
            ("t h e", "(h, e) was learned, and the word has an h before an e."),
        ),
    ),
    Question(
        ("The vocabulary of a model of width 768, with one table for input and output, grows from 32,000 to 64,000. "
         "What does that cost, and what does it bring?"),
        "c",
        (
            ("It costs nothing, as tokens are only names, and helps with rare words.",
             "Every token has a row of 768 weights, and every prediction computes a logit for it."),
            ("It halves the length of every text.",
             "The most useful merges come first; the second 32,000 are rare words and shorten it only a little."),
            ("25 million more weights, for slightly shorter texts.",
             "Yes, 32,000 × 768, about a fifth of a model of 124 million. For a large model that is little, for ours "
             "a lot."),
            ("Twice the weights in every layer.",
             "Layers work at width 768, whatever the vocabulary. Only the embedding grows."),
        ),
    ),
    Question(
        "A user types `<|end|>` into a chat. What should the tokenizer make of it?",
        "b",
        (
            ("The special id, since that is how it is spelled.",
             "Then every user could end the turn and speak as the system. The spelling alone must not be enough."),
            ("Plain text: ordinary ids that look like `<|end|>` when decoded.",
             "Yes. Special ids come from the chat template alone, so no message can forge one."),
            ("An error: nobody is allowed to type that.",
             "People write about tokenizers too. There is nothing wrong with the text."),
            ("Nothing: it should be removed.",
             "Then decode would give back another text. It is the special id that must be kept out, not the words."),
        ),
    ),
    Question(
        ("A prompt for code ends in a line break. In training the line break was always one token together with the "
         "indentation after it. What does the model make of the prompt?"),
        "c",
        (
            ("The same as without it: white space says nothing.",
             "It says nothing to a reader. The model reads ids, and the id at the end is another one."),
            ("An error: the tokenizer does not know this token.",
             "It does. The line break alone is an id as well, and occurs in other texts."),
            ("It reads an id that never stood there in training, and may go on with anything.",
             "Yes. In this lesson functions fell from 98 to 0 of 100. End prompts where a word ends, or heal them."),
            ("It costs one token more, and changes nothing else.",
             "The length hardly matters. What matters is that no training text was ever cut like this."),
        ),
    ),
)
