"""The command `sightline`: look at this installation or at activations, ask a model, bake one.

    sightline doctor [--config FILE.yaml ...] [key=value ...]
    sightline ask photo.jpg "Is there a dog in the image?" [--mitigate spin:k=0.8 ...]
    sightline bake OUT --steer strength=2,layers=0-3 [--model M]
    sightline activations verify DIR
    sightline activations export-halp DIR OUT
    sightline activations import-halp SOURCE OUT [--labels FILE.csv]

Jobs are scripts of their own (`python jobs/dpo.py --help`); this command starts none.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from typing import Any

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

    _add_ask(commands.add_parser("ask", help="ask a model one question about an image"))
    _add_bake(commands.add_parser("bake", help="write additive steering into a checkpoint's weights"))
    _add_activations(commands.add_parser("activations", help="check, export and import activations"))
    return root


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="world", help="`world` (default), a folder, or a hub name")
    parser.add_argument("--revision", default=None, help="commit or tag on the hub")
    parser.add_argument("--adapter", default=None, help="folder of a trained LoRA adapter")


def _add_bake(bake: argparse.ArgumentParser) -> None:
    bake.description = (
        "Write a model whose weights steer: stock transformers and vLLM load it, without a hook. "
        "For Llama decoders and steering of all tokens."
    )
    bake.add_argument("out", help="the new folder")
    bake.add_argument(
        "--steer",
        default="",
        metavar="KEY=VALUE,...",
        help="settings of `steer`: strength, directions (a folder of jobs/directions.py), layers",
    )
    _add_model(bake)


def _add_ask(ask: argparse.ArgumentParser) -> None:
    ask.add_argument("image", help="an image file")
    ask.add_argument("question", help="what to ask")
    _add_model(ask)
    ask.add_argument("--context", default="", help="a text shown to the model as `Reference:`")
    ask.add_argument("--max-new-tokens", type=int, default=96, help="longest answer (default 96)")
    ask.add_argument(
        "--mitigate",
        action=_Mitigate,
        default=[],
        metavar="TYPE:KEY=VALUE,...",
        help="answer once greedily and once with this, side by side; may be given several times "
        "(interventions add up; at most one decoder); `sightline ask --mitigate help` lists every "
        "type with its settings",
    )


class _Mitigate(argparse.Action):
    """Gathers the texts; `help` explains them and leaves."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        if values == "help":
            from sightline.config.mitigations import help_text

            print(help_text())
            parser.exit()
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])


def _add_activations(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="prove that every byte is as written, every id there once")
    verify.add_argument("folder", help="a folder that jobs/extract.py wrote")

    export = actions.add_parser("export-halp", help="write a store in HALP's layout")
    export.add_argument("folder", help="a folder that jobs/extract.py wrote")
    fetch = actions.add_parser("import-halp", help="make a store of HALP's files")
    fetch.add_argument("folder", metavar="source", help="an .h5 file of HALP's, or a folder of them")
    fetch.add_argument("--labels", default=None, help="HALP's CSV with is_hallucinating_manual")
    for action, query in ((export, "query_token"), (fetch, "prompt_token")):
        action.add_argument("out", help="the new folder")
        action.add_argument(
            "--layers",
            choices=("hidden_states", "blocks"),
            default="hidden_states",
            help="their layer_i is hidden_states[i], our layer i-1 (default), or our layer i; "
            "an import follows what a file says of itself",
        )
        action.add_argument(
            "--query",
            choices=("query_token", "prompt_token"),
            default=query,
            help=f"which of our positions their query token is (default {query})",
        )


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
        match arguments.command:
            case "doctor":
                return _doctor(settings)
            case "activations":
                return _activations(arguments)
            case "bake":
                return _bake(arguments)
            case _:
                return _ask(arguments)
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
    from sightline.config.mitigations import mitigations_of

    mitigations = mitigations_of(arguments.mitigate)

    from sightline.data.images import load_image
    from sightline.evaluation import side_by_side
    from sightline.models.prompts import Prompt
    from sightline.models.vlm import Vlm

    image = load_image(arguments.image)
    vlm = Vlm.load(arguments.model, revision=arguments.revision, adapter_path=arguments.adapter)
    prompt = Prompt(image=image, question=arguments.question, context=arguments.context)
    if mitigations:
        columns = side_by_side.ask(vlm, prompt, mitigations, max_new_tokens=arguments.max_new_tokens)
        print(side_by_side.table(columns, shutil.get_terminal_size().columns))
        return 0
    print(vlm.generate_text([prompt], max_new_tokens=arguments.max_new_tokens)[0])
    return 0


def _bake(arguments: argparse.Namespace) -> int:
    from sightline.config.mitigations import parse_text, to_text

    item = parse_text(f"steer:{arguments.steer}")

    from sightline.interventions.bake import bake
    from sightline.mitigations import interventions_of
    from sightline.models.vlm import Vlm

    vlm = Vlm.load(arguments.model, revision=arguments.revision, adapter_path=arguments.adapter)
    (steering,) = interventions_of(vlm, item)
    print(f"{bake(vlm, steering, arguments.out)}: {vlm.source} with {to_text(item)} in its weights")
    return 0


def _activations(arguments: argparse.Namespace) -> int:
    from sightline.activations.halp_export import export_halp
    from sightline.activations.halp_import import import_halp, read_labels
    from sightline.activations.store import ActivationStore
    from sightline.activations.verify import verify

    if arguments.action == "verify":
        report = verify(arguments.folder)
        print("\n".join(report.lines()))
        return 0 if report.ok else 1
    how = {"layers": arguments.layers, "query": arguments.query}
    if arguments.action == "export-halp":
        done = export_halp(ActivationStore.open(arguments.folder), arguments.out, **how)
        left = f"; no place for {', '.join(done.left_out)}" if done.left_out else ""
        print(f"{arguments.out}: {done.rows:,} rows in {len(done.files)} file(s){left}")
        return 0
    labels = read_labels(arguments.labels) if arguments.labels else None
    store = import_halp(arguments.folder, arguments.out, labels=labels, **how)
    aside = store.manifest.quarantined
    print(f"{arguments.out}: {len(store):,} rows at {len(store.sites)} sites, {aside:,} put aside")
    return 0


if __name__ == "__main__":
    sys.exit(main())
