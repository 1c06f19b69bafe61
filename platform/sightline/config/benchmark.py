"""`jobs/benchmark.py`: models, each with every list of mitigations, on every benchmark."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints, field_validator, model_validator

from sightline.config.base import Frozen, Location
from sightline.config.dataset import DatasetConfig, WorldDataset
from sightline.config.evaluation import Parser
from sightline.config.mitigations import Mitigations
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.config.run import RunConfig

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
"""A name that is a file's name too: letters, digits, dots, dashes, plus signs."""

GREEDY = "greedy"
"""The row that every other one is compared with."""


class MethodConfig(Frozen):
    """One row of the table: what is done against hallucination while the model answers."""

    name: Name
    """How the row is called, in files and in the report."""
    mitigations: Mitigations = ()
    """Interventions and at most one decoder, as sections or short texts (`spin:k=0.8`); none = greedy."""
    pending: str = ""
    """Why the row cannot be run yet; it then stands in the report with this reason and no numbers."""

    @model_validator(mode="after")
    def _greedy_is_greedy(self) -> MethodConfig:
        if self.name == GREEDY and not self.is_greedy:
            raise ValueError(f"expected no mitigations in the row `{GREEDY}`; give it another name")
        if self.pending and self.mitigations:
            raise ValueError("expected no mitigations in a pending row")
        return self

    @property
    def is_greedy(self) -> bool:
        """Plain greedy decoding without any intervention."""
        return not self.pending and all(item.type == GREEDY for item in self.mitigations)


class BenchmarkConfig(Frozen):
    """Measure every model with every row of `rows` on every benchmark, and compare with greedy."""

    run: RunConfig = RunConfig(name="benchmark")
    model: ModelConfig = ModelConfig()
    models: dict[Name, ModelConfig] = {}
    """Several models by name, instead of `model`; each is measured with all rows."""
    rows: tuple[MethodConfig, ...] = ()
    """What is compared; the row `greedy` is added in front where it is missing."""
    benchmarks: dict[Name, DatasetConfig] = Field(default={"world": WorldDataset(scenes=500)}, min_length=1)
    """Datasets by name, each as in `dataset` of the other jobs. The world's scenes are those of its
    test stream, which no training, mining or search sees."""
    private: tuple[Name, ...] = ()
    """Further benchmarks under a use agreement (those of `sightline.data.licences` are known): the
    report shows none of their questions, answers or images."""
    lexicon: Location | None = None
    """JSON object of surface form -> node word that captions are judged by; null = the embedded
    COCO nouns."""
    synonyms: Location | None = None
    """CHAIR's word list (`synonyms.txt`) for COCO; null = our own list of COCO's nouns."""
    nltk_data: Location | None = None
    """Folder of NLTK's data, for CHAIR on COCO and AMBER; null = where NLTK looks."""
    parser: Parser = "strict"
    """How yes/no answers are read: one of six released rules, or `strict`, which is ours. Same as
    `--parser NAME`."""
    judge: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    """Your own `module:function` from a prompt to a text (a local model, or a client of a remote one),
    asked when answers are scored: it rates MMHal's, and judges the claims of captions that have
    reference captions, except data under a use agreement. What it says is kept in the run's folder,
    so that `--score-only` asks only what is new. null = MMHal's answers are kept and not rated."""
    max_new_tokens: PositiveInt = 96
    """Longest answer to a caption or open question, in tokens."""
    short_answer_tokens: PositiveInt = 16
    """Longest answer to any other question, in tokens."""
    batch_size: PositiveInt = 32
    """Prompts generated together, in every row."""
    shard_rows: PositiveInt = 256
    """Questions a shard; at most this much is redone by a worker that was killed. Its images are
    in memory together."""
    seed: NonNegativeInt = 0
    """Seed of everything random, in all rows alike: sampling, noise, resampling."""
    bootstrap: PositiveInt = 1000
    """Resamples (by image) behind each interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Coverage of the intervals; a difference is called one below 1 - confidence, after correction."""
    correction: Literal["holm", "benjamini_hochberg", "none"] = "holm"
    """For many comparisons, over all rows and benchmarks of one score: Holm holds the chance of one
    false claim, Benjamini-Hochberg the share of false claims."""
    shown: NonNegativeInt = 12
    """Example images in the report; 0 = none."""
    resources: ResourcesConfig = ResourcesConfig()
    score_only: bool = False
    """Score the predictions that are there, without any model. Same as `--score-only`."""
    dry_run: bool = False
    """Check everything, print the plan, and stop before any work. Same as `--dry-run`."""

    @field_validator("rows")
    @classmethod
    def _one_name_each(cls, rows: tuple[MethodConfig, ...]) -> tuple[MethodConfig, ...]:
        names = [row.name for row in rows]
        if len(set(names)) < len(names):
            raise ValueError("expected a different name in every row")
        if sum(row.is_greedy for row in rows) > 1:
            raise ValueError("expected one greedy row")
        return rows

    @model_validator(mode="after")
    def _sections_agree(self) -> BenchmarkConfig:
        if self.models and "model" in self.model_fields_set:
            raise ValueError("expected `model` or `models`, not both")
        if unknown := sorted(set(self.private) - set(self.benchmarks)):
            raise ValueError(f"expected names of `benchmarks` in `private`, not {', '.join(unknown)}")
        for row in self.rows:
            for item in row.mitigations:
                if getattr(item, "seed", 0) not in (0, self.seed):
                    raise ValueError(f"expected no other seed in row {row.name} than the run's `seed`")
        return self

    def methods(self) -> tuple[MethodConfig, ...]:
        """The rows with greedy first, every seed being the run's."""
        greedy = [row for row in self.rows if row.is_greedy] or [MethodConfig(name=GREEDY)]
        others = [row for row in self.rows if not row.is_greedy]
        return tuple(_seeded(row, self.seed) for row in (*greedy, *others))

    def named_models(self) -> dict[str, ModelConfig]:
        """The models by name; a single one is called "model"."""
        return dict(self.models) or {"model": self.model}


def _seeded(row: MethodConfig, seed: int) -> MethodConfig:
    """The row with `seed` in every item that draws random numbers."""
    items = [
        item.model_copy(update={"seed": seed}) if "seed" in type(item).model_fields else item
        for item in row.mitigations
    ]
    return row.model_copy(update={"mitigations": tuple(items)})
