"""One MLflow run however often a run is started; progress lines say rate and time left."""

from __future__ import annotations

import pytest

from sightline.distributed.progress import Progress, duration
from sightline.distributed.tracking import tracked


def test_a_run_that_failed_is_continued_not_repeated(tmp_path):
    store = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "tests"}
    key = f"{tmp_path}/runs/it's"
    started = []

    def fails() -> None:
        with tracked(**store, run_key=key, params={"training": {"lr": 1.0}}) as run:
            run.log({"loss": 0.7}, step=1)
            started.append(run)
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        fails()
    (first,) = started
    assert first._client.get_run(first.run_id).info.status == "FAILED"
    with tracked(**store, run_key=key, params={}) as second:
        assert second._client.get_run(second.run_id).info.status == "RUNNING"
        second.log({"loss": 0.5}, step=2)
    run = second._client.get_run(second.run_id)
    assert second.run_id == first.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"training.lr": "1.0"}
    assert [m.value for m in second._client.get_metric_history(run.info.run_id, "loss")] == [0.7, 0.5]
    with tracked(**store, run_key=f"{tmp_path}/runs/other", params={}) as other:
        assert other.run_id != first.run_id


def test_progress_counts_its_own_share_and_speaks_rarely():
    now, lines = [0.0], []
    progress = Progress(
        "training", total=10, unit="step", done=4, every_s=5, clock=lambda: now[0], write=lines.append
    )
    for done in range(5, 11):
        now[0] += 2.0
        progress.update(done, {"loss": 0.25})
    assert lines == [
        "training: step 5 of 10 (50%), loss 0.25, 2 s a step, about 10 s left",
        "training: step 8 of 10 (80%), loss 0.25, 2 s a step, about 4 s left",
        "training: step 10 of 10 (100%), loss 0.25, 2 s a step",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(40.4, "40 s"), (600, "10 min"), (3600 * 2.1, "2 h 06 min")])
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_a_piece_of_a_run_is_noted_once_below_it(tmp_path):
    store = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "tests"}
    curves = {"loss": [0.7, 0.5, float("nan")]}
    for _ in range(2):  # as if started again
        with tracked(**store, run_key=f"{tmp_path}/runs/bank", params={}) as run:
            run.note("vision_only", params={"seed": 42}, values={"auroc": 0.8}, curves=curves)
    client = run._client
    parent = client.get_run(run.run_id)
    (child,) = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'", max_results=5
    )
    assert (child.info.run_name, child.info.status) == ("vision_only", "FINISHED")
    assert child.data.params == {"seed": "42"}
    history = client.get_metric_history(child.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 0.7), (2, 0.5)]
    assert child.data.metrics["auroc"] == 0.8
