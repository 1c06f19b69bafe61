"""Extraction of HALP's 11 sites on POPE's shape (6 questions an image) against three plainer ways.

plain     One question at a time, as extraction scripts do it: the processor's full call, a
          forward of the whole model with `output_hidden_states=True`, values picked afterwards
          (the tower's output by a hook in the same pass, which spares it a second vision pass).
batched   The same in padded batches: nothing is shared between rows but the image's preprocessing.
unshared  Ours with `reuse_prefix=False`: each image is encoded once, but every row carries its
          whole prompt. `ratio_prefix` is against this one, so it is what the shared tokens bring
          alone; how much that can be depends on what the vision tower costs beside the decoder.
ours      `Vlm.capture` as `jobs/extract.py` calls it.

Twice: on the reference VLM, and on a random-weight model of SmolVLM-256M's dimensions (512-pixel
images, one tile of 64 image tokens). All fp32, in turn for some rounds, the processor's work
included. `seconds` and ratios are of the best rounds; `processor_ratio`s compare processor seconds
likewise, which other work on the machine disturbs less. `peak_mib` is resident memory above that
of the loaded model. `difference_fp32` to `plain` is a part of the row's largest value;
`difference_bf16` is the relative error of the worst site over all rows against plain bf16.
The last line is one JSON object; its top level is the reference VLM.

    python tests/bench/bench_extract.py [images=32] [rounds=3] [large_images=2] [large_rounds=1] [batch=32]
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from sightline.activations.sites import Site, default_sites
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm
from sightline.world.pope import build
from sightline.world.render import render
from sightline.world.scenes import stream

QUESTIONS = 6
Found = dict[str, np.ndarray]


def pope_prompts(images: int, edge: int) -> list[Prompt]:
    """Six existence questions a scene; scenes that have too few nouns for six are passed over."""
    scenes = list(stream(0, 4 * images))
    asked = [(s, a) for s, a in zip(scenes, build(scenes, "random"), strict=True) if len(a) == QUESTIONS]
    prompts = []
    for scene, questions in asked[:images]:
        picture = render(scene).resize((edge, edge))
        prompts += [Prompt(picture, question.text) for question in questions]
    assert len(prompts) == images * QUESTIONS
    return prompts


def smolvlm_256m() -> Vlm:
    """SmolVLM-256M's dimensions with random weights, and the reference VLM's tokenizer."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    small = Vlm.load("world", dtype="float32", device="cpu").processor
    edge = {"longest_edge": 512}
    pictures = SmolVLMImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    processor = SmolVLMProcessor(
        pictures, small.tokenizer, small.video_processor, image_seq_len=64, chat_template=small.chat_template
    )
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    text = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    config = SmolVLMConfig(
        image_token_id=small.tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=4,
        pad_token_id=small.tokenizer.pad_token_id,
        vision_config=vision | {"num_attention_heads": 12, "image_size": 512, "patch_size": 16},
        text_config=text
        | {"model_type": "llama", "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49280}
        | {"max_position_embeddings": 8192, "eos_token_id": small.tokenizer.eos_token_id}
        | {"pad_token_id": small.tokenizer.pad_token_id, "bos_token_id": small.tokenizer.bos_token_id},
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Vlm(SmolVLMForConditionalGeneration(config).eval(), processor)


@dataclass(frozen=True)
class Work:
    """What is extracted, and where the plain loop has to look."""

    vlm: Vlm
    prompts: list[Prompt]
    sites: tuple[Site, ...]
    places: list[dict[str, int]]
    batch: int

    @classmethod
    def of(cls, vlm: Vlm, images: int, edge: int, batch: int) -> Work:
        prompts = pope_prompts(images, edge)
        spans = [row.spans for row in vlm.encode(prompts)]
        places = [{"vision_token": s.image[-1].stop - 1, "query_token": s.question.stop - 1} for s in spans]
        return cls(vlm, prompts, default_sites(vlm.num_layers), places, batch)

    def first(self, count: int) -> Work:
        return Work(self.vlm, self.prompts[:count], self.sites, self.places[:count], self.batch)


def whole_forward(work: Work, inputs: dict[str, torch.Tensor], places: Sequence[dict[str, int]]) -> Found:
    """The whole model with every hidden state kept until the values are picked; right-padded rows."""
    model, seen = work.vlm.model, {}
    handles = [
        model.model.vision_model.register_forward_hook(lambda m, a, out: seen.update(tower=out[0])),
        # transformers gives the last block's output after the final norm only.
        model.model.text_model.norm.register_forward_pre_hook(lambda m, args: seen.update(last=args[0])),
    ]
    with torch.inference_mode():
        states = list(model(**inputs, output_hidden_states=True).hidden_states)
    states[-1] = seen["last"]
    for handle in handles:
        handle.remove()
    found: Found = {}
    for site in work.sites:
        if site.layer is None:
            values_RD = seen["tower"].float().mean(1)
        else:
            places_R = [place[site.kind] for place in places]
            values_RD = states[site.layer + 1][range(len(places)), places_R].float()
        found[site.name] = values_RD.numpy()
    return found


def plain(work: Work) -> Found:
    processor, found = work.vlm.processor, []
    for prompt, places in zip(work.prompts, work.places, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": prompt.question}]
        chat = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True)
        inputs = processor(images=[prompt.image], text=[text], return_tensors="pt")
        found.append(whole_forward(work, dict(inputs), [places]))
    return joined(found)


def batched(work: Work) -> Found:
    found = []
    for start in range(0, len(work.prompts), work.batch):
        chunk = slice(start, start + work.batch)
        inputs = work.vlm.collate(work.vlm.encode(work.prompts[chunk]), "right")
        found.append(whole_forward(work, inputs, work.places[chunk]))
    return joined(found)


def joined(found: Sequence[Found]) -> Found:
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def ours(work: Work) -> Found:
    return work.vlm.capture(work.prompts, work.sites, batch_size=work.batch)


def unshared(work: Work) -> Found:
    return work.vlm.capture(work.prompts, work.sites, batch_size=work.batch, reuse_prefix=False)


SIDES: dict[str, Callable[[Work], Found]] = {
    "plain": plain,
    "batched": batched,
    "unshared": unshared,
    "ours": ours,
}


@dataclass(frozen=True)
class Timed:
    found: Found
    wall_s: float
    cpu_s: float
    peak_mib: float


def timed(side: Callable[[Work], Found], work: Work) -> Timed:
    """One run; the peak is counted from what is resident when it starts."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    before, started, cpu = status_mib("VmRSS"), time.perf_counter(), time.process_time()
    found = side(work)
    seconds = time.perf_counter() - started, time.process_time() - cpu
    return Timed(found, *seconds, status_mib("VmHWM") - before)


def status_mib(name: str) -> float:
    """One line of this process's memory, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def largest_difference(got: Found, expected: Found) -> float:
    """Largest difference over all sites and rows, as a part of its row's largest value."""
    return max(
        float((np.abs(got[name] - expected[name]).max(1) / np.abs(expected[name]).max(1)).max())
        for name in expected
    )


def relative_error(got: Found, expected: Found) -> float:
    """Norm of a site's difference as a part of the site's norm, at the worst site."""
    return max(
        float(np.linalg.norm(got[name] - expected[name]) / np.linalg.norm(expected[name]))
        for name in expected
    )


def compare_bf16(work: Work) -> dict[str, float]:
    """bf16 ours against bf16 plain, and how far each is from fp32. Turns the model to bf16."""
    exact = ours(work)
    work.vlm.model.to(torch.bfloat16)
    got, expected = ours(work), plain(work)
    return {
        "difference_bf16": relative_error(got, expected),
        "bf16_error_ours": relative_error(got, exact),
        "bf16_error_plain": relative_error(expected, exact),
    }


def measure(work: Work, rounds: int) -> dict[str, Any]:
    """All sides in turn, `rounds` times, then bf16 on the first image."""
    for side in SIDES.values():  # first calls pay for imports and kernels
        side(work.first(2))
    runs: dict[str, list[Timed]] = {name: [] for name in SIDES}
    for _ in range(rounds):
        for name, side in SIDES.items():
            runs[name].append(timed(side, work))
    wall = {name: min(run.wall_s for run in found) for name, found in runs.items()}
    cpu = {name: min(run.cpu_s for run in found) for name, found in runs.items()}
    expected = runs["plain"][0].found
    result = {
        "ratio": round(wall["plain"] / wall["ours"], 3),
        "ratio_prefix": round(wall["unshared"] / wall["ours"], 3),
        "ratio_batched": round(wall["batched"] / wall["ours"], 3),
        "processor_ratio": round(cpu["plain"] / cpu["ours"], 3),
        "processor_ratio_prefix": round(cpu["unshared"] / cpu["ours"], 3),
        "processor_ratio_batched": round(cpu["batched"] / cpu["ours"], 3),
        "examples": len(work.prompts),
        "examples_per_s": {name: round(len(work.prompts) / s, 2) for name, s in wall.items()},
        "seconds": {name: round(s, 3) for name, s in wall.items()},
        "peak_mib": {name: round(max(run.peak_mib for run in found), 1) for name, found in runs.items()},
        "difference_fp32": largest_difference(runs["ours"][0].found, expected),
        "parameters": sum(p.numel() for p in work.vlm.model.parameters()),
        "sites": len(work.sites),
    }
    return result | compare_bf16(work.first(QUESTIONS))


def main(argv: Sequence[str]) -> None:
    options = {"images": 32, "rounds": 3, "large_images": 2, "large_rounds": 1, "batch": 32}
    options |= {key: int(value) for key, value in (argument.split("=") for argument in argv)}
    transformers.logging.set_verbosity_error()  # a warning a call would cost the plain loop time
    small = Work.of(Vlm.load("world", dtype="float32", device="cpu"), options["images"], 96, options["batch"])
    result = {"bench": "extract"} | measure(small, options["rounds"])
    if options["large_images"]:
        large = Work.of(smolvlm_256m(), options["large_images"], 512, options["batch"])
        result["smolvlm_256m"] = measure(large, options["large_rounds"])
    print(json.dumps(result | {"threads": torch.get_num_threads(), **options}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
