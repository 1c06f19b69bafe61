"""Mine preference pairs from a model's own answers: `python jobs/mine.py [key=value ...]`.

Without settings, the reference VLM answers questions about the embedded world. The pairs
are in `runs/mine/pairs`, the counts in `runs/mine/mine_report.json`; `python jobs/dpo.py
pairs=runs/mine/pairs` trains on them. Killed and started again, it goes on.
"""

import sys

from sightline.config.loader import load
from sightline.config.mine import MineConfig


def main(argv: list[str]) -> None:
    config = load(MineConfig, argv)
    from sightline.distributed import session
    from sightline.distributed.mining import Mining
    from sightline.distributed.progress import LOGGER, speak
    from sightline.distributed.sources import load_examples
    from sightline.evaluation.run_folder import RunFolder, start_run

    speak()
    folder = RunFolder.at(config.run.folder)
    examples = load_examples(config.dataset, scratch=folder.path / "data")
    LOGGER.info("mine: %d examples into %s", len(examples), folder.path)
    asked = config.resources
    session.connect(
        workers=asked.workers,
        cpus_per_worker=asked.cpus_per_worker,
        gpus_per_worker=asked.gpus_per_worker,
        address=asked.address,
    )
    if config.dry_run:
        return
    start_run(folder, name=config.run.name, config=config, seed=config.mining.seed)
    mined = Mining(config.model, config.mining, config.resources, str(folder.path))(examples)
    LOGGER.info("mine: %d pairs in %s", mined.pairs, mined.pairs_folder)


if __name__ == "__main__":
    main(sys.argv[1:])
