"""What a cluster can never give is refused in one sentence; no Ray is started here."""

from __future__ import annotations

import sys

import pytest

from sightline.distributed import session
from sightline.distributed.session import Cluster, require
from sightline.errors import ResourceError

LAPTOP = Cluster(address="here", local=True, cpus=8, gpus=1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"workers": 2, "gpus_per_worker": 1},
            r"at most 1 GPUs.*request for 2 \(2 workers\).*RAY_ADDRESS",
        ),
        ({"workers": 3, "cpus_per_worker": 3}, r"at most 8 CPUs.*cpus_per_worker"),
        ({"workers": 1, "gpus_per_worker": 1.5}, "at most 1 GPUs"),
    ],
)
def test_more_than_the_cluster_can_have(asked, message):
    with pytest.raises(ResourceError, match=message):
        require(LAPTOP, **asked)


def test_what_fits_is_accepted():
    require(LAPTOP, workers=8)
    require(LAPTOP, workers=2, gpus_per_worker=0.5, cpus_per_worker=4)


def test_authentication_is_set_before_ray_is_imported_and_for_private_clusters_only(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    environment: dict[str, str] = {}
    monkeypatch.setattr(session.os, "environ", environment)
    session._set_environment("10.0.0.1:6379")
    assert "RAY_AUTH_MODE" not in environment
    session._set_environment(None)
    assert environment["RAY_AUTH_MODE"] == "token"
    environment["RAY_AUTH_MODE"] = "disabled"
    session._set_environment(None)
    assert environment["RAY_AUTH_MODE"] == "disabled"
