"""The torchvision repair reaches Ray's workers, because what they unpickle imports sightline."""

import pytest

from sightline.records import Answer

pytestmark = pytest.mark.integration


def test_a_worker_that_unpickled_something_of_ours_can_load_processors(ray_session):
    import ray

    @ray.remote
    def processor_name(answer: Answer) -> str:
        import sys

        from transformers import SmolVLMProcessor

        assert "torchvision" in sys.modules
        return SmolVLMProcessor.__name__ + answer.text

    assert ray.get(processor_name.remote(Answer("!"))) == "SmolVLMProcessor!"
