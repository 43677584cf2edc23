"""One file a lesson: EXERCISES, each with its check, its hints, its solution and the wrong answers that it names.

A check calls the learner's function and says what each call should give, and what known misconceptions give instead:

    answer([0.5, 0.5]).should_be(1.386, (0.25, "That is the probability of the text. …"))

All else (exceptions, endless loops, wrong types and shapes, spoiled arguments) is explained by course/answer.py. The
learner's function has the name and the parameters of the solution. A message names the mistake and what to think about;
it does not give the answer away. tests/test_course_exercise.py holds every file to that.
"""
