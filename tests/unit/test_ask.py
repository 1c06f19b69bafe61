"""`sightline ask`: one question to the packaged model, and errors a person can act on."""

import subprocess
import sys

import pytest
from PIL import Image

from sightline.__main__ import main


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (96, 96), "white").save(path)
    return str(path)


def test_the_answer_is_all_that_is_printed(photo):
    command = [sys.executable, "-m", "sightline", "ask", photo, "Is there a dog in the image?"]
    done = subprocess.run(
        [*command, "--max-new-tokens", "8"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_a_missing_image_and_a_missing_model_are_one_line_each(photo, tmp_path, capsys):
    assert main(["ask", str(tmp_path / "none.png"), "?"]) == 1
    assert capsys.readouterr().err.startswith("ImageError: ")
    assert main(["ask", photo, "?", "--model", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("ModelError: ")
