"""The command `sightline`: look at this installation, or ask a model one question.

    sightline doctor [--config FILE.yaml ...] [key=value ...]
    sightline ask photo.jpg "Is there a dog in the image?"

Jobs are scripts of their own (`python jobs/dpo.py --help`); this command starts none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import sightline
from sightline.errors import SightlineError


def parser() -> argparse.ArgumentParser:
    """The command line, without any heavy import."""
    root = argparse.ArgumentParser(
        prog="sightline", description="Find and reduce hallucinations in vision-language models."
    )
    root.add_argument("--version", action="version", version=sightline.__version__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser(
        "doctor",
        help="check versions, devices, Ray, storage and resources",
        description="Check what a run would need: versions, devices, Ray, storage and resources. "
        "Takes the arguments of jobs/dpo.py (--config FILE.yaml ..., key=value ...), "
        "whose fields `python jobs/dpo.py --help` lists.",
    )

    ask = commands.add_parser("ask", help="ask a model one question about an image")
    ask.add_argument("image", help="an image file")
    ask.add_argument("question", help="what to ask")
    ask.add_argument("--model", default="world", help="`world` (default), a folder, or a hub name")
    ask.add_argument("--revision", default=None, help="commit or tag on the hub")
    ask.add_argument("--adapter", default=None, help="folder of a trained LoRA adapter")
    ask.add_argument("--context", default="", help="a text shown to the model as `Reference:`")
    ask.add_argument("--max-new-tokens", type=int, default=96, help="longest answer (default 96)")
    return root


def read(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and for `doctor` what belongs to the configuration's loader."""
    root = parser()
    arguments, settings = root.parse_known_args(argv)
    if settings and arguments.command != "doctor":
        root.error(f"unknown arguments: {' '.join(settings)}")
    return arguments, settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 = fine, 1 = something failed, 2 = wrong usage."""
    arguments, settings = read(argv)
    try:
        return _doctor(settings) if arguments.command == "doctor" else _ask(arguments)
    except SightlineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _doctor(settings: Sequence[str]) -> int:
    from sightline.config.dpo import DpoConfig
    from sightline.config.loader import parse

    config = parse(DpoConfig, settings)

    from sightline.distributed import doctor

    failed = 0
    for check in doctor.examine(config):
        print(check.line(), flush=True)
        failed += check.status == "fail"
    return 1 if failed else 0


def _ask(arguments: argparse.Namespace) -> int:
    from sightline.data.images import load_image
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm

    image = load_image(arguments.image)
    vlm = Vlm.load(arguments.model, revision=arguments.revision, adapter_path=arguments.adapter)
    prompt = Prompt(image=image, question=arguments.question, context=arguments.context)
    print(vlm.generate_text([prompt], max_new_tokens=arguments.max_new_tokens)[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
