"""Greedy answers of real vLLM: `python vllm_answers.py FOLDER QUESTIONS.json ANSWERS.json`.

A process of its own, because an engine takes hold of the process it starts in. The engine
runs inside this process: no children outlive it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["TORCH_COMPILE_DISABLE"] = "1"  # the sampler's own kernels: minutes of a C++ compiler
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB


def main(folder: str, questions: str, answers: str) -> None:
    """Read [{prompt, image}], write [{prompt_ids, ids, logprob}]."""
    from PIL import Image
    from vllm import LLM, SamplingParams

    asked = json.loads(Path(questions).read_text())
    engine = LLM(
        model=folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=4,
        limit_mm_per_prompt={"image": 1},
        distributed_executor_backend="uni",
        enable_prefix_caching=False,
        seed=0,
    )
    prompts = [
        {"prompt": one["prompt"], "multi_modal_data": {"image": Image.open(one["image"])}} for one in asked
    ]
    settings = SamplingParams(temperature=0.0, max_tokens=asked[0]["max_tokens"], logprobs=0)
    found = []
    for output in engine.generate(prompts, settings):
        best = output.outputs[0]
        logprob = sum(step[i].logprob for i, step in zip(best.token_ids, best.logprobs, strict=True))
        found.append(
            {"prompt_ids": list(output.prompt_token_ids), "ids": list(best.token_ids), "logprob": logprob}
        )
    Path(answers).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
