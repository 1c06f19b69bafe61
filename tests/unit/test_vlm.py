"""Loading, identity, spans and templates: what is refused, and with which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import SMOLVLM_TEMPLATE, fresh_vlm, sample_prompts, tiny_vlm

from sightline.errors import ConfigError, ModelError, SpanError, UnknownFamilyError
from sightline.models.spans import runs_of, token_range
from sightline.models.template import derive_frame
from sightline.models.vlm import Vlm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_vlm("smolvlm").save(tmp_path / "model")
    return tmp_path / "model"


# -- loading ----------------------------------------------------------------------------
def test_the_packaged_reference_model_answers():
    vlm = Vlm.load("world")
    assert vlm.model.dtype == torch.float32  # on a CPU
    assert vlm.generate_text(sample_prompts()[:1], max_new_tokens=3)
    assert vlm.revision == ""


def test_dtype_and_attention_are_obeyed(folder: Path):
    vlm = Vlm.load(str(folder), dtype="bfloat16", attention="eager")
    assert vlm.model.dtype == torch.bfloat16
    assert vlm.adapter.decoder(vlm.model).config._attn_implementation == "eager"
    rows = vlm.generate(sample_prompts(), max_new_tokens=3)
    assert all(len(samples[0].token_ids) for samples in rows)


def test_a_lora_folder_is_merged(folder: Path, tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    base = fresh_vlm("smolvlm")
    tuned = get_peft_model(base.model, LoraConfig(r=2, target_modules=r".*text_model.*q_proj"))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.5)
    tuned.save_pretrained(tmp_path / "lora")
    expected = Vlm(tuned.merge_and_unload(), base.processor)
    loaded = Vlm.load(str(folder), adapter_path=str(tmp_path / "lora"))
    prompts = sample_prompts()
    mine, theirs = (v.score(prompts, ["Yes."] * 5) for v in (expected, loaded))
    assert [a.logprob for a in mine] == pytest.approx([a.logprob for a in theirs], abs=1e-4)
    assert loaded.identity != Vlm.load(str(folder)).identity
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        Vlm.load(str(folder), adapter_path=str(folder))


def test_a_source_that_is_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="world"):
        Vlm.load(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"config\.json"):
        Vlm.load(str(tmp_path))


def test_an_unknown_family_is_refused_before_its_weights(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnknownFamilyError, match="qwen2_5_vl"):
        Vlm.load(str(folder))


def test_incomplete_or_damaged_weights_are_refused(folder: Path):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        Vlm.load(str(folder))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="safetensors"):
        Vlm.load(str(folder))
    path.unlink()
    with pytest.raises(ModelError, match="safetensors"):
        Vlm.load(str(folder))


def test_a_checkpoint_without_its_processor_is_refused(folder: Path):
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="processor"):
        Vlm.load(str(folder))


def test_an_unknown_attention_is_refused(folder: Path):
    with pytest.raises(ConfigError, match="eager"):
        Vlm.load(str(folder), attention="flash_attention_2")  # type: ignore[arg-type]


# -- identity ---------------------------------------------------------------------------
def test_identity_changes_with_anything_that_counts(folder: Path, tmp_path: Path):
    identity = Vlm.load(str(folder)).identity
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert Vlm.load(str(copy)).identity == identity
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert Vlm.load(str(copy)).identity != identity


def test_identity_in_memory_follows_the_weights():
    first, second = fresh_vlm("smolvlm"), fresh_vlm("smolvlm")
    assert first.identity == fresh_vlm("smolvlm").identity
    with torch.no_grad():
        second.model.lm_head.weight[0, 0] += 1.0
    assert first.identity != second.identity


# -- spans and templates ----------------------------------------------------------------
def test_runs_of_placeholders():
    assert runs_of([7, 7, 1, 7], 7) == (slice(0, 2), slice(3, 4))
    assert runs_of([1], 7) == ()


def tokens(text: str, *cuts: int):
    """char_to_token and token_to_chars of a text cut at the given characters."""
    edges = [0, *cuts, len(text)]
    ranges = list(zip(edges, edges[1:], strict=False))
    return (lambda c: next(i for i, (a, b) in enumerate(ranges) if a <= c < b)), ranges.__getitem__


def test_a_token_may_take_white_space_across_a_border_but_nothing_else():
    text = "User: dog?\nEnd"
    assert token_range(text, (6, 10), *tokens(text, 5, 11)) == slice(1, 2)
    with pytest.raises(SpanError, match="'E'"):
        token_range(text, (6, 10), *tokens(text, 5, 12))
    with pytest.raises(SpanError, match="':'"):
        token_range(text, (6, 10), *tokens(text, 4, 11))


def render(template: str):
    from transformers.utils.chat_template_utils import render_jinja_template

    def call(messages, opening):
        return render_jinja_template([messages], chat_template=template, add_generation_prompt=opening)[0][0]

    return call


def test_the_frame_is_cut_from_the_template():
    options = {"with_image": True, "special_tokens": ["<end_of_utterance>"], "eos_token": "</s>"}
    frame = derive_frame(render(SMOLVLM_TEMPLATE), **options)
    assert frame.prompt("Why?") == "<|im_start|>User:<image>Why?<end_of_utterance>\nAssistant:"
    assert frame.answer("So.") == " So.<end_of_utterance>"
    assert derive_frame(render(SMOLVLM_TEMPLATE), **(options | {"special_tokens": []})).end == "</s>"


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% for m in messages %}{{ m.content[0].text }}{{ m.content[0].text }}{% endfor %}", "once"),
        (
            "{% for m in messages %}{{ m.content[0].text }}{% endfor %}"
            "{% if add_generation_prompt %}[think]{% endif %}",
            "generation prompt",
        ),
    ],
)
def test_a_template_without_a_clear_frame_is_refused(template: str, complaint: str):
    with pytest.raises(SpanError, match=complaint):
        derive_frame(render(template), with_image=False, special_tokens=[], eos_token="</s>")


def test_a_processor_without_a_template_is_refused():
    vlm = fresh_vlm("llava")
    vlm.processor.chat_template = None
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        vlm.encode(sample_prompts()[:1])
