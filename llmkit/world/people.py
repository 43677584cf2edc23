"""Three kinds of document about people: biographies of residents (knowledge that only weights can hold), passages about
strangers with questions (everything needed stands in the text), and facts about somebody's friend (two hops)."""

from __future__ import annotations

from .grammar import Grammar, Memory, Option, uniform
from .town import ATTRIBUTES, held_out


class Biography(Grammar):
    """A few facts about one resident, in many phrasings. `S` is the subject; its facts come from the town."""

    def __init__(self, phrases, town, residents):
        super().__init__("bio", phrases, town)
        self.shares = town.first_name_shares(residents)
        self.n_residents = len(residents)

    def start(self):
        return Memory(told=()), ((self.fact_sentence,), (self.more,))

    def fact_sentence(self, memory) -> list[Option]:
        left = [a for a in ATTRIBUTES if a not in memory["told"]]
        return [(1 / len(left), ((self.say, f"about_{a}"),), memory.add(told=(*memory["told"], a))) for a in left]

    def more(self, memory) -> list[Option]:
        n_left = len(ATTRIBUTES) - len(memory["told"])
        if n_left == 0:
            return [(1.0, (), memory)]
        p_stop = 0.0 if n_left > 4 else 0.25
        go_on = (" ", (self.fact_sentence,), (self.more,))
        return [(p, symbols, memory) for p, symbols in ((p_stop, ()), (1 - p_stop, go_on)) if p > 0]

    # -- the subject: a full name first, then a pronoun or a name ----------------------------------------
    def name(self, memory) -> list[Option]:
        """Draw the subject: a first name, then a last name among those who share it."""
        return [
            (len(group) / self.n_residents, (first, " ", (self.last_name,)), memory.add(S=first))
            for first, group in self.shares.items()
        ]

    def last_name(self, memory) -> list[Option]:
        group = self.shares[memory["S"]]
        return [(1 / len(group), (r.last,), memory.add(last=r.last)) for r in group]

    def _subject(self, memory, pronoun: int, suffix: str = "") -> list[Option]:
        if "S" not in memory:
            return [(1.0, ((self.name,), suffix), memory)]
        first, last = memory["S"], memory["last"]
        forms = (0.5, self.town.pronouns[first][pronoun]), (0.3, first + suffix), (0.2, f"{first} {last}{suffix}")
        return [(p, (form,), memory) for p, form in forms]

    def Who(self, memory):  # noqa: N802
        return self._subject(memory, 3)

    def who(self, memory):
        return self._subject(memory, 0)

    def whom(self, memory):
        return self._subject(memory, 1)

    def Whose(self, memory):  # noqa: N802
        return self._subject(memory, 4, "'s")

    def whose(self, memory):
        return self._subject(memory, 2, "'s")

    # -- the facts ----------------------------------------
    def _fact(self, memory, attribute) -> list[Option]:
        resident = self.town.by_name[f"{memory['S']} {memory['last']}"]
        return [(1.0, (resident.fact(attribute),), memory)]

    def home(self, memory):
        return self._fact(memory, "home")

    def job(self, memory):
        return self._fact(memory, "job")

    def pet(self, memory):
        return self._fact(memory, "pet")

    def food(self, memory):
        return self._fact(memory, "food")

    def instrument(self, memory):
        return self._fact(memory, "instrument")

    def friend(self, memory):
        return self._fact(memory, "friend")


class StrangersBiography(Biography):
    """The same text as read by somebody who knows the language but nobody in town: every fact is a fresh, uniform draw.

    The nats this reader pays beyond the town's own are the knowledge that a model has to store.
    """

    def name(self, memory) -> list[Option]:
        firsts = self.town.first_names
        return [(1 / len(firsts), (first, " ", (self.last_name,)), memory.add(S=first)) for first in firsts]

    def last_name(self, memory) -> list[Option]:
        lasts = self.town.last_names
        return [(1 / len(lasts), (last,), memory.add(last=last)) for last in lasts]

    def _fact(self, memory, attribute) -> list[Option]:
        if attribute != "friend":
            values = self.town.fact_values[attribute]
            return [(1 / len(values), (value,), memory.add(**{attribute: value})) for value in values]
        firsts = self.town.first_names
        return [(1 / len(firsts), (first, " ", (self._friend_last,)), memory.add(friend=first)) for first in firsts]

    def _friend_last(self, memory) -> list[Option]:
        lasts = self.town.last_names
        return [(1 / len(lasts), (last,), memory.add(friend=f"{memory['friend']} {last}")) for last in lasts]


class Passage(StrangersBiography):
    """One or two strangers with fresh facts, then one to three questions about what was said."""

    def __init__(self, phrases, bio_phrases, town):
        super().__init__(bio_phrases | phrases, town, ())
        self.kind = "passage"
        taken = {(r.first, r.last) for group in town.residents.values() for r in group}
        self.free = {
            first: [last for last in town.last_names if (first, last) not in taken] for first in town.first_names
        }

    def start(self):
        return Memory(told=(), read=()), ((self._person,), (self._questions,))

    def last_name(self, memory) -> list[Option]:
        others = {first_last for first_last, _ in memory["read"]}
        lasts = [last for last in self.free[memory["S"]] if f"{memory['S']} {last}" not in others]
        return [(1 / len(lasts), (last,), memory.add(last=last)) for last in lasts]

    def _friend_last(self, memory) -> list[Option]:
        lasts = self.free[memory["friend"]]
        return [(1 / len(lasts), (last,), memory.add(friend=f"{memory['friend']} {last}")) for last in lasts]

    def _person(self, memory) -> list[Option]:
        return [
            (1.0, ((self.say, "arrival"), " ", (self.fact_sentence,), " ", (self.fact_sentence,), (self._on,)), memory)
        ]

    def _on(self, memory) -> list[Option]:
        """Another fact, another person (once), or the questions."""
        further = [(0.5, (" ", (self.fact_sentence,), (self._on,)), memory)] if len(memory["told"]) < 4 else []
        done = memory.add(read=(*memory["read"], self._noted(memory)))
        if len(done["read"]) == 2:
            return [*further, (1 - sum(p for p, *_ in further), (), done)]
        p = (1 - sum(p for p, *_ in further)) / 2
        fresh = Memory(told=(), read=done["read"])
        return [*further, (p, (), done), (p, (" ", (self._person,)), fresh)]

    def _noted(self, memory):
        return f"{memory['S']} {memory['last']}", tuple((a, memory[a]) for a in memory["told"])

    def _questions(self, memory) -> list[Option]:
        """Ask about one of the facts read; after the first, stop half of the time."""
        asked = memory.get("asked_before", ())
        facts = [(name, a, value) for name, told in memory["read"] for a, value in told if (name, a) not in asked]
        base = Memory(read=memory["read"])
        p = 0.5 if asked else 1.0
        ask = ((self.say, "question"), (self._questions,)) if len(asked) < 2 else ((self.say, "question"),)
        options = [
            (p / len(facts), ask, base.add(asked_before=(*asked, (name, a)), about=(name, a, value)))
            for name, a, value in facts
        ]
        return options if not asked else [(0.5, (), memory), *options]

    def ask(self, memory) -> list[Option]:
        return [(1.0, ((self.say, f"ask_{memory['about'][1]}"),), memory)]

    def asked(self, memory) -> list[Option]:
        return [(1.0, (memory["about"][0],), memory)]

    def answer(self, memory) -> list[Option]:
        return [(1.0, (memory["about"][2],), memory)]


class Hops(Biography):
    """ "The best friend of Ada Fenn lives on Mill Lane", told at once or in steps; some residents are held out."""

    SHARE_HELD_OUT = 0.25

    def __init__(self, phrases, town, split: str):
        known = town.residents["known"]
        chosen = [r for r in known if held_out("hops", r.name, share=self.SHARE_HELD_OUT) == (split == "test")]
        super().__init__(phrases, town, chosen)
        self.kind = "hops"

    def start(self):
        return Memory(), ((self._form,),)

    def _form(self, memory) -> list[Option]:
        return uniform(memory, [((self.say, "direct"),), ((self.say, "steps"),)])

    def name(self, memory) -> list[Option]:
        return [(1.0, (f"{memory['S']} {memory['last']}",), memory)] if "S" in memory else super().name(memory)

    def has(self, memory) -> list[Option]:
        if "about" in memory:
            return [(1.0, ((self.say, f"has_{memory['about']}"),), memory)]
        attributes = [a for a in ATTRIBUTES if a != "friend"]
        return [(1 / len(attributes), ((self.say, f"has_{a}"),), memory.add(about=a)) for a in attributes]

    def value(self, memory) -> list[Option]:
        friend = self.town.by_name[self.town.by_name[f"{memory['S']} {memory['last']}"].fact("friend")]
        return [(1.0, (friend.fact(memory["about"]),), memory)]
