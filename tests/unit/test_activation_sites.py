"""Sites: names, layers, and the default eleven."""

from __future__ import annotations

import pytest

from sightline.activations.sites import EMBEDDING, KINDS, Site, default_layers, default_sites, sites_at
from sightline.errors import ConfigError


def test_names_are_parsed_back():
    sites = (*default_sites(24), Site("prompt_token", EMBEDDING), Site("answer_mean", 7))
    assert tuple(Site.parse(site.name) for site in sites) == sites
    assert Site("query_token", 12).name == "query_token.layer_12"
    assert Site("query_token", EMBEDDING).name == str(Site("query_token", -1)) == "query_token.embedding"


def test_default_layers_end_in_the_last_block():
    assert default_layers(24) == (0, 6, 12, 18, 23)
    assert default_layers(30) == (0, 7, 15, 22, 29)
    assert default_layers(4) == (0, 1, 2, 3)
    assert default_layers(1) == (0,)
    with pytest.raises(ConfigError, match="at least one decoder block"):
        default_layers(0)


def test_default_sites_are_halps_eleven():
    names = [site.name for site in default_sites(24)]
    assert len(names) == len(set(names)) == 11
    assert names[0] == "vision_only"
    assert names[1:6] == [f"vision_token.layer_{i}" for i in (0, 6, 12, 18, 23)]
    assert names[-1] == "query_token.layer_23"


def test_sites_at_names_vision_only_once():
    sites = sites_at(KINDS, [0, 2])
    assert len(sites) == 1 + 2 * (len(KINDS) - 1)
    assert len(set(sites)) == len(sites) == len(sorted(sites))


@pytest.mark.parametrize(
    "text", ["", "vision_only.layer_0", "query_token", "query_token.layer_-1", "x.layer_1"]
)
def test_a_wrong_name_is_refused(text):
    with pytest.raises(ConfigError, match=r"expected .*(site|layer)"):
        Site.parse(text)


@pytest.mark.parametrize(
    ("kind", "layer"), [("vision_only", 0), ("query_token", None), ("query_token", -2), ("x", 0)]
)
def test_a_wrong_site_is_refused(kind, layer):
    with pytest.raises(ConfigError, match="expected"):
        Site(kind, layer)
