"""Search for a better hallucination probe: `python tune/probe.py [activations=DIR] [key=value ...]`.

Optuna proposes sites and settings, ASHA stops what falls behind, Ray Tune runs them. The winner
is refitted over seeds and compared with the default probe on images that no trial was given:
`runs/sweep-probe/search.png`. Killed and started again, it goes on with the trials that are
missing. `--check` examines the store and stops.
"""

import sys

from sightline.config.loader import load
from sightline.config.sweep_probe import SweepProbeConfig


def main(argv: list[str]) -> None:
    config = load(SweepProbeConfig, argv)
    from sightline.distributed import session
    from sightline.distributed.probe_inputs import examine, read_inputs
    from sightline.distributed.probe_sweep import ProbeSweep
    from sightline.distributed.progress import speak
    from sightline.distributed.tracking import tracked
    from sightline.evaluation.run_folder import RunFolder, start_run

    inputs = read_inputs(config.activations, root=config.run.root, label=config.label, sites=config.sites)
    if config.dry_run:
        findings = examine(inputs, config.split)
        sys.stdout.write(findings.text())
        raise SystemExit(1 if findings.faults else 0)
    speak()
    folder = RunFolder.at(config.run.folder)
    manifest = start_run(folder, name=config.run.name, config=config, seed=config.search.seed)
    session.connect_for(config.resources)
    run, settings = config.run, config.model_dump(mode="json")
    with tracked(
        run.tracking_uri, experiment=run.experiment, run_key=run.folder, params=settings
    ) as tracking:
        sweep = ProbeSweep(config, inputs, folder, manifest)
        sweep.finish(sweep.search(tracking), tracking)


if __name__ == "__main__":
    main(sys.argv[1:])
