"""Extract a model's activations, with labels of hallucination: `python jobs/extract.py [key=value ...]`.

Without settings, the reference VLM looks at the embedded world and its answers are judged. The
store is `runs/extract/activations`, the counts are in `runs/extract/extract_report.json`;
`python jobs/probe.py` trains on it. Killed and started again, it goes on.
"""

import sys

from sightline.config.extract import ExtractConfig
from sightline.config.loader import load


def main(argv: list[str]) -> None:
    config = load(ExtractConfig, argv)
    from sightline.distributed import session
    from sightline.distributed.extraction import Extraction, plan
    from sightline.distributed.progress import LOGGER, speak
    from sightline.distributed.sources import load_examples
    from sightline.distributed.tracking import tracked
    from sightline.evaluation.run_folder import RunFolder, start_run

    if config.dry_run:
        sys.stdout.write(plan(config))
        return
    speak()
    folder = RunFolder.at(config.run.folder)
    start_run(folder, name=config.run.name, config=config, seed=0)
    examples = load_examples(config.dataset, scratch=folder.path / "data")
    session.connect_for(config.resources)
    run, settings = config.run, config.model_dump(mode="json")
    with tracked(
        run.tracking_uri, experiment=run.experiment, run_key=run.folder, params=settings
    ) as tracking:
        extraction = Extraction(
            config.model, config.extraction, config.resources, run.folder, labels=config.labels
        )
        extracted = extraction(examples)
        tracking.log({f"extract/{name}": value for name, value in extracted.counts().items()}, step=0)
    LOGGER.info("%d rows in %s, %d put aside", extracted.rows, extracted.folder, extracted.failed)


if __name__ == "__main__":
    main(sys.argv[1:])
