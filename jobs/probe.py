"""Train hallucination probes on stored activations: `python jobs/probe.py [activations=DIR] [key=value ...]`.

Without settings, on what `python jobs/extract.py` left in `runs/extract/activations`. One probe
a site, all in one pass, beside the controls that say what the question alone would have scored:
`runs/probe/summary.html`. `--check` examines the store and stops. Killed and started again, it
goes on with the probes that are missing.
"""

import sys

from sightline.config.loader import load
from sightline.config.probe import ProbeConfig


def main(argv: list[str]) -> None:
    config = load(ProbeConfig, argv)
    from sightline.distributed.probe_inputs import examine, read_inputs
    from sightline.distributed.probing import ProbeRun
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
    manifest = start_run(folder, name=config.run.name, config=config, seed=config.seeds[0])
    run, settings = config.run, config.model_dump(mode="json")
    with tracked(
        run.tracking_uri, experiment=run.experiment, run_key=run.folder, params=settings
    ) as tracking:
        bank = ProbeRun(config, inputs, folder, manifest)
        results = bank.train()
        bank.finish(results, tracking)


if __name__ == "__main__":
    main(sys.argv[1:])
