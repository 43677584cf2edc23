"""Lesson 06: the first loss, packing, the floor, runs that go wrong, where knowledge is, and text without a floor."""

from course.quiz import Question

QUIZ = (
    Question(
        "A model with random weights and 1,024 ids starts at a loss of 11. What is the first thing to look at?",
        "c",
        (
            ("The learning rate: it is far too high for weights that have learned nothing.",
             "Nothing has been learned yet at the first step, neither well nor badly."),
            ("Nothing: a first loss says little, and it will come down in the first steps.",
             "It may, but the start is known: knowing nothing costs ln 1,024 = 6.9. At 11 a model is not unsure, but "
             "sure of wrong things."),
            ("The size of the first logits.",
             "Yes. Spread evenly, 1,024 ids cost 6.9 nats. More means confidence without reason: large logits, from "
             "large weights."),
            ("The data: they must be damaged.",
             "Damaged data are learned badly, but later. Before the first step they, too, cost ln V."),
        ),
    ),
    Question(
        "Documents are packed into rows, and the mask between them is forgotten. What happens?",
        "a",
        (
            ("Training looks fine, but documents look into their neighbours.",
             "Yes: no error. The curve lies higher, and nobody sees that without the other run beside it. That is why "
             "a test compares packed documents with single ones."),
            ("The loss becomes nan, since the first place of each document has nothing to look at.",
             "Each place sees itself at least, and here even too much. So every softmax is fine."),
            ("The shapes no longer fit.", "The mask changes no shape. That is what makes forgetting it so quiet."),
            ("The model sees the future and its loss falls to 0.",
             "That is what a missing causal mask does. Here it sees the past, only the wrong one."),
        ),
    ),
    Question(
        "The loss on stories is 0.93, their floor 0.88; on sums it is 0.70, the floor 0.30. Which does the model know "
        "less well?",
        "b",
        (
            ("Stories.",
             "Their loss is higher, but most of it is chance, which no model can foresee. Only 0.05 is left."),
            ("Sums.",
             "Yes: 0.40 above what is possible, against 0.05. The loss alone cannot say so; the distance from the "
             "floor can."),
            ("Neither: both are close to perfect.",
             "0.40 nats per token is a lot: on average a right token gets 0.67 times the probability that it "
             "should get."),
            ("It cannot be said without the number of tokens.",
             "Both are per token already. The numbers of tokens say how much each kind weighs in the whole mixture, "
             "no more."),
        ),
    ),
    Question(
        "A run is interrupted at step 600 and resumed. What must come back for it to end at the same weights?",
        "d",
        (
            ("The weights.", "AdamW's running means and the place in the data shape the next steps as well."),
            ("The weights and the learning rate.",
             "The rate follows from the step. The optimizer's running means do not."),
            ("The weights and the optimizer's state.",
             "Nearly. Without the step, the schedule and the data would start again from the beginning."),
            ("The weights, the optimizer's state and the step.",
             "Yes. Rate and batch are functions of the step here, so it stands for both of them."),
        ),
    ),
    Question(
        "On biographies of known residents the loss keeps falling long after stories are at their floor. Why?",
        "b",
        (
            ("Biographies are longer than stories, and long texts cost more nats.",
             "Length is taken out: the loss is per token."),
            ("Each fact must be met to be learned, and is met rarely.",
             "Yes. The rules of stories are in every story; who owns which pet is in a few documents among thousands."),
            ("Their floor is higher.", "A floor says where the loss ends, not how long it takes to get there."),
            ("It overfits: it learns the training set by heart.",
             "By heart is right for facts. And new biographies of the same residents get cheaper too, which "
             "overfitting would not do."),
        ),
    ),
    Question(
        "A run on the town ends at 0.35 nats per token; the floor is 0.51. What do you conclude?",
        "c",
        (
            ("The model is larger than ours.", "No size helps: the floor is what the author of the text pays."),
            ("The floor was estimated too high, from too few documents.",
             "It varies by a few hundredths between samples, not by 0.16."),
            ("The run measures something other than predicting the next token.",
             "Yes: answers leak into what is read, or targets are not moved by one. No prediction gets below the "
             "floor."),
            ("It has learned the training set by heart, which is below the floor.",
             "On its own few documents a model can get there. On a text that is new at every step it cannot."),
        ),
    ),
    Question(
        "Two runs end far below the floor. One began at ln V, the other well under it. What is wrong with each?",
        "b",
        (
            ("The first has targets that were not moved by one, the second reads the same batch at every step.",
             "The other way round: a model that is asked for what it reads has an advantage before the first step."),
            ("The first reads the same batch at every step, the second has targets that were not moved by one.",
             "Yes. Any text costs ln V at first, whichever batch it is; repeating what one reads costs less from the "
             "start, since the output weights are the embedding's."),
            ("Both have a learning rate that is too high.",
             "Too high a rate keeps a run above the floor, or throws it off altogether. It cannot bring it under."),
            ("The second began from weights that had been trained before, the first did not.",
             "Trained weights do begin lower, but they, too, end at the floor, and not under it."),
        ),
    ),
    Question(
        "Two models of English, with different tokenizers: 2.9 and 3.4 nats per token on the same held-out text. Which "
        "is better?",
        "d",
        (
            ("The first: its loss is lower.", "Per token. If its tokens are shorter, it pays more often."),
            ("The second, if it has seen more text.", "How much it read says nothing about how well it predicts."),
            ("Neither: models of real text cannot be compared, since the floor is not known.",
             "They can be compared with each other. Only the distance from perfect is unknown."),
            ("It depends on how many bytes a token has: compare bits per byte.",
             "Yes. With 2.0 and 2.9 bytes per token, say, the second pays less for the same text."),
        ),
    ),
)
