"""The chosen mitigations beside none, on untouched questions: what is left of a search's promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.config.dataset import WorldDataset
from sightline.config.mitigations import Mitigation, mitigations_of
from sightline.config.sweep_steering import SweepSteeringConfig
from sightline.distributed.evaluation import predict
from sightline.distributed.extraction import model_identity
from sightline.distributed.sources import load_examples
from sightline.evaluation.compare import compare
from sightline.evaluation.predictions import Prediction
from sightline.evaluation.scoring import tally
from sightline.evaluation.steering_search import SteeringTrial, objectives
from sightline.metrics.significance import mcnemar
from sightline.records import Example


def confirm(
    config: SweepSteeringConfig, folder: Path, words: Mapping[str, str], chosen: SteeringTrial
) -> dict[str, Any]:
    """Both sides' answers (kept under `folder`/confirm), compared question by question.

    Differences have paired bootstrap intervals by image; `mcnemar` holds the exact p-value that as
    many answers became right as wrong, for each benchmark with an accuracy.
    """
    held = config.evaluation
    asked = held.dataset or WorldDataset(scenes=held.scenes, seed=held.seed)
    examples = load_examples(asked, scratch=folder / "data", split="test")
    described = {e.image_id for e in [e for e in examples if e.kind == "caption"][: held.captions]}
    examples = [e for e in examples if e.kind != "caption" or e.image_id in described]
    before = _answers(config, folder, "before", examples, ())
    after = _answers(config, folder, "after", examples, mitigations_of(chosen.mitigations))
    rows = compare(before, after, lexicon=words, settings=held)
    return {
        "comparison": rows,
        "mcnemar": _mcnemar(before, after, words, held.parser),
        "examples": len(examples),
        "images": len({example.image_id for example in examples}),
        "before": _objectives(rows, "before", config),
        "after": _objectives(rows, "after", config),
    }


def headline(
    baseline: SteeringTrial, chosen: SteeringTrial | None, confirmed: Mapping[str, Any] | None
) -> str:
    """One sentence: what was chosen, what it promised, and what is left of it on untouched examples."""
    if chosen is None or confirmed is None:
        return (
            f"No trial lowered hallucination ({baseline.hallucination:.1%}) and kept what must be kept "
            f"({baseline.kept:.1%})."
        )
    before, after = confirmed["before"], confirmed["after"]
    return (
        f"{' + '.join(_short(text) for text in chosen.mitigations)} on {confirmed['images']} images that "
        f"no trial saw: hallucination {before['hallucination']:.1%} to {after['hallucination']:.1%} "
        f"(promised {chosen.hallucination:.1%}), kept {before['kept']:.1%} to {after['kept']:.1%} "
        f"(promised {chosen.kept:.1%})."
    )


def _answers(
    config: SweepSteeringConfig,
    folder: Path,
    side: str,
    examples: Sequence[Example],
    mitigations: Sequence[Mitigation],
) -> list[Prediction]:
    return predict(
        examples,
        model=config.model,
        settings=config.evaluation,
        resources=config.resources,
        out_dir=str(folder / "confirm" / side),
        mitigations=mitigations,
        identity=model_identity(config.model),
        describe=f"confirm, {side}",
    )


def _objectives(
    rows: Sequence[Mapping[str, Any]], side: str, config: SweepSteeringConfig
) -> dict[str, float]:
    scores = {f"{row['benchmark']}.{row['metric']}": float(row[side]) for row in rows}
    hallucination, kept = objectives(scores, config.objectives)
    return {"hallucination": hallucination, "kept": kept}


def _mcnemar(
    before: Sequence[Prediction], after: Sequence[Prediction], words: Mapping[str, str], parser: str
) -> dict[str, float]:
    """By benchmark; items that failed on either side are left out of both."""
    failed = {p.example.example_id for p in (*before, *after) if p.error}
    first, second = (
        tally([p for p in side if p.example.example_id not in failed], lexicon=words, parser=parser)
        for side in (before, after)
    )
    return {
        name: mcnemar(counts.ratios["accuracy"].numerator_N, second[name].ratios["accuracy"].numerator_N)
        for name, counts in first.items()
        if "accuracy" in counts.ratios
    }


def _short(text: str) -> str:
    """Without the folder of the directions."""
    name, _, settings = text.partition(":")
    said = [part for part in settings.split(",") if part and not part.startswith("directions=")]
    return f"{name}:{','.join(said)}" if said else name
