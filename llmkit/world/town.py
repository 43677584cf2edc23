"""A town: its words (one TOML file) and its residents (drawn from a seed), in three disjoint sets.

`known` residents appear in the training mixture; `sft` and `test` residents never do, not even by name: they are for
teaching a model to say that it does not know somebody, and for testing whether it learned that (and for reading and
retrieval, where what matters is not in the weights).
"""

from __future__ import annotations

import hashlib
import random
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ATTRIBUTES = ("home", "job", "pet", "food", "instrument", "friend")
N_RESIDENTS = {"known": 100, "sft": 60, "test": 60}


@dataclass(frozen=True)
class Resident:
    first: str
    last: str
    facts: tuple[tuple[str, str], ...]  # attribute, value

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"

    def fact(self, attribute: str) -> str:
        return dict(self.facts)[attribute]


class Town:
    def __init__(self, seed: int, path: Path):
        source = Path(path).read_bytes().replace(b"\r\n", b"\n")  # the fingerprint is the same with Windows' line ends
        data = tomllib.loads(source.decode("utf-8"))
        missing = {"name", "pronouns", "names", "facts", "words"} - data.keys()
        if missing:
            raise ValueError(f"{path}: a town's file needs the entries {sorted(missing)}")
        self.name, self.words, self.fact_values = data["name"], data["words"], data["facts"]
        self.phrases = {
            kind: table for kind, table in data.items() if kind not in ("name", "pronouns", "names", "facts", "words")
        }
        self.pronouns = {
            name: data["pronouns"][gender] for gender in data["pronouns"] for name in data["names"][gender]
        }
        self.first_names, self.last_names = sorted(self.pronouns), data["names"]["last"]
        self.residents = self._settle(random.Random(f"{seed} residents"))
        self.by_name = {r.name: r for group in self.residents.values() for r in group}
        self.fingerprint = hashlib.sha256(f"{seed}".encode() + source).hexdigest()[:16]

    def _settle(self, rng: random.Random) -> dict[str, tuple[Resident, ...]]:
        """Names without repetition, every first name about equally often; friends live in the same set."""
        n = sum(N_RESIDENTS.values())
        pairs = [(first, last) for last in self.last_names for first in self.first_names]
        if len(pairs) < 4 * n:
            raise ValueError(
                f"{len(self.first_names)} first and {len(self.last_names)} last names are too few for {n} residents"
            )
        chosen = rng.sample(pairs, n)
        residents, begin = {}, 0
        for group, size in N_RESIDENTS.items():
            names = chosen[begin : begin + size]
            begin += size
            residents[group] = tuple(Resident(*name, self._facts(name, names, rng)) for name in names)
        return residents

    def _facts(self, name, group, rng) -> tuple[tuple[str, str], ...]:
        values = {
            attribute: rng.choice(self.fact_values[attribute]) for attribute in ATTRIBUTES if attribute != "friend"
        }
        values["friend"] = " ".join(rng.choice([other for other in group if other != name]))
        return tuple(values.items())

    def first_name_shares(self, residents) -> dict[str, list[Resident]]:
        """{first name: the residents who have it}, for drawing a resident name by name."""
        shares = defaultdict(list)
        for resident in residents:
            shares[resident.first].append(resident)
        return dict(sorted(shares.items()))


def held_out(*key, share: float) -> bool:
    """Whether something is kept for the test split: decided by a hash of what it is, the same on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32
