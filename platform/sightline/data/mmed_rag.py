"""MMed-RAG's JSON and JSON lines -> examples: questions about X-rays, slides and fundus images.

Two released forms. Alignment pairs (`id`, `image`, `conversations`, `rejected_conversations`,
`rejected_noised`): the human turn is the question, the model's turn the preferred answer, the
rejected one in `meta`. Test questions (`image`, `question` or `text`, `answer`, retrieved
`reference_reports`): the reports become the example's context. The domain is told from the
paths, or given. Harvard's `slo_fundus_00001.jpg` may stand beside `data_00001.npz`, from which
only the glaucoma label is read: its notes and demographics stay where they are. Everything is
marked restricted.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sightline.data.documents import need, objects_of
from sightline.data.examples import from_rows, wrong
from sightline.data.licences import RESTRICTED
from sightline.data.tables import asks_yes_or_no, kind_of
from sightline.errors import DataError
from sightline.records import Example

Domain = Literal["radiology", "pathology", "ophthalmology", "unknown"]
_HINTS: dict[Domain, re.Pattern[str]] = {
    "radiology": re.compile(r"iu[_-]?xray|iu_xray|mimic|cxr|radiolog", re.IGNORECASE),
    "pathology": re.compile(r"quilt|pmc|patholog", re.IGNORECASE),
    "ophthalmology": re.compile(r"harvard|fundus|slo_|ophthalm", re.IGNORECASE),
}
_FUNDUS = re.compile(r"slo_fundus_(\d+)\.(?:jpg|jpeg|png)$")
_REPORTS = re.compile(r"(\d+) reference report\(s\)")


def read_mmed_rag(
    path: str | Path,
    *,
    image_root: str | Path | None = None,
    limit: int | None = None,
    domain: Domain | None = None,
) -> list[Example]:
    """The questions of a file; `split` is `mmed_rag_<domain>`, with `_report` where more than yes or no
    is asked for.

    Images start from `image_root` (default: the folder of the file; the paths of the authors'
    machines in `image_root` of the rows are not used). Raises DataError naming the row.
    """
    path = Path(path).absolute()
    root = Path(image_root or path.parent).absolute()
    return from_rows(_rows(path, root, domain), path, root, limit)


def domain_of(text: str) -> Domain:
    """The domain that a path speaks of; "unknown" when none or several do."""
    found = [domain for domain, hint in _HINTS.items() if hint.search(text)]
    return found[0] if len(found) == 1 else "unknown"


def glaucoma_label(path: Path) -> bool | None:
    """Whether a Harvard `data_*.npz` says glaucoma; None without such a field. Nothing else is read.

    Raises DataError for a damaged file, or one that would have to run code to be read.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return bool(stored["glaucoma"]) if "glaucoma" in stored.files else None
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(expected=f"a readable npz file at {path}", got=str(error)) from error


def _rows(path: Path, root: Path, domain: Domain | None) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in objects_of(path, "mmed_rag"):
        if "image" not in row:
            raise wrong(path, number, "an object with image", f"only {', '.join(row)}")
        asked = (_pair if "conversations" in row else _question)(row, path, number)
        where = f"{row.get('image_root', '')}/{row['image']}"
        about = domain or domain_of(where)
        if about == "unknown":
            about = domain_of(path.name)
        meta = asked.pop("meta") | {RESTRICTED: True, "domain": about} | _fundus(root / row["image"])
        key = row.get("question_id", row.get("id"))
        yes_no = kind_of(asked["answer"]) == "yes_no" or asks_yes_or_no(asked["question"])
        yield (
            number,
            {
                # ids repeat (one study, several images and questions); the row's number does not
                "example_id": f"mmed_rag/{path.stem}/{number}",
                "image_id": row["image"],
                "image_uri": row["image"],
                "kind": "yes_no" if yes_no else "open",
                "split": f"mmed_rag_{about}{'' if yes_no else '_report'}",
                "source": "mmed_rag",
                "meta": meta | ({} if key is None else {"id": str(key)}),
                **asked,
            },
        )


def _pair(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    question, chosen = _turns(row["conversations"], path, number)
    meta: dict[str, Any] = {"reference_reports": int(found[1]) if (found := _REPORTS.search(question)) else 0}
    if "rejected_conversations" in row:
        meta["rejected"] = _turns(row["rejected_conversations"], path, number)[1]
        meta["rejected_noised"] = bool(row.get("rejected_noised"))
    return {"question": question, "answer": chosen, "meta": meta}


def _question(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    named = "question" if "question" in row else "text"
    need(row, (named, "answer"), path, number)
    reports = row.get("reference_reports") or []
    reports = [reports] if isinstance(reports, str) else [str(report) for report in reports]
    return {
        "question": str(row[named]).replace("<image>", "").strip(),
        "answer": str(row["answer"]),
        "context": "\n".join(reports),
        "meta": {"reference_reports": len(reports)},
    }


def _turns(turns: Any, path: Path, number: int) -> tuple[str, str]:
    """The human's and the model's first turn."""
    said: dict[str, str] = {}
    for turn in turns if isinstance(turns, list) else ():
        said.setdefault(str(turn.get("from")), str(turn.get("value", "")))
    if not said.get("human") or not said.get("gpt"):
        raise wrong(path, number, "a turn from human and one from gpt", f"{sorted(said)}")
    return said["human"].replace("<image>", "").strip(), said["gpt"]


def _fundus(image: Path) -> dict[str, Any]:
    found = _FUNDUS.search(image.name)
    if found is None:
        return {}
    beside = image.with_name(f"data_{found[1]}.npz")
    label = glaucoma_label(beside) if beside.is_file() else None
    return {} if label is None else {"glaucoma": label}
