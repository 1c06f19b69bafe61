"""What would have scored as well without looking inside the model: the controls.

    question_type    how often the training rows of this kind of question were hallucinated
    text_only        bag of words (one- and two-grams, tf-idf) of the question, logistic regression
    image_only       the probe at vision_only, which no question reaches
    shuffled_labels  the probe with its training labels dealt out at random: what chance looks like

Half of HALP's AUROC is the first of them (METHODS: 0.68 to 0.705 from the type alone), so a
probe is read against the best control, and by its AUROC within kinds of question.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    site = next(reversed(features), "")
    for name, of, shuffle in (("image_only", IMAGE_SITE, False), ("shuffled_labels", site, True)):
        why = "its features were not extracted" if of not in features else ""
        why = why or refusals({of: features[of]}, rows.labels_N).get(of, "")
        if why:
            found[name] = _absent(name, f"{of or 'no site'}: {why}")
            continue
        scores_n = _by_probe(of, features[of], rows, split, settings, seed, shuffle=shuffle)
        found[name] = _judged(name, scores_n, rows, split, resamples, confidence)
        found[name]["note"] = f"{settings.head} at {of}"
    return strict(found)


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


def _by_probe(
    site: str,
    features_ND: npt.NDArray[np.float32],
    rows: Rows,
    split: Split,
    settings: ProbeSettings,
    seed: int,
    *,
    shuffle: bool,
) -> npt.NDArray[np.float64]:
    labels_N = rows.labels_N.copy()
    if shuffle:
        rng = np.random.default_rng(seed)
        for side in (split.train, split.valid):
            labels_N[side] = rng.permutation(labels_N[side])
    bank = train_bank({site: features_ND}, labels_N, split.train, split.valid, settings, seeds=(seed,))
    return sigmoid(bank.trained[site, seed].probe.logits(features_ND[split.test]))


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
