"""docs/support.md says what happens: every mitigation is run on every family, engine and back-end."""

from support_table import PAGE, README, in_readme, page


def test_the_page_and_the_readme_say_what_happens():
    text = page()
    assert PAGE.read_text() == text, "run: make support"
    assert in_readme(text) == README.read_text(), "run: make support"
    assert text.split("\n\n")[2] in README.read_text()
