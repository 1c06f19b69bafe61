"""What a judge said, kept in a file: asked once, and an interrupted scoring goes on.

JSON lines of {key, said}, appended as replies come; the key hides who was asked what
(`metrics.judging.key_of`), so the file holds replies and nothing of the benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from sightline.data.examples import wrong


class Judgements(MutableMapping[str, str]):
    """A mapping that lives in a file. A last line cut off by a crash is passed over; any other broken
    line is a DataError. Nothing is ever deleted from the file."""

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._said: dict[str, str] = {}
        if self._path.exists():
            self._read()
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, key: str) -> str:
        return self._said[key]

    def __setitem__(self, key: str, said: str) -> None:
        self._said[key] = said
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"key": key, "said": said}) + "\n")

    def __delitem__(self, key: str) -> None:
        raise NotImplementedError("a judgement stays; use another file to ask again")

    def __iter__(self) -> Iterator[str]:
        return iter(self._said)

    def __len__(self) -> int:
        return len(self._said)

    def _read(self) -> None:
        text = self._path.read_text(encoding="utf-8")
        whole, _, cut_off = text.rpartition("\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self._said[row["key"]] = row["said"]
            except (ValueError, KeyError, TypeError) as error:
                raise wrong(self._path, number, "an object with key and said", repr(error)) from error
        if cut_off:
            self._path.write_text(whole + "\n" if whole else "", encoding="utf-8")
