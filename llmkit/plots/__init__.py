"""Figures: arrays and records in, a matplotlib figure out. The same colour means the same thing in every lesson."""

MODEL, TRUTH, STRANGER = "#0072B2", "#D55E00", "#999999"  # Okabe–Ito: blue, vermilion, grey
TRAIN, VALIDATION = "#56B4E9", "#0072B2"
DRAWN, NEXT, NEW = "#CC79A7", "#E69F00", "#009E73"  # samples: purple; what comes next: orange; just made: green
CYCLE = ("#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#E69F00", "#0072B2", "#D55E00")  # tints that tell tokens apart
QUERY, KEY, VALUE = "#009E73", "#E69F00", "#CC79A7"  # of attention: green, orange, purple
PLUS, MINUS = "#0072B2", "#D55E00"  # of numbers with a sign


def short(count: float) -> str:
    """A count in three digits: 870k, 4.2M; from a thousand billions on 1.5e+12."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if unit <= count < 1000 * unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:.3g}"
