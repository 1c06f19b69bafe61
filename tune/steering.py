"""Search mitigations that lower hallucination and keep recall: `python tune/steering.py [key=value ...]`.

Optuna proposes strengths, layers, heads, mask ratios and contrast weights, Ray Tune runs the trials
on one loaded model a worker. The chosen point of the Pareto front is confirmed beside the model as
it is on scenes that no trial saw: `runs/sweep-steering/pareto.png`, and `chosen.yaml`, its
`mitigations:`. Killed and started again, it goes on with what is missing.
"""

import sys

from sightline.config.loader import load
from sightline.config.sweep_steering import SweepSteeringConfig


def main(argv: list[str]) -> None:
    config = load(SweepSteeringConfig, argv)
    from sightline.distributed import session
    from sightline.distributed.progress import speak
    from sightline.distributed.steering_sweep import SteeringSweep, plan
    from sightline.distributed.tracking import tracked
    from sightline.evaluation.run_folder import RunFolder, start_run

    if config.dry_run:
        sys.stdout.write(plan(config))
        return
    speak()
    folder = RunFolder.at(config.run.folder)
    manifest = start_run(folder, name=config.run.name, config=config, seed=config.search.seed)
    sweep = SteeringSweep(config, folder, manifest)
    session.connect_for(config.resources)
    run, settings = config.run, config.model_dump(mode="json")
    with tracked(
        run.tracking_uri, experiment=run.experiment, run_key=run.folder, params=settings
    ) as tracking:
        sweep.finish(sweep.search(tracking), tracking)


if __name__ == "__main__":
    main(sys.argv[1:])
