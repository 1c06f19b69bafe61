"""The words by which COCO's 80 objects are named in captions, and which two words are one.

`OWN` is Sightline's own list and the default: good for comparing models with each other. The
published CHAIR rests on the list of its authors (`synonyms.txt`, LisaAnne/Hallucination,
BSD-2), which the user downloads; `CocoWords.parse` reads its text and recognises it by its
hash, so a report can say which list a number rests on. Reads no file itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sightline.errors import DataError

KNOWN: Mapping[str, str] = MappingProxyType(
    {
        "b685537b36fe21b791c87151b96a991ceb582edff19f3da204dcc7a7905502f2": (
            "synonyms.txt of LisaAnne/Hallucination (the published CHAIR)"
        )
    }
)
"""SHA-256 of a list's UTF-8 text -> its name."""

# fmt: off
_ANIMALS = (
    "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub",
)
# fmt: on
_APART = frozenset({"dining table"})
"""Objects of two words that the released scorer reads as two: its "table" is the same node."""


@dataclass(frozen=True, slots=True)
class CocoWords:
    """A list of synonyms: each line names one object, by its node word first."""

    name: str
    lines: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> CocoWords:
        """A list as its authors write it: a line an object, words parted by ", ".

        Raises DataError when there is no word in it.
        """
        lines = tuple(tuple(line.strip().split(", ")) for line in text.splitlines() if line.strip())
        if not lines:
            raise DataError(expected="a line of synonyms for each object", got="an empty list")
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        return cls(KNOWN.get(sha256, f"a list of {len(lines)} objects, sha256 {sha256[:12]}"), lines)

    def nodes(self, *, as_written: bool = True) -> dict[str, str]:
        """Word -> node word. `as_written` keeps entries that cannot match a lower-cased word
        (the released list has " motor bike", " cheesecake" and "iPhone"); else they are mended."""
        nodes = {word: line[0] for line in self.lines for word in line}
        return nodes if as_written else {word.strip().lower(): node for word, node in nodes.items()}

    def doubles(self) -> dict[str, str]:
        """Two words -> the word they count as (section 3 of the paper; the released rules).

        An object's two-word names; "baby" or "adult" before an animal and "passenger" before
        a vehicle, which would be a person; a few phrases that hold an object and are none.
        """
        words = {word.strip().lower() for line in self.lines for word in line} - _APART
        doubles = {word: word for word in words if len(word.split()) == 2}
        doubles |= {phrase: phrase for phrase in ("home plate", "train track")}
        doubles |= {f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS}
        doubles |= {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
        # "wine glas" is what WordNet makes of "wine glasses" now and then.
        return doubles | {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}


_OWN = """
person, man, woman, boy, girl, child, kid, baby, toddler, people, adult, guy, lady, gentleman
person, worker, player, skier, snowboarder, surfer, skateboarder, skater, rider, cyclist, biker
person, pedestrian, driver, chef, cook, waiter, student, teacher, doctor, officer, policeman, soldier
person, farmer, fisherman, passenger, batter, pitcher, catcher, umpire, bride, groom, mother, father
person, couple, crowd, tourist, swimmer, cowboy, children
bicycle, bike, cycle, tricycle, unicycle
car, automobile, sedan, suv, van, minivan, taxi, cab, jeep, hatchback, limousine, convertible
motorcycle, motorbike, motor bike, scooter, moped
airplane, plane, aeroplane, aircraft, jet, airliner, jetliner, biplane, seaplane
bus, minibus, coach
train, locomotive, tram, railcar
truck, lorry, pickup, firetruck
boat, ship, sailboat, canoe, kayak, yacht, ferry, barge, rowboat, motorboat, speedboat, vessel, raft
traffic light, stoplight, stop light, traffic signal
fire hydrant, hydrant
stop sign
parking meter
bench, pew
bird, seagull, gull, pigeon, duck, goose, swan, parrot, owl, eagle, hawk, crow, sparrow, penguin
bird, chicken, rooster
cat, kitten, kitty
dog, puppy, hound, terrier, retriever, poodle, bulldog, labrador, husky
horse, pony, foal, mare, stallion, colt
sheep, lamb, ewe, ram
cow, bull, calf, cattle, ox, heifer
elephant
bear, panda
zebra
giraffe
backpack, rucksack, knapsack
umbrella, parasol
handbag, purse
tie, necktie, bow tie
suitcase, luggage
frisbee
skis, ski
snowboard
sports ball, ball, baseball, basketball, football, volleyball
kite
baseball bat
baseball glove, mitt
skateboard
surfboard
tennis racket, racket, racquet
bottle
wine glass, wineglass
cup, mug, teacup
fork
knife
spoon
bowl
banana
apple
sandwich, hamburger, burger, cheeseburger
orange
broccoli
carrot
hot dog, hotdog
pizza
donut, doughnut
cake, cupcake, cheesecake
chair, armchair, stool, seat
couch, sofa, loveseat
potted plant, houseplant
bed
dining table, table, desk
toilet, urinal
tv, television, monitor
laptop, laptop computer, notebook
mouse
remote, remote control
keyboard
cell phone, cellphone, mobile phone, smartphone, phone, telephone
microwave
oven, stove
toaster
sink
refrigerator, fridge
book
clock
vase
scissors
teddy bear, teddy
hair drier, hair dryer, hairdryer
toothbrush
"""

OWN = CocoWords("Sightline's own list of COCO words (not the published CHAIR's)", CocoWords.parse(_OWN).lines)
"""The 80 categories of COCO with the names they usually go by."""
