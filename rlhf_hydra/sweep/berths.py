"""Who takes which place: what each trial holds of the room, and on a Ray cluster the berths that trials pass on."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rlhf_hydra.cluster.berth import VARIABLE, Fit
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.sweep.room import MEMORY, Amounts, Room, asked

Reserve = Callable[[RunConfig, str], Callable[[], None]]
"""Reserves what a run asks of the cluster, under a name; returns what ends that, and every actor in it."""


@dataclass
class Berth:
    amounts: Amounts
    """What a trial takes here."""
    name: str = ""
    """Empty: the trial looks for its own place."""
    fit: Fit | None = None
    end: Callable[[], None] = lambda: None

    @property
    def env(self) -> Mapping[str, str]:
        return {VARIABLE: self.name} if self.name else {}

    @property
    def idle_amounts(self) -> Amounts:
        """What it holds between two trials; the memory of a trial's own process is not among it."""
        return {name: amount for name, amount in self.amounts.items() if name != MEMORY}


class Berths:
    """The places of a sweep. Those that are idle hold loaded engines, and make room for whoever needs it."""

    def __init__(self, room: Room, reserve: Reserve | None = None) -> None:
        """`reserve` None: nothing is passed on."""
        self.room, self.reserve = room, reserve
        self.idle: list[Berth] = []

    def take(self, run: RunConfig) -> Berth:
        """The idle berth in which another trial has left such engines as `run` needs, or else a new place."""
        fit = Fit.of(run) if self.reserve else None
        berth = next((one for one in self.idle if fit is not None and one.fit == fit), None)
        if berth is not None:
            self.idle.remove(berth)
        else:
            self.make_room(run)
            berth = self.new(run, fit)
        self.room.take(run)
        return berth

    def new(self, run: RunConfig, fit: Fit | None) -> Berth:
        if self.reserve is None or fit is None:
            return Berth(asked(run))
        name = f"berth-{uuid.uuid4().hex[:12]}"
        return Berth(asked(run), name, fit, self.reserve(run, name))

    def make_room(self, run: RunConfig) -> None:
        """End idle berths, those that have waited longest first, until `run` fits beside the others."""
        while self.idle and not self.room.fits(run, [berth.idle_amounts for berth in self.idle]):
            self.idle.pop(0).end()

    def give_back(self, berth: Berth, is_sound: bool) -> None:
        """`is_sound`: its engines can serve another trial."""
        self.room.give_back(berth.amounts)
        if berth.fit is not None and is_sound:
            self.idle.append(berth)
        else:
            berth.end()

    def close(self) -> None:
        """End those that are idle."""
        while self.idle:
            self.idle.pop().end()
