"""`Mitigated` builds what a list says and refuses early what cannot work; who uses it says the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mitigated import CONTEXT, make_directions, three_prompts
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import fresh_vlm, tiny_vlm

from sightline.__main__ import main
from sightline.config.evaluation import EvaluationConfig
from sightline.config.mitigations import mitigations_of
from sightline.config.model import ModelConfig
from sightline.config.resources import ResourcesConfig
from sightline.distributed.evaluation import predict
from sightline.errors import ConfigError, DataError, InterventionError, ModelError, StorageError
from sightline.evaluation import side_by_side
from sightline.evaluation.predictions import Predict, PredictConfig
from sightline.interventions.directions import TENSORS, Directions
from sightline.mitigations import Mitigated, recorded
from sightline.models.prompts import Prompt
from sightline.models.vlm import Vlm
from sightline.records import Example


@pytest.fixture(scope="module")
def vlm() -> Vlm:
    return tiny_vlm("smolvlm")


@pytest.fixture
def directions(vlm, tmp_path) -> str:
    return make_directions(vlm, tmp_path / "directions")


# -- what is built ------------------------------------------------------------------------


def test_no_mitigations_are_the_models_own_greedy_answers(vlm):
    prompts = three_prompts()
    expected = [samples[0] for samples in vlm.generate(prompts, max_new_tokens=5)]
    for items in ((), ["greedy"]):
        assert Mitigated(vlm, items).generate(prompts, max_new_tokens=5) == expected
    assert Mitigated(vlm).generate([]) == []
    assert Mitigated(vlm).describe() == "greedy"


def test_text_mapping_and_settings_build_the_same(vlm, directions):
    text = f"vti:text=2.0,directions={directions}"
    mapping = {"type": "vti", "text": 2.0, "directions": directions}
    answers = [
        Mitigated(vlm, [item, "spin:k=0.5"]).generate(three_prompts(), max_new_tokens=4)
        for item in (text, mapping, mitigations_of([text])[0])
    ]
    assert answers[0] == answers[1] == answers[2]
    assert Mitigated(vlm, [text, "spin:k=0.5"]).describe() == f"{text} + spin:k=0.5"


def test_the_stack_has_its_own_order(vlm, directions):
    vti = f"vti:image=1,directions={directions}"
    for items in ([vti, "pai", "spin", "beam"], ["beam", "spin", "pai", vti]):
        stack = Mitigated(vlm, items).stack
        assert [i.name for i in stack.interventions] == ["visual_vti", "text_vti", "pai", "spin"]


def test_a_strength_of_zero_attaches_nothing(vlm):
    assert not Mitigated(vlm, ["vti:text=0", "pai:alpha=0"]).stack.interventions


# -- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["spin", "pai", "dola", "steer", "vti"])
def test_layers_out_of_range(vlm, directions, method):
    own = f",directions={directions}" if method in ("steer", "vti") else ""
    with pytest.raises(ModelError, match=r"layers? from 0 to [12]"):
        Mitigated(vlm, [f"{method}:layers=0+7{own}"])


def test_heads_are_a_share(vlm):
    with pytest.raises(ConfigError, match="`k` of spin.*less than or equal to 1"):
        Mitigated(vlm, ["spin:k=30"])


@pytest.mark.parametrize("text", ["steer:strength=inf", "vti:text=nan", "pai:alpha=inf", "pai:gamma=nan"])
def test_a_strength_that_is_no_number(vlm, text):
    with pytest.raises(ConfigError, match="finite"):
        Mitigated(vlm, [text])


@pytest.mark.parametrize("method", ["steer", "vti"])
def test_directions_of_another_model_or_revision(vlm, directions, method):
    for other in (tiny_vlm("llava"), _retrained()):
        with pytest.raises(InterventionError, match="directions of the model in use"):
            Mitigated(other, [f"{method}:directions={directions}"])


def _retrained() -> Vlm:
    other = fresh_vlm("smolvlm")
    with torch.no_grad():
        other.adapter.lm_head(other.model).weight[0, 0] += 1.0
    return other


def test_packaged_directions_fit_the_reference_model_alone(vlm, directions, monkeypatch):
    packaged = Path(directions).parent / "packaged"
    replace(Directions.load(directions), identity="the reference VLM").save(packaged)
    monkeypatch.setattr("sightline.mitigations.packaged_directions", lambda kind: packaged)
    with pytest.raises(InterventionError, match=r"python jobs/directions\.py model\.source=memory"):
        Mitigated(vlm, ["vti"])


def test_directions_that_are_broken(vlm, directions, tmp_path):
    tensors = load_file(f"{directions}/{TENSORS}")
    tensors["text_LD"][1, 3] = float("nan")
    save_file(tensors, f"{directions}/{TENSORS}")
    with pytest.raises(DataError, match="NaN or infinity in layer 1"):
        Mitigated(vlm, [f"steer:directions={directions}"])
    with pytest.raises(StorageError, match=r"jobs/directions\.py"):
        Mitigated(vlm, [f"steer:directions={tmp_path / 'nowhere'}"])


def test_a_part_that_the_directions_do_not_have(vlm, directions):
    replace(Directions.load(directions), visual_LPD=None).save(directions)
    Mitigated(vlm, [f"vti:directions={directions}"])
    with pytest.raises(InterventionError, match="visual part"):
        Mitigated(vlm, [f"vti:image=1,directions={directions}"])


def test_hooks_under_a_compiled_model(directions):
    compiled = fresh_vlm("smolvlm")
    compiled.model.compile()
    for text in (f"steer:directions={directions}", "spin", "pai"):
        with pytest.raises(InterventionError, match="not compiled"):
            Mitigated(compiled, [text])


@pytest.mark.parametrize(
    ("text", "prompt", "needle"),
    [
        ("rcd", Prompt(three_prompts()[0].image, "Is there a dog?"), "context"),
        ("vcd", Prompt(None, "Is there a dog?"), "image"),
        ("pai:gamma=1.5", Prompt(None, "Is there a dog?"), "image"),
    ],
)
def test_a_contrast_needs_what_it_leaves_out(vlm, text, prompt, needle):
    with pytest.raises(ModelError, match=needle):
        Mitigated(vlm, [text]).generate([three_prompts()[0], prompt], max_new_tokens=2)


# -- who uses it --------------------------------------------------------------------------


@pytest.fixture
def examples(tmp_path):
    three_prompts()[0].image.save(tmp_path / "0.png")
    asked = {"image_id": "0", "image_uri": str(tmp_path / "0.png"), "context": CONTEXT}
    return [
        Example(example_id="0", question="Is there a dog?", kind="yes_no", **asked),
        Example(example_id="1", question="Describe this image in detail.", kind="caption", **asked),
    ]


def test_predictions_are_those_of_the_mitigated_model(vlm, examples):
    settings = EvaluationConfig(max_new_tokens=5, short_answer_tokens=3)
    items = mitigations_of(["spin:k=0.5,alpha=0"])
    found = Predict(PredictConfig(ModelConfig(), settings, items), vlm=vlm).predict(examples)
    image = Image.open(examples[0].image_uri)
    for prediction, length in zip(found, (3, 5), strict=True):
        prompt = Prompt(image, prediction.example.question, CONTEXT)
        (answer,) = Mitigated(vlm, items).generate([prompt], max_new_tokens=length)
        assert prediction.answer == answer.text


def test_a_folder_of_another_list_is_refused(vlm, examples, directions, tmp_path):
    vlm.save(tmp_path / "model")

    def asked(*items):
        return predict(
            examples,
            model=ModelConfig(source=str(tmp_path / "model"), dtype="float32"),
            settings=EvaluationConfig(max_new_tokens=2, short_answer_tokens=2),
            resources=ResourcesConfig(),
            out_dir=str(tmp_path / "predictions"),
            mitigations=mitigations_of(items),
            ray=False,
        )

    assert asked("spin:k=0.5") == asked({"type": "spin", "k": 0.5})
    for items in ((), ("spin:k=0.75",), ("spin:k=0.5", "beam")):
        with pytest.raises(StorageError):
            asked(*items)


def test_what_is_recorded_are_contents_and_no_places(directions, tmp_path):
    moved = tmp_path / "moved"
    Directions.load(directions).save(moved)
    first, second = (recorded(mitigations_of([f"steer:directions={d}"])) for d in (directions, moved))
    assert first == second
    assert json.loads(json.dumps(first)) == first
    tensors = load_file(moved / TENSORS)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, moved / TENSORS)
    assert recorded(mitigations_of([f"steer:directions={moved}"])) != first


# -- the command --------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (96, 96), "white").save(path)
    return str(path)


def test_ask_answers_with_and_without_side_by_side(photo, capsys):
    question = "Is there a dog in the image?"
    words = ["ask", photo, question, "--mitigate", "spin:k=0.5", "--mitigate", "pai", "--max-new-tokens", "4"]
    assert main([*words, "--context", CONTEXT]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split("   ")[-1].strip() == "spin:k=0.5 + pai"
    assert "greedy" in head
    assert rows[0].startswith("answer")
    assert rows[-2].split()[0] == "tokens"
    assert rows[-1].split()[0] == "ms"
    assert len(rows[-1].split()) == 3


def test_ask_names_what_is_wrong_before_it_loads_anything(photo, capsys, monkeypatch):
    monkeypatch.setattr(Vlm, "load", lambda *_, **__: pytest.fail("loaded"))
    assert main(["ask", photo, "?", "--mitigate", "spinn"]) == 1
    assert "did you mean `spin`" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["ask", "--mitigate", "help"])
    assert left.value.code == 0
    assert "spin: Image-guided head suppression" in capsys.readouterr().out


def test_long_answers_are_wrapped_into_their_column():
    columns = [
        side_by_side.Column("greedy", "A dog is on the couch.", 7, 12.4),
        side_by_side.Column("spin", "A couch.", 3, 13.6),
    ]
    assert side_by_side.table(columns, 32) == "\n".join(
        [
            "         greedy       spin",
            "answer   A dog is     A couch.",
            "         on the",
            "         couch.",
            "tokens   7            3",
            "ms       12           14",
        ]
    )


def test_bake_writes_a_checkpoint_that_answers_as_the_hooked_model(vlm, directions, tmp_path, capsys):
    vlm.save(tmp_path / "model")
    loaded = Vlm.load(str(tmp_path / "model"))
    replace(Directions.load(directions), identity=loaded.identity).save(directions)
    words = ["bake", str(tmp_path / "baked"), "--model", str(tmp_path / "model")]
    assert main([*words, "--steer", f"strength=2.0,directions={directions},layers=1-2"]) == 0
    assert "steer:strength=2.0" in capsys.readouterr().out
    hooked = Mitigated(loaded, [f"steer:strength=2.0,directions={directions},layers=1-2"])
    baked = Vlm.load(str(tmp_path / "baked")).generate(three_prompts(), max_new_tokens=4)
    expected = hooked.generate(three_prompts(), max_new_tokens=4)
    assert [a[0].token_ids for a in baked] == [a.token_ids for a in expected]
