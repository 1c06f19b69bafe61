"""docs/support.md says what happens: every mitigation is run on every family, engine and back-end."""

from support_table import PAGE, page


def test_the_page_says_what_happens():
    assert PAGE.read_text() == page(), "run: python tests/unit/support_table.py --write"
