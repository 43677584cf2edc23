"""Figures: arrays and records in, a matplotlib figure out. The same colour means the same thing in every lesson."""

MODEL, TRUTH, STRANGER = "#0072B2", "#D55E00", "#999999"  # Okabe–Ito: blue, vermilion, grey
TRAIN, VALIDATION = "#56B4E9", "#0072B2"
DRAWN, NEXT, NEW = "#CC79A7", "#E69F00", "#009E73"  # samples: purple; what comes next: orange; just made: green
CYCLE = ("#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#E69F00", "#0072B2", "#D55E00")  # tints that tell tokens apart
QUERY, KEY, VALUE = "#009E73", "#E69F00", "#CC79A7"  # of attention: green, orange, purple
PLUS, MINUS = "#0072B2", "#D55E00"  # of numbers with a sign
