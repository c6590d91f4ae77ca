"""Calibration by prompts: text encoders see them, the denoiser's trajectories draw them; FP16 holds a T5 that grows."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from transformers import T5Config, T5EncoderModel

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle.engine import SizeRange
from dit_deploy.errors import InputError
from dit_deploy.exporters import export
from dit_deploy.exporters.builders import CalibrationOptions, build_engine
from dit_deploy.exporters.builders.planning import make_plan
from dit_deploy.exporters.builders.text_sizes import text_sizes
from dit_deploy.exporters.calibration import calibrate, plan
from dit_deploy.exporters.calibration.texts import made_by_prompts, reads_prompts, text_feeds
from dit_deploy.exporters.passes.emulate import emulate_half
from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
from dit_deploy.exporters.passes.half import to_half
from dit_deploy.parity.prompts import CALIBRATION, COMPARISON, take
from tests.families.text_bundle import TOKENS, WIDTH, text_source
from tests.families.tokenizers import t5_tokenizer

FEW = CalibrationOptions(samples=3, evaluations=2, steps=2)


def grown(folder: Path) -> T5EncoderModel:
    """A T5 whose feed-forward networks give more than FP16 holds, and whose residual stream keeps that."""
    torch.manual_seed(1)
    vocabulary = t5_tokenizer(folder)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=WIDTH,
        d_kv=16,
        d_ff=48,
        num_layers=3,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    model = T5EncoderModel(config).eval()
    with torch.no_grad():
        for block in model.encoder.block[:2]:
            block.layer[1].DenseReluDense.wo.weight *= 3e4
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("source")
    return export(text_source(folder, grown(folder / "tokenizer")), tmp_path_factory.mktemp("bundles") / "text")


def test_prompts_to_compare_on_are_not_those_of_calibration() -> None:
    assert not set(CALIBRATION) & set(COMPARISON)
    assert take(COMPARISON, 10)[8:] == COMPARISON[:2]


def test_text_encoders_see_prompts_and_the_negative_one(bundle: Bundle) -> None:
    assert reads_prompts(bundle, "text_encoder") and not reads_prompts(bundle, "denoiser")
    assert made_by_prompts(bundle) == {"encoder_hidden_states", "encoder_attention_mask"}
    prompts, negative = text_feeds(bundle, "text_encoder", CALIBRATION)
    assert prompts["input_ids"].shape == (len(CALIBRATION), TOKENS)
    assert negative["input_ids"].shape == (1, TOKENS)
    assert len({tuple(row) for row in prompts["input_ids"].tolist()}) == len(CALIBRATION)


def test_a_text_encoder_is_calibrated_without_drawing(bundle: Bundle) -> None:
    made = calibrate(bundle, component="text_encoder", threads=1)
    assert not made.record.feeds and set(made.record.graphs) == {"text_encoder"}
    assert max(made.ranges().values()) > 65504
    assert calibrate(bundle, component="text_encoder", samples=5, threads=1).path == made.path


def test_trajectories_draw_prompts(bundle: Bundle) -> None:
    settings = plan(bundle, **vars(FEW))
    assert settings.prompts == CALIBRATION[:3] and settings.conditions == {}
    made = calibrate(bundle, **vars(FEW), threads=1)
    (first, *_) = made.feeds()
    assert first["encoder_hidden_states"].shape[1:] == (TOKENS, WIDTH)
    assert len(first["latents"]) == len(first["encoder_attention_mask"])
    assert calibrate(bundle, **vars(FEW), threads=1).path == made.path


def test_prompts_of_ones_own(bundle: Bundle) -> None:
    own = ("a red house", "雪")
    assert plan(bundle, samples=3, prompts=own).prompts == ("a red house", "雪", "a red house")
    assert plan(bundle, prompts=[str(number) for number in range(40)]).samples == 40
    usual = calibrate(bundle, component="text_encoder", threads=1)
    made = calibrate(bundle, component="text_encoder", prompts=own, threads=1)
    assert made.path != usual.path and made.record.settings == {"prompts": list(own)}
    drawn = calibrate(bundle, component="denoiser", samples=2, evaluations=1, steps=1, prompts=own, threads=1)
    assert drawn.record.settings["prompts"] == list(own)


def test_prompts_decide_an_engine(bundle: Bundle) -> None:
    options: dict[str, Any] = {"precision": "int8", "components": ["denoiser"], "kernels": "onnxruntime"}
    usual = make_plan(bundle, **options, calibration=FEW).key_parts
    own = make_plan(bundle, **options, calibration=replace(FEW, prompts=("a red house",))).key_parts
    assert set(own.items()) - set(usual.items()) == {("calibration.prompts", "('a red house',)")}
    assert set(usual) < set(own)


@pytest.mark.parametrize("prompts", [(), "a red house", [1]])
def test_prompts_that_are_none(bundle: Bundle, prompts: Any) -> None:
    with pytest.raises(InputError, match=r"prompts: .* came, expected texts, one or more"):
        plan(bundle, prompts=prompts)


def rounded(path: Path, target: Path) -> ort.InferenceSession:
    """A half-precision graph as a GPU computes it: every value of it rounded to FP16."""
    model = load_graph(path)
    emulate_half(model, ir.DataType.FLOAT16)
    save_graph(model, target)
    return ort.InferenceSession(target, providers=["CPUExecutionProvider"])


def test_a_t5_that_overflows_fp16_stays_finite_and_close(bundle: Bundle, tmp_path: Path) -> None:
    (feeds, _) = text_feeds(bundle, "text_encoder", COMPARISON)
    plain = ort.InferenceSession(bundle.component_path("text_encoder"), providers=["CPUExecutionProvider"])
    expected = plain.run(["encoder_hidden_states"], feeds)[0]

    unsafe = load_graph(bundle.component_path("text_encoder"))
    to_half(unsafe, ir.DataType.FLOAT16)
    save_graph(unsafe, tmp_path / "unsafe" / "model.onnx")
    broken = rounded(tmp_path / "unsafe" / "model.onnx", tmp_path / "rounded" / "model.onnx")
    assert not np.isfinite(broken.run(["encoder_hidden_states"], feeds)[0]).all()

    engine = build_engine(
        bundle, precision="fp16", provider="cuda", components=["text_encoder"], threads=1, check=False
    )
    found = rounded(engine.file("text_encoder"), tmp_path / "engine" / "model.onnx").run(None, feeds)[0]
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-2
    reasons = engine.record.components["text_encoder"].kept
    assert any("FP16 ends at 65504" in why for why in reasons.values())
    assert not [name for name in reasons if "multiheadattention" in name]  # whose kernels are FP16's


def test_the_whole_engine_is_held_against_the_plain_graphs(bundle: Bundle) -> None:
    # Limits are for trained networks (tests/examples/test_emoji.py): a random one is no denoiser.
    engine = build_engine(bundle, precision="fp16", provider="cuda", calibration=FEW, threads=1, name="all", limit=None)
    assert set(engine.record.components) >= {"text_encoder", "denoiser"}
    assert engine.record.parity is not None
    assert 0 < engine.record.parity["psnr"] < 200  # of pictures that were drawn, and are not the same to the last bit


def test_int8_of_the_denoiser_alone(bundle: Bundle) -> None:
    engine = build_engine(
        bundle, precision="int8", components=["denoiser"], kernels="onnxruntime", calibration=FEW, threads=1, limit=None
    )
    assert engine.record.parity is not None


def test_lengths_of_texts_are_those_that_the_tokenizers_make(bundle: Bundle) -> None:
    def sizes(**fields: str) -> dict[str, dict[str, SizeRange]]:
        prompts = bundle.manifest.prompts
        assert prompts is not None
        changed = prompts.model_copy(update={"encoders": (prompts.encoders[0].model_copy(update=fields),)})
        return text_sizes(Bundle(bundle.path, bundle.manifest.model_copy(update={"prompts": changed}), ""))

    fixed = SizeRange(minimum=TOKENS, optimum=TOKENS, maximum=TOKENS)
    assert sizes() == {name: {"sequence_length": fixed} for name in ("text_encoder", "denoiser")}
    both = sizes(negative_tokenizer="tokenizer/negative.json")["denoiser"]["sequence_length"]
    assert (both.minimum, both.optimum, both.maximum) == (TOKENS // 2, TOKENS, TOKENS)
    free = sizes(tokenizer="tokenizer/unpadded.json")["text_encoder"]["sequence_length"]
    assert (free.minimum, free.optimum, free.maximum) == (1, TOKENS, TOKENS)


@pytest.mark.slow
def test_what_joins_the_encoders_is_calibrated_with_what_they_give(tmp_path: Path) -> None:
    bundle = export(text_source(tmp_path / "source", join=True), tmp_path / "bundle")
    assert made_by_prompts(bundle) == {"encoder_hidden_states", "encoder_attention_mask"}
    ranges = calibrate(bundle, component="conditions", threads=1).ranges()
    assert ranges["encoder_hidden_states"] == pytest.approx(2 * ranges["text_states"])
    assert text_sizes(bundle)["conditions"]["sequence_length"].maximum == TOKENS
    drawn = Pipeline(bundle)(prompt=["a cat", "a dog"], num_inference_steps=2, seed=0, output_type="latent")
    assert np.isfinite(drawn.latents).all()


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="pip install 'dit-deploy[tensorrt-rtx]'")
def test_tensorrt_rtx_builds_it_for_the_tokenizers_lengths(bundle: Bundle) -> None:
    engine = build_engine(
        bundle,
        backend="tensorrt-rtx",
        precision="fp16",
        calibration=FEW,
        threads=1,
        check=False,
        compute_capabilities=["8.9"],
    )
    for name in ("text_encoder", "denoiser"):
        (profile,) = engine.record.components[name].profiles
        assert profile.sizes["sequence_length"] == SizeRange(minimum=TOKENS, optimum=TOKENS, maximum=TOKENS)
