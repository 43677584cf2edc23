"""Widgets: a model, a tokenizer or records in; controls, a drawing, and a line that says what changed out."""
