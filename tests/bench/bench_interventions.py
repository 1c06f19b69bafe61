"""What interventions and decoding methods cost on a random model of 98 M parameters.

LLaVA-shaped, of transformers' classes: 12 Llama blocks of width 768 with 12 heads, 576 image
tokens from a tower too small to matter. Three measurements:

- A decoding step at 600 tokens of context against plain greedy, for each method through
  `Mitigated`, as users run it: time from one forward pass of the decoder to the next, median
  over the steps of an answer; methods take turns, and the median over the rounds counts. CPU
  time stands beside the wall's, because a busy machine lengthens only the latter.
- Prefill at 2,000 tokens: SPIN beside SDPA, and eager attention with its maps, which the
  released code needs.
- OPERA's extra memory at 4 and 8 layers: bytes of all living tensors after each pass, but for
  weights and caches; the most over an answer.

The last line is one JSON object; `limits` are the numbers promised.

    python tests/bench/bench_interventions.py [rounds=7] [steps=24] [rows=1] [context=600]
        [prefill=2000] [layers=12] [width=768]
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers

from sightline.interventions.directions import Directions
from sightline.mitigations import Mitigated
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from tiny import LLAVA_TEMPLATE, random_image, tiny_tokenizer

LIMITS = {"vti": 1.03, "spin": 1.12, "pai": 1.12, "vcd": 1.8}
PREFILL_LIMIT = 2.0


class EndlessVlm(Vlm):
    """Answers are as long as asked for, whatever random weights say."""

    stop_ids = frozenset()  # type: ignore[assignment]


def random_vlm(layers: int, width: int) -> EndlessVlm:
    """LLaVA-shaped, random weights, heads of width 64, fp32 on the CPU."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("<s>", "</s>", "<image>", bos="<s>", eos="</s>", image_token="<image>")
    size = {"height": 336, "width": 336}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=size),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=LLAVA_TEMPLATE,
        num_additional_image_tokens=1,
    )
    tower = {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 336,
        "patch_size": 14,
    }
    text = {
        "model_type": "llama",
        "vocab_size": 8192,
        "hidden_size": width,
        "intermediate_size": width * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "max_position_embeddings": 4096,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=image_id, image_seq_length=576)
    model = LlavaForConditionalGeneration(config)
    model.set_attn_implementation("sdpa")
    return EndlessVlm(model.eval(), processor)


def prompt_of(vlm: Vlm, length: int, seed: int = 0) -> Prompt:
    """One image and as many words as fill `length` tokens (fewer by less than a word)."""
    image = random_image(seed, 336, 336)

    def tokens(words: int) -> int:
        return len(vlm.encode([Prompt(image, "Is there a dog" + " dog" * words)])[0])

    shortest, each = tokens(0), (tokens(20) - tokens(0)) // 20
    return Prompt(image, "Is there a dog" + " dog" * max(0, (length - shortest) // each))


# -- decoding -----------------------------------------------------------------------------
@contextmanager
def stamped(vlm: Vlm) -> Iterator[list[tuple[float, float]]]:
    """When each decoding step began, by the wall's clock and in CPU time."""
    stamps: list[tuple[float, float]] = []

    def stamp(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["inputs_embeds"].shape[1] == 1:
            stamps.append((time.perf_counter(), time.process_time()))

    handle = vlm.adapter.decoder(vlm.model).register_forward_pre_hook(stamp, with_kwargs=True)
    yield stamps
    handle.remove()


def step_ms(mitigated: Mitigated, prompts: Sequence[Prompt], steps: int) -> tuple[float, float]:
    """A decoding step's time and CPU time, medians over one batch's answer."""
    with stamped(mitigated.vlm) as stamps:
        mitigated.generate(prompts, max_new_tokens=steps + 2, batch_size=len(prompts))
    wall, cpu = zip(*stamps, strict=True)
    return _median_gap_ms(wall), _median_gap_ms(cpu)


def _median_gap_ms(stamps: Sequence[float]) -> float:
    return 1e3 * statistics.median(b - a for a, b in pairwise(stamps))


def decoding_costs(vlm: Vlm, folder: Path, options: dict[str, int]) -> dict[str, Any]:
    """Each method's step over greedy's."""
    text_LD = torch.randn(vlm.num_layers, options["width"], generator=torch.Generator().manual_seed(0))
    Directions.of(vlm, text_LD=text_LD).save(folder)
    methods = {
        "greedy": [],
        "vti": [f"vti:text=0.8,directions={folder}"],
        "spin": ["spin"],
        "spin released": ["spin:mode=released"],
        "pai": ["pai"],
        "vcd": ["vcd"],
    }
    mitigated = {name: Mitigated(vlm, items) for name, items in methods.items()}
    prompts = [prompt_of(vlm, options["context"], seed) for seed in range(options["rows"])]
    for one in mitigated.values():  # first calls pay for imports and kernels
        step_ms(one, prompts, 3)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for n in range(options["rounds"]):
        order = list(methods)[n % len(methods) :] + list(methods)[: n % len(methods)]
        for name in order:
            times[name].append(step_ms(mitigated[name], prompts, options["steps"]))
    wall, cpu = ({name: [pair[i] for pair in pairs] for name, pairs in times.items()} for i in (0, 1))
    return {
        "context": len(vlm.encode(prompts[:1])[0]),
        "step_ms": {name: round(statistics.median(values), 2) for name, values in wall.items()},
        "over_greedy": over_greedy(wall),
        "over_greedy_cpu": over_greedy(cpu),
    }


def over_greedy(times: dict[str, list[float]]) -> dict[str, float]:
    """Each method's cost over greedy's."""
    return {
        name: round(ratio_of(values, times["greedy"]), 3)
        for name, values in times.items()
        if name != "greedy"
    }


def ratio_of(values: Sequence[float], bases: Sequence[float]) -> float:
    """The median of each round's own ratio."""
    return statistics.median(value / base for value, base in zip(values, bases, strict=True))


# -- prefill ------------------------------------------------------------------------------
def prefill_costs(vlm: Vlm, options: dict[str, int]) -> dict[str, Any]:
    """SPIN beside SDPA against eager attention that returns its maps."""
    inputs = vlm.collate(vlm.encode([prompt_of(vlm, options["prefill"])]))
    spin = Mitigated(vlm, ["spin"]).stack

    def plain() -> None:
        vlm.model(**inputs, logits_to_keep=1)

    def with_spin() -> None:
        with spin.attached(vlm):
            plain()

    def eager_maps() -> None:
        vlm.model.set_attn_implementation("eager")
        vlm.model(**inputs, logits_to_keep=1, output_attentions=True)
        vlm.model.set_attn_implementation("sdpa")

    ways: dict[str, Callable[[], None]] = {"sdpa": plain, "spin": with_spin, "eager_maps": eager_maps}
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        plain()
        for _ in range(max(3, options["rounds"] // 2)):
            for name, run in ways.items():
                started = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - started))
    return {
        "prefill": inputs["input_ids"].shape[1],
        "prefill_ms": {name: round(statistics.median(values)) for name, values in times.items()},
        "spin_over_sdpa": round(ratio_of(times["spin"], times["sdpa"]), 3),
        "eager_maps_over_spin": round(ratio_of(times["eager_maps"], times["spin"]), 3),
    }


# -- memory -------------------------------------------------------------------------------
def opera_bytes(layers: int, options: dict[str, int]) -> dict[str, int]:
    """Most bytes that OPERA holds after a pass of an answer: by its own count, and all tensors'."""
    vlm = random_vlm(layers, options["width"])
    mitigated = Mitigated(vlm, ["opera"])
    weights = {tensor.untyped_storage().data_ptr() for tensor in vlm.model.state_dict().values()}
    most = 0

    def weigh(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        nonlocal most
        # The pass's own inputs and outputs are no method's memory, and the cache is decoding's.
        own = [*kwargs.values(), *vars(output).values(), *_cached(kwargs["past_key_values"])]
        known = weights | {t.untyped_storage().data_ptr() for t in own if isinstance(t, torch.Tensor)}
        storages = {s.data_ptr(): s.nbytes() for s in _storages()}
        most = max(most, sum(size for place, size in storages.items() if place not in known))

    handle = vlm.adapter.decoder(vlm.model).register_forward_hook(weigh, with_kwargs=True)
    mitigated.generate([prompt_of(vlm, options["context"])], max_new_tokens=4, batch_size=1)
    handle.remove()
    return {"tensors": most, "own_count": mitigated.decoder.cost.kept_bytes}  # type: ignore[union-attr]


def _cached(cache: Any) -> list[torch.Tensor]:
    pairs = cache.pairs if hasattr(cache, "pairs") else [(la.keys, la.values) for la in cache.layers]
    return [tensor for pair in pairs for tensor in pair]


def _storages() -> Iterator[Any]:
    for thing in gc.get_objects():
        # By type: asking some lazy modules for their class makes them warn.
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
            yield thing.untyped_storage()


def main(argv: Sequence[str]) -> None:
    options = {"rounds": 7, "steps": 24, "rows": 1, "context": 600, "prefill": 2000}
    options |= {"layers": 12, "width": 768}
    options |= {key: int(value) for key, value in (argument.split("=") for argument in argv)}
    transformers.logging.set_verbosity_error()
    memory = {layers: opera_bytes(layers, options) for layers in (4, 8)}
    vlm = random_vlm(options["layers"], options["width"])
    parameters = sum(p.numel() for p in vlm.model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        decoding = decoding_costs(vlm, Path(folder) / "directions", options)
    prefill = prefill_costs(vlm, options)
    result = {
        "bench": "interventions",
        "ratio": prefill["eager_maps_over_spin"],
        **decoding,
        **prefill,
        "opera_bytes_at_layers": memory,
        "limits": {**LIMITS, "eager_maps_over_spin": PREFILL_LIMIT},
        "parameters": parameters,
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "rounds": options["rounds"],
        "rows": options["rows"],
    }
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
