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
    from sightline.distributed.mining import Mining, plan
    from sightline.distributed.progress import LOGGER, speak
    from sightline.distributed.sources import load_examples
    from sightline.distributed.tracking import tracked
    from sightline.evaluation.run_folder import RunFolder, start_run

    if config.dry_run:
        sys.stdout.write(plan(config))
        return
    speak()
    folder = RunFolder.at(config.run.folder)
    start_run(folder, name=config.run.name, config=config, seed=config.mining.seed)
    session.connect_for(config.resources)
    run, settings = config.run, config.model_dump(mode="json")
    with tracked(
        run.tracking_uri, experiment=run.experiment, run_key=run.folder, params=settings
    ) as tracking:
        examples = load_examples(config.dataset, scratch=folder.path / "data")
        mined = Mining(config.model, config.mining, config.resources, run.folder)(examples)
        tracking.log({f"mining/{name}": count for name, count in mined.counts().items()}, step=0)
    LOGGER.info("%d pairs in %s", mined.pairs, mined.pairs_folder)


if __name__ == "__main__":
    main(sys.argv[1:])
