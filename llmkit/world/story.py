"""Stories in which things change hands. Most plots are phrases alone (see the town's file); the one in which a thing is
handed on and on needs to know at every moment who is there (`present`), and who holds the thing (`H`) or that it is in
a box (`boxed`): this is where a model learns to track a state. Another one counts."""

from __future__ import annotations

from .grammar import Grammar, Memory, Option

N_EVENTS = range(2, 7)  # fewest and most events before the ending
P_END = 0.3


class Story(Grammar):
    def handing_on(self, memory) -> list[Option]:
        begun = memory.add(H=memory["A"], present=(memory["A"],), n_events=0, quiet=False, boxed=False)
        return [(1.0, ((self.arrival,), (self.event,)), begun)]

    def event(self, memory) -> list[Option]:
        """What happens next: somebody comes, gives, puts away, takes out, nothing much, or the end."""
        n = memory["n_events"]
        weights = (
            {self.giving: 5.0, self.putting: 1.0, self.arrival: 1.0} if not memory["boxed"] else {self.taking: 4.0}
        )
        if len(memory["present"]) == 4:
            weights.pop(self.arrival, None)
        if not memory["quiet"]:
            weights[self.pause] = 1.0
        p_end = 0.0 if n < N_EVENTS[0] else 1.0 if n == N_EVENTS[-1] else P_END
        total = sum(weights.values())
        on = [((1 - p_end) * w / total, (" ", (rule,), (self.event,)), memory) for rule, w in weights.items()]
        ending = (" ", (self.say, "final_box" if memory["boxed"] else "final_held"), (self.say, "close"))
        return [option for option in [*on, (p_end, ending, memory)] if option[0] > 0]

    def arrival(self, memory) -> list[Option]:
        alone = Memory({k: v for k, v in memory.items() if k != "X"}, quiet=False)
        return [(1.0, ((self.say, "comes"), (self._joins,)), alone)]

    def _joins(self, memory) -> list[Option]:
        return [(1.0, (), memory.add(present=(*memory["present"], memory["X"])))]

    def giving(self, memory) -> list[Option]:
        return self._to_somebody(memory, "gives", [p for p in memory["present"] if p != memory["H"]])

    def taking(self, memory) -> list[Option]:
        return self._to_somebody(memory, "takes", memory["present"])

    def _to_somebody(self, memory, key, receivers) -> list[Option]:
        n = memory["n_events"] + 1
        return [
            (
                1 / len(receivers),
                ((self.say, key),),
                memory.add(G=memory["H"], R=r, H=r, n_events=n, quiet=False, boxed=False),
            )
            for r in receivers
        ]

    def putting(self, memory) -> list[Option]:
        return [
            (
                1.0,
                ((self.say, "puts"),),
                memory.add(G=memory["H"], n_events=memory["n_events"] + 1, quiet=False, boxed=True),
            )
        ]

    def pause(self, memory) -> list[Option]:
        return [(1.0, ((self.say, "meanwhile"),), memory.add(quiet=True))]

    # -- the plot in which somebody gives away some of what they have ----------------------------------------
    def n_many(self, memory) -> list[Option]:
        return self._number(memory, "n_many", range(3, len(self.town.words["number"]) + 1))

    def n_given(self, memory) -> list[Option]:
        return self._number(memory, "n_given", range(2, memory["n_many"]))

    def n_left(self, memory) -> list[Option]:
        return self._number(memory, "n_left", [memory["n_many"] - memory["n_given"]])

    def _number(self, memory, name, numbers) -> list[Option]:
        words = self.town.words["number"]
        return [(1 / len(numbers), (words[n - 1],), memory.add(**{name: n})) for n in numbers]
