"""A judge that notes who judged what, and takes its time: so that tests can kill in the middle."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sightline.metrics.objects import Lexicon
from sightline.preference.judges import Verdict, auto_judge
from sightline.records import Example
from sightline.world.nouns import LEXICON

_AUTO = auto_judge(Lexicon(LEXICON))


def judge(answer: str, example: Example) -> Verdict:
    """The automatic verdict; a line `pid example_id` goes to `judged.log` beside the images' folder."""
    log = Path(example.image_uri).parents[1] / "judged.log"
    with log.open("a") as lines:
        lines.write(f"{os.getpid()} {example.example_id}\n")
    time.sleep(0.02)
    return _AUTO(answer, example)
