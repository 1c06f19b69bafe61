"""What would have scored as well without looking inside the model: the controls.

    question_type    how often the training rows of this kind of question were hallucinated
    text_only        bag of words (one- and two-grams, tf-idf) of the question, logistic regression
    image_only       the probe at vision_only, which no question reaches
    shuffled_labels  the probe with its training labels dealt out at random, thrice: what chance looks like

Half of HALP's AUROC is the first of them (METHODS: 0.68 to 0.705 from the type alone), so a
probe is read against the best control, and by its AUROC within kinds of question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.config.probing import ProbeSettings
from sightline.probes.artifact import sigmoid
from sightline.probes.bank import refusals, row_weights, train_bank
from sightline.probes.results import Rows, ranking, strict
from sightline.probes.splits import Split

LABELS: Mapping[str, str] = {
    "question_type": "kind of question alone",
    "text_only": "words of the question alone",
    "image_only": "image alone",
    "shuffled_labels": "shuffled labels",
}
"""Controls by name, with what they are called in figures."""
IMAGE_SITE = "vision_only"
SHUFFLES = 3
_PRIOR_ROWS = 2.0
"""Rows of the overall share that each kind's own share is mixed with."""


def run_controls(
    rows: Rows,
    split: Split,
    settings: ProbeSettings,
    *,
    features: Mapping[str, npt.NDArray[np.float32]],
    seed: int = 42,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """{control: {label, auroc {value, low, high, n}, within_kind {...}, note}} on the test rows.

    `features` holds vision_only for `image_only`; `shuffled_labels` is run on the last site
    given. A control that cannot be had has `auroc` None and says why in its note.
    """
    found: dict[str, Any] = {}
    scores = {"question_type": by_kind(rows, split), "text_only": by_words(rows, split, settings, seed)}
    for name, scores_n in scores.items():
        found[name] = _judged(name, scores_n, rows, split, resamples, confidence)
    learn = _Learner(features, rows, split, settings, seed)
    if why := learn.refusal(IMAGE_SITE):
        found["image_only"] = _absent("image_only", why)
    else:
        found["image_only"] = _judged("image_only", learn(IMAGE_SITE), rows, split, resamples, confidence)
        found["image_only"]["note"] = f"{settings.head} at {IMAGE_SITE}"
    site = next(reversed(list(features)), "")
    if why := learn.refusal(site):
        found["shuffled_labels"] = _absent("shuffled_labels", why)
    else:
        drawn = [learn(site, shuffle=n) for n in range(1, SHUFFLES + 1)]
        each = [_judged("shuffled_labels", scores_n, rows, split, 1, confidence) for scores_n in drawn]
        found["shuffled_labels"] = _spread(each) | {
            "note": f"{settings.head} at {site}; mean and range of {SHUFFLES} shuffles"
        }
    return strict({name: found[name] for name in LABELS})


def by_kind(rows: Rows, split: Split) -> npt.NDArray[np.float64]:
    """Each test row's share of hallucinated training rows of its kind, a little towards the mean."""
    known = np.concatenate([split.train, split.valid])
    overall = float(rows.labels_N[known].mean())
    by: dict[str, list[int]] = {}
    for i in known:
        by.setdefault(rows.kinds[i], []).append(int(rows.labels_N[i]))
    share = {k: (sum(v) + _PRIOR_ROWS * overall) / (len(v) + _PRIOR_ROWS) for k, v in by.items()}
    return np.asarray([share.get(rows.kinds[i], overall) for i in split.test])


def by_words(rows: Rows, split: Split, settings: ProbeSettings, seed: int) -> npt.NDArray[np.float64]:
    """Each test row's probability from the words of its question; the overall share without words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    known = np.concatenate([split.train, split.valid])
    bag = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"\b\w+\b", sublinear_tf=True, max_features=50_000
    )
    try:
        words_nV = bag.fit_transform(rows.questions[i] for i in known)
    except ValueError:  # sklearn's word for an empty vocabulary
        return np.full(len(split.test), float(rows.labels_N[known].mean()))
    fit = LogisticRegression(C=10.0, max_iter=2000, random_state=seed)
    fit.fit(words_nV, rows.labels_N[known], sample_weight=row_weights(rows.labels_N[known], settings))
    return fit.predict_proba(bag.transform(rows.questions[i] for i in split.test))[:, 1]


def best_control(controls: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]] | None:
    """The strongest control and its entry; shuffled labels are chance, not a rival."""
    rivals = [(n, c) for n, c in controls.items() if n != "shuffled_labels" and c["auroc"] is not None]
    return max(rivals, key=lambda each: each[1]["auroc"]["value"] or 0.0, default=None)


@dataclass(frozen=True, slots=True)
class _Learner:
    """Trains the probe of one site as the bank would, and scores the test rows."""

    features: Mapping[str, npt.NDArray[np.float32]]
    rows: Rows
    split: Split
    settings: ProbeSettings
    seed: int

    def refusal(self, site: str) -> str:
        """Why there is no probe at a site; empty if there can be one."""
        if site not in self.features:
            return f"{site or 'no site'}: its features were not extracted"
        refused = refusals({site: self.features[site]}, self.rows.labels_N)
        return f"{site}: {refused[site]}" if refused else ""

    def __call__(self, site: str, *, shuffle: int = 0) -> npt.NDArray[np.float64]:
        """Scores (n,); with `shuffle` the labels to learn from are dealt out at random, by that number."""
        labels_N = self.rows.labels_N.copy()
        if shuffle:
            rng = np.random.default_rng((self.seed, shuffle))
            for side in (self.split.train, self.split.valid):
                labels_N[side] = rng.permutation(labels_N[side])
        features_ND, split, seed = self.features[site], self.split, self.seed
        bank = train_bank({site: features_ND}, labels_N, split.train, split.valid, self.settings, (seed,))
        return sigmoid(bank.trained[site, seed].probe.logits(features_ND[split.test]))


def _spread(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and range over shuffles: one shuffle's own interval would not cover what another one scores."""
    found: dict[str, Any] = {"label": each[0]["label"]}
    for key in ("auroc", "within_kind"):
        values = [one[key]["value"] for one in each]
        ends = {"value": float(np.mean(values)), "low": min(values), "high": max(values)}
        found[key] = ends | {"n": each[0][key]["n"]}
    return found


def _judged(
    name: str,
    scores_n: npt.NDArray[np.float64],
    rows: Rows,
    split: Split,
    resamples: int,
    confidence: float,
) -> dict[str, Any]:
    scored = ranking(scores_n, rows, split.test, resamples=resamples, confidence=confidence)
    return {"label": LABELS[name], **scored, "note": ""}


def _absent(name: str, note: str) -> dict[str, Any]:
    return {"label": LABELS[name], "auroc": None, "within_kind": None, "note": note}
