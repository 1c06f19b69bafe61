"""In which script a text is written: English word lists find nothing in another one."""

from __future__ import annotations

import unicodedata


def is_other_script(text: str) -> bool:
    """Are most letters of the text not Latin? A text without letters is not."""
    letters = [c for c in text if c.isalpha()]
    latin = sum("LATIN" in unicodedata.name(c, "") for c in letters)
    return latin * 2 < len(letters)
