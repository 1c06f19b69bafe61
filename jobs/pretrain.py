"""Train the reference VLM from nothing: `python jobs/pretrain.py [key=value ...]`.

Two stages (a warm-up of each half by itself, then all weights by curriculum), best weights by validation,
a plain Hugging Face folder at `runs/pretrain/model`, and its benchmarks on unseen scenes.
"""

import sys

from sightline.config.loader import load
from sightline.config.pretrain import PretrainConfig


def main(argv: list[str]) -> None:
    config = load(PretrainConfig, argv)
    from sightline.distributed.pretraining import run

    run(config)


if __name__ == "__main__":
    main(sys.argv[1:])
