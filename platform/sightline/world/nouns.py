"""The world's nouns (COCO category names), their icons, contexts and companions.

Contexts and companions create co-occurrence: a fork is usually seen with a knife, in
a kitchen. That is what a language prior feeds on, and what adversarial POPE probes.
"""

from __future__ import annotations

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (243, 130, 20),
    "yellow": (236, 200, 20),
    "green": (40, 160, 60),
    "blue": (40, 90, 215),
    "purple": (140, 50, 180),
}
"""Colour name -> RGB, 0 to 255."""

GROUNDS: dict[str, tuple[int, int, int]] = {
    "street": (205, 205, 208),
    "kitchen": (232, 226, 214),
    "farm": (206, 222, 198),
    "living room": (226, 211, 203),
    "beach": (233, 224, 190),
}
"""Context -> RGB of its plain ground."""

CONTEXTS: dict[str, tuple[str, ...]] = {
    "street": (
        "car",
        "person",
        "traffic light",
        "bus",
        "truck",
        "bicycle",
        "motorcycle",
        "fire hydrant",
    ),
    "kitchen": ("cup", "bottle", "fork", "knife", "bowl", "refrigerator", "microwave", "apple", "pizza"),
    "farm": ("cow", "sheep", "horse", "dog", "carrot", "bird", "person"),
    "living room": ("couch", "tv", "cat", "book", "clock", "remote", "chair", "teddy bear"),
    "beach": ("umbrella", "boat", "person", "kite", "bird", "surfboard", "backpack", "airplane", "dog"),
}
"""Context -> its nouns, the most frequent first."""

ICONS: dict[str, str] = {
    "person": "human",
    "car": "car",
    "bus": "bus",
    "truck": "truck",
    "bicycle": "bicycle",
    "motorcycle": "motorbike",
    "traffic light": "traffic_light",
    "fire hydrant": "fire_hydrant",
    "cup": "cup",
    "bottle": "bottle_wine",
    "fork": "silverware_fork",
    "knife": "knife",
    "bowl": "bowl",
    "refrigerator": "fridge",
    "microwave": "microwave",
    "apple": "food_apple",
    "pizza": "pizza",
    "cow": "cow",
    "sheep": "sheep",
    "horse": "horse",
    "dog": "dog_side",
    "carrot": "carrot",
    "bird": "bird",
    "couch": "sofa",
    "tv": "television",
    "cat": "cat",
    "book": "book_open",
    "clock": "clock",
    "remote": "remote",
    "chair": "chair_rolling",
    "teddy bear": "teddy_bear",
    "umbrella": "umbrella",
    "boat": "sail_boat",
    "kite": "kite",
    "surfboard": "surfing",
    "backpack": "bag_personal",
    "airplane": "airplane",
}
"""Noun -> name of its Material Design icon."""

NOUNS: tuple[str, ...] = tuple(ICONS)

_PAIRS = (
    ("car", "traffic light"),
    ("bus", "truck"),
    ("bicycle", "person"),
    ("motorcycle", "fire hydrant"),
    ("cup", "bottle"),
    ("fork", "knife"),
    ("refrigerator", "microwave"),
    ("bowl", "apple"),
    ("cow", "sheep"),
    ("horse", "dog"),
    ("couch", "tv"),
    ("cat", "teddy bear"),
    ("book", "clock"),
    ("remote", "chair"),
    ("umbrella", "boat"),
    ("kite", "bird"),
    ("surfboard", "backpack"),
)
COMPANIONS: dict[str, str] = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
"""Noun -> the noun it is most often seen with (carrot, pizza and airplane have none)."""

_IRREGULAR = {"person": "people", "sheep": "sheep", "knife": "knives", "bus": "buses", "couch": "couches"}
_SYNONYMS = {
    "sofa": "couch",
    "television": "tv",
    "fridge": "refrigerator",
    "bike": "bicycle",
    "motorbike": "motorcycle",
    "man": "person",
    "woman": "person",
    "sailboat": "boat",
    "plane": "airplane",
    "remote control": "remote",
    "stoplight": "traffic light",
}


def plural(noun: str) -> str:
    """The plural of a noun of this world: `knife` -> `knives`."""
    return _IRREGULAR.get(noun, noun + "s")


def with_article(noun: str) -> str:
    """`apple` -> `an apple`; `dog` -> `a dog`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


LEXICON: dict[str, str] = (
    {noun: noun for noun in NOUNS}
    | {plural(noun): noun for noun in NOUNS}
    | _SYNONYMS
    | {plural(word): noun for word, noun in _SYNONYMS.items() if word not in ("man", "woman")}
    | {"men": "person", "women": "person"}
)
"""Surface form -> node word: what counts as naming an object (as CHAIR's synonym list does)."""
