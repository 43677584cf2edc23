"""One file a lesson: QUIZ, its questions with something to say about every option."""
