"""One file a lesson: EXERCISES, each with its check, its hints, its solution and the wrong answers that it names."""
