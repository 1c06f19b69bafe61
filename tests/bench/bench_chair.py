"""CHAIR on 3,000 captions against the original's algorithm run plainly, with equal results.

Plain: each caption tokenised, tagged and lemmatised from scratch with NLTK's own functions, in
one process, then merged and looked up as the released scorer does (its word list kept as a set
once; the original builds the set anew for every word, which would flatter us). Ours:
`metrics.chair.Chair`. NLTK's data and the word list are loaded before the clock starts, for
both; ours starts with empty caches in every round. Seconds are of CPU: both are one thread.
The captions are the golden ones of SIGHTLINE_SHARED or ../shared/data (6 x 500). The last line
is one JSON object.

    python tests/bench/bench_chair.py [captions=3000] [rounds=3]
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sightline.metrics.chair import Chair
from sightline.metrics.coco_words import CocoWords
from sightline.metrics.english import English

SHARED = Path(os.environ.get("SIGHTLINE_SHARED") or Path(__file__).parents[3] / "shared" / "data")
Found = tuple[list[tuple[str, str]], int]
"""(word, node word) of every mention, and the number of words."""


def captions(count: int) -> list[str]:
    files = sorted((SHARED / "chair" / "captions").glob("*.jsonl"))
    return [json.loads(line)["caption"] for file in files for line in file.open()][:count]


def plain(texts: Sequence[str], nodes: Mapping[str, str], doubles: Mapping[str, str]) -> list[Found]:
    """The released scorer's way, a caption after the other."""
    import nltk
    from nltk.stem import WordNetLemmatizer

    parts = {"J": "a", "V": "v", "N": "n", "R": "r"}
    results = []
    for text in texts:
        lemmatizer = WordNetLemmatizer()
        tagged = nltk.pos_tag(nltk.word_tokenize(text.lower()))
        words = [lemmatizer.lemmatize(word, pos=parts.get(tag[0], "n")) for word, tag in tagged]
        merged, at = [], 0
        while at < len(words):
            double = " ".join(words[at : at + 2])
            merged.append(doubles.get(double, words[at]))
            at += 2 if double in doubles else 1
        kept = merged
        if "toilet" in merged and "seat" in merged:
            kept = [word for word in merged if word != "seat"]
        results.append(([(word, nodes[word]) for word in kept if word in nodes], len(merged)))
    return results


def ours(texts: Sequence[str], chair: Chair) -> list[Found]:
    results = []
    for text in texts:
        mentions, words = chair.mentions(text)
        results.append(([(m.word, m.node) for m in mentions], words))
    return results


def timed(function, *arguments) -> tuple[list[Found], float]:
    started = time.process_time()
    return function(*arguments), time.process_time() - started


def main(argv: Sequence[str]) -> None:
    options = {"captions": 3000, "rounds": 3}
    options |= {key: int(value) for key, value in (argument.split("=") for argument in argv)}
    if not (SHARED / "chair").is_dir():
        sys.exit(f"bench_chair: no captions at {SHARED / 'chair'}; set SIGHTLINE_SHARED")
    os.environ["NLTK_DATA"] = str(SHARED / "nltk_data")  # before NLTK is imported
    texts = captions(options["captions"])
    words = CocoWords.parse((SHARED / "chair" / "synonyms.txt").read_text())
    nodes, doubles = words.nodes(), words.doubles()
    plain(texts[:5], nodes, doubles)  # loads NLTK's data
    plain_s, ours_s, equal = [], [], False
    for _ in range(options["rounds"]):
        chair = Chair(words, english=English(str(SHARED / "nltk_data")), fallback=False)
        got, seconds = timed(ours, texts, chair)
        ours_s.append(seconds)
        expected, seconds = timed(plain, texts, nodes, doubles)
        plain_s.append(seconds)
        equal = got == expected
    result = {
        "bench": "chair",
        "ratio": round(min(plain_s) / min(ours_s), 3),
        "equal": equal,
        "plain_s": round(min(plain_s), 3),
        "ours_s": round(min(ours_s), 3),
        "captions_per_s": round(len(texts) / min(ours_s)),
        **options,
        "captions": len(texts),
        "lemmatiser": chair.lemmatiser,
    }
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
