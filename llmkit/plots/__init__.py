"""Figures: arrays and records in, a matplotlib figure out. The same colour means the same thing in every lesson."""

MODEL, TRUTH, STRANGER = "#0072B2", "#D55E00", "#999999"  # Okabe–Ito: blue, vermilion, grey
TRAIN, VALIDATION = "#56B4E9", "#0072B2"
