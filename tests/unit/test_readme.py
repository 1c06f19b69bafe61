"""The documents tell the truth: their tree is the disk's, their commands parse, their links lead on."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.__main__ import read
from sightline.config.loader import parse

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "platform/README.md")
FOREIGN = ("cd", "git", "ray")
"""Commands that are not ours to parse."""


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def commands() -> Iterator[tuple[str, str]]:
    """(document, command) of every line in a bash block; `\\` continues a line, `#` ends it."""
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if command := shlex.join(shlex.split(line, comments=True)):
                    yield document, command


def inline_commands() -> Iterator[tuple[str, str]]:
    """The same for `make x`, `python jobs/x.py ...` and `sightline x ...` inside a sentence or table."""
    for document in DOCUMENTS:
        text = re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.S | re.M)
        for code in re.findall(r"`([^`\n]+)`", text):
            if re.match(r"(make \w|python (jobs|tune)/|sightline (ask|doctor))", code):
                yield document, code


def check(command: str) -> None:
    words = shlex.split(command)
    program = words[0].removeprefix(".venv/bin/")
    if "--" in words and program == "ray":
        check(shlex.join(words[words.index("--") + 1 :]))
    elif program == "make":
        _check_make(words[1:])
    elif program == "python":
        _check_job(words[1], words[2:])
    elif program == "sightline":
        _check_sightline(words[1:])
    else:
        assert program in FOREIGN, f"do not know how to check `{command}`"


def _check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for word in words:
        name, _, value = word.partition("=")
        if name == "NAME":
            assert (ROOT / f"tests/bench/bench_{value}.py").is_file(), f"no benchmark `{value}`"
        elif not value:
            assert name in targets, f"no target `{name}`"


def _check_job(script: str, argv: list[str]) -> None:
    path = ROOT / script
    assert path.is_file(), f"no {script}"
    name = f"sweep_{path.stem}" if path.parent.name == "tune" else path.stem
    module = importlib.import_module(f"sightline.config.{name}")
    argv = [word for word in argv if word not in ("--help", "...")]
    parse(getattr(module, f"{name.title().replace('_', '')}Config"), argv)


def _check_sightline(argv: list[str]) -> None:
    if argv == ["--help"]:
        return
    _, settings = read(argv)
    if argv[0] == "doctor":
        parse(importlib.import_module("sightline.config.dpo").DpoConfig, settings)


@pytest.mark.parametrize(("document", "command"), [*commands(), *inline_commands()])
def test_commands_parse(document, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(command)


def tree(block: str) -> Iterator[tuple[str, str]]:
    """(path, purpose) of every entry; two spaces a level, two spaces or more before the purpose."""
    parents: list[str] = []
    for line in filter(str.strip, block.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        names, _, purpose = line.strip().partition("  ")
        for name in names.split(" "):
            yield "".join(parents[:depth]) + name, purpose.strip()
        if names.endswith("/"):
            parents[depth:] = [names]


def test_the_tree_of_the_readme_is_the_tree_on_disk():
    told = dict(tree(blocks("README.md", "text")[0]))
    for path, purpose in told.items():
        assert (ROOT / path).exists(), f"the README tells of {path}, which is not there"
        assert (ROOT / path).is_dir() == path.endswith("/"), path
        assert purpose or not path.endswith("/"), f"{path} has no purpose beside it"
    missing = sorted(set(tracked()) - set(told))
    assert not missing, f"on disk, but not in the README's tree: {missing}"


def tracked() -> Iterator[str]:
    """What the tree has to show: top-level files, folders, and the parts of the library."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in map(Path, listed.stdout.splitlines()):
        parts = path.parts
        if len(parts) == 1 or parts[:2] == ("platform", "README.md"):
            if not path.name.startswith("."):
                yield str(path)
            continue
        deep = 3 if parts[:2] == ("platform", "sightline") else 2
        for depth in range(1, min(len(parts), deep + 1)):
            folder = "/".join(parts[:depth]) + "/"
            if not folder.startswith("."):
                yield folder


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"


def test_paths_named_in_the_documents_exist():
    """`platform/...`, `jobs/...`, `configs/...`, `tests/...` in backticks or tables are real."""
    for document in DOCUMENTS:
        for path in re.findall(
            r"`((?:platform|jobs|configs|tests)/[\w./-]+)`", (ROOT / document).read_text()
        ):
            assert (ROOT / path).exists(), f"{document} names {path}"
