"""Derive steering directions of a model: `python jobs/directions.py [key=value ...]`.

Without settings, those of the reference VLM, from captions and pictures of the embedded world:
`runs/directions/directions` (what `vti:directions=` and `steer:directions=` take), with
`report.json` and `directions.png` beside it. Killed and started again, it goes on.
"""

import sys

from sightline.config.directions import DirectionsConfig
from sightline.config.loader import load


def main(argv: list[str]) -> None:
    config = load(DirectionsConfig, argv)
    from sightline.distributed import session
    from sightline.distributed.directions import FIGURE, REPORT, Derivation, load_pairs, plan
    from sightline.distributed.progress import LOGGER, speak
    from sightline.distributed.tracking import tracked
    from sightline.evaluation.run_folder import RunFolder, start_run

    if config.dry_run:
        sys.stdout.write(plan(config))
        return
    speak()
    folder = RunFolder.at(config.run.folder)
    start_run(folder, name=config.run.name, config=config, seed=config.derive.seed)
    pairs = load_pairs(config.pairs, scratch=str(folder.path / "data"))
    session.connect_for(config.resources)
    run, settings = config.run, config.model_dump(mode="json")
    with tracked(
        run.tracking_uri, experiment=run.experiment, run_key=run.folder, params=settings
    ) as tracking:
        derived = Derivation(config, run.folder)(pairs)
        tracking.add(derived.curves())
        for name in (REPORT, FIGURE):
            tracking.attach(folder.path / name)
    LOGGER.info("directions of %s in %s", ", ".join(config.derive.kinds), derived.folder)


if __name__ == "__main__":
    main(sys.argv[1:])
