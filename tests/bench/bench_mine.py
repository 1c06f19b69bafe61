"""Mining's three conditions against the plain loop, on the reference VLM.

Plain: for each batch of examples, three separate `generate` calls (image with context,
wrong image with context, image alone), as anyone would write them with transformers:
the processor makes a padded batch, `model.generate` decodes it. Ours: the Miner's way,
all prompts of a batch in one `Vlm.generate`, images encoded once, shared beginnings of
prompts computed once. Both include the processor, decode greedily in fp32, and see as
many examples a batch. The last line is one JSON object.

    python tests/bench/bench_mine.py [images=32] [questions=6] [batch=32] [rounds=3]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from sightline.config.mining import MineSettings
from sightline.data import corruptions
from sightline.data.images import load_image
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm
from sightline.records import Example
from sightline.world.dataset import write

MAX_NEW_TOKENS = MineSettings().short_answer_tokens
Triple = tuple[Prompt, Prompt, Prompt]


def triples(folder: Path, images: int, questions: int) -> list[Triple]:
    """Each example's three prompts; examples of one image stand together, as mining puts them."""
    rows = [json.loads(line) for line in write(folder, split="mine", scenes=images).open()]
    examples = [e for e in map(Example.from_row, rows) if e.kind != "caption"]
    by_image: dict[str, list[Example]] = {}
    for example in examples:
        by_image.setdefault(example.image_id, []).append(example)
    ids = list(by_image)
    pixels = {i: load_image(by_image[i][0].image_uri) for i in ids}
    found: list[Triple] = []
    for n, image_id in enumerate(ids):
        other = ids[(n + 1) % len(ids)]
        wrong = corruptions.diffuse(pixels[other], step=500, seed=n)
        context = str(by_image[other][0].meta["caption"])
        for question in [e.question for e in by_image[image_id]][:questions]:
            found.append(
                (
                    Prompt(pixels[image_id], question, context),
                    Prompt(wrong, question, context),
                    Prompt(pixels[image_id], question),
                )
            )
    return found


def plain(vlm: Vlm, work: Sequence[Triple], batch: int) -> list[str]:
    """Three `generate` calls for each batch of examples, answers in the order of `flat(work)`."""
    processor, model = vlm.processor, vlm.model
    processor.tokenizer.padding_side = "left"
    answers: list[list[str]] = []
    for start in range(0, len(work), batch):
        chunk = work[start : start + batch]
        columns = [_generate(processor, model, [t[c] for t in chunk]) for c in range(3)]
        answers += [list(triple) for triple in zip(*columns, strict=True)]
    return [text for triple in answers for text in triple]


def _generate(processor, model, prompts: Sequence[Prompt]) -> list[str]:
    turns = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": p.text}]}] for p in prompts
    ]
    texts = processor.apply_chat_template(turns, add_generation_prompt=True)
    inputs = processor(text=texts, images=[[p.image] for p in prompts], padding=True, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    new = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]


def ours(vlm: Vlm, work: Sequence[Triple], batch: int) -> list[str]:
    """One `Vlm.generate` for each batch of examples, as the Miner does."""
    answers: list[str] = []
    for start in range(0, len(work), batch):
        prompts = [prompt for triple in work[start : start + batch] for prompt in triple]
        found = vlm.generate(prompts, max_new_tokens=MAX_NEW_TOKENS, batch_size=batch)
        answers += [samples[0].text for samples in found]
    return answers


def timed(function, *arguments) -> tuple[list[str], float]:
    started = time.perf_counter()
    return function(*arguments), time.perf_counter() - started


def main(argv: Sequence[str]) -> None:
    options = {"images": 32, "questions": 6, "batch": 32, "rounds": 3}
    options |= {key: int(value) for key, value in (argument.split("=") for argument in argv)}
    transformers.logging.set_verbosity_error()  # a warning a call would cost the plain loop time
    vlm = Vlm.load("world", dtype="float32", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        work = triples(Path(folder), options["images"], options["questions"])
    batch = options["batch"]
    for function in (plain, ours):  # warm up: first calls pay for imports and kernels
        function(vlm, work[:batch], batch)
    plain_s, ours_s, equal = [], [], 0.0
    for _ in range(options["rounds"]):
        expected, seconds = timed(plain, vlm, work, batch)
        plain_s.append(seconds)
        got, seconds = timed(ours, vlm, work, batch)
        ours_s.append(seconds)
        equal = sum(a == b for a, b in zip(expected, got, strict=True)) / len(got)
    result = {
        "bench": "mine",
        "ratio": round(min(plain_s) / min(ours_s), 3),
        "equal_answers": equal,
        "answers": len(work) * 3,
        "plain_s": round(min(plain_s), 3),
        "ours_s": round(min(ours_s), 3),
        "answers_per_s": round(3 * len(work) / min(ours_s), 1),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        **options,
    }
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
