"""Make a model hallucinate less: `python jobs/dpo.py [--config a.yaml] [key=value ...]`.

Mines preference pairs (unless `pairs=` names some), computes the reference's log-probabilities,
measures the model on held-out examples, trains it, measures again, and promotes it if
hallucination fell and nothing else broke. Everything lands in `runs/<run.name>/`; started again
under the same name, a killed run goes on. `--dry-run` prints the plan of any configuration.
"""

import sys

from sightline.config.dpo import DpoConfig
from sightline.config.loader import load


def main(argv: list[str]) -> None:
    config = load(DpoConfig, argv)
    from sightline.distributed.dry_run import plan

    planned = plan(config)  # refuses what could not work, before any work
    if config.dry_run:
        sys.stdout.write(planned)
        return
    from sightline.distributed import session
    from sightline.distributed.dpo import DpoRun
    from sightline.distributed.progress import speak
    from sightline.distributed.tracking import tracked
    from sightline.evaluation.run_folder import RunFolder, start_run

    speak()
    folder = RunFolder.at(config.run.folder)
    manifest = start_run(folder, name=config.run.name, config=config, seed=config.training.seed)
    # Ray Train's clean-up after a killed controller asks the dashboard.
    session.connect_for(config.resources, dashboard=True)
    run = DpoRun(config, folder, manifest)
    settings = config.model_dump(mode="json")
    with tracked(
        config.run.tracking_uri, experiment=config.run.experiment, run_key=config.run.folder, params=settings
    ) as tracking:
        held_out = run.held_out()
        pairs = run.pairs()
        reference = run.reference(pairs)
        before = run.evaluate("before", held_out, config.model)
        trained = run.train(reference, tracking)
        after = run.evaluate("after", held_out, run.trained_model(trained))
        run.finish(before, after, trained, tracking)


if __name__ == "__main__":
    main(sys.argv[1:])
