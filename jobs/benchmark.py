"""Measure models and mitigations on benchmarks: `python jobs/benchmark.py [key=value ...]`.

Without settings, the reference VLM answers the embedded world greedily; `rows` say what else is
done, and each is compared with greedy on the same items: `runs/benchmark/report.html`. Killed and
started again, it goes on. `--score-only` scores the answers that are there, without any model.
"""

import sys

from sightline.config.benchmark import BenchmarkConfig
from sightline.config.loader import load


def main(argv: list[str]) -> None:
    config = load(BenchmarkConfig, argv)
    from sightline.distributed import session
    from sightline.distributed.benchmark import Benchmark, plan
    from sightline.distributed.progress import speak
    from sightline.distributed.tracking import tracked
    from sightline.evaluation.run_folder import RUN, RunFolder, start_run

    if config.dry_run:
        sys.stdout.write(plan(config))
        return
    speak()
    folder, run = RunFolder.at(config.run.folder), config.run
    if config.score_only:
        manifest = folder.read_json(RUN) if folder.exists(RUN) else {}
        Benchmark(config, folder, manifest).finish()
        return
    manifest = start_run(folder, name=run.name, config=config, seed=config.seed)
    session.connect_for(config.resources)
    settings = config.model_dump(mode="json")
    with tracked(
        run.tracking_uri, experiment=run.experiment, run_key=run.folder, params=settings
    ) as tracking:
        benchmark = Benchmark(config, folder, manifest)
        benchmark.answer()
        benchmark.finish(tracking)


if __name__ == "__main__":
    main(sys.argv[1:])
