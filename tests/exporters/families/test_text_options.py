"""What pipelines let one choose of their prompts: other texts for other encoders, more tokens, fewer layers of CLIP.

Networks run in PyTorch here: that graphs of other lengths and layers are right is what exports prove.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dit_deploy import Pipeline
from dit_deploy.bundle import Bundle
from dit_deploy.cli import run
from dit_deploy.errors import InputError, SourceError
from dit_deploy.exporters import open_source
from dit_deploy.runtimes.torch import TorchReference, TorchRunner
from dit_deploy.runtimes.torch._described import described
from tests.families import flux, pixart, sd3

PROMPT, OTHER, THIRD = "a photo of a small cat on a red sofa", "oil painting", "лиса в снегу, long and wide, at night"
SIZE = {"height": 24, "width": 16}


@dataclass(frozen=True)
class Case:
    reference: TorchReference
    bundle: Bundle
    pipeline: Pipeline

    def compare(self, **arguments: Any) -> np.ndarray:
        """Draw with both, latents within 1e-3 of the largest value and pictures within 1/255; return the latents."""
        given = {**SIZE, "num_inference_steps": 2, "seed": 3, "prompt": PROMPT, **arguments}
        ours = self.pipeline(**given, output_type="numpy")
        theirs = self.reference.sample(**given)
        assert "diffusers" in theirs.implementation and "Pipeline" in theirs.implementation
        assert theirs.images is not None
        assert np.abs(ours.latents - theirs.latents).max() <= 1e-3 * np.abs(theirs.latents).max()
        assert np.abs(np.asarray(ours.images) - theirs.images).max() <= 1 / 255
        return ours.latents


def made(folder: Path, base: Path, **options: int) -> Case:
    """Open a pipeline's folder with options, for our runtime and for diffusers' own class."""
    reference = TorchReference.open(folder, **options)
    bundle = described(reference.source, base)
    runners = {graph.name: TorchRunner(reference, graph.name, graph.component) for graph in reference.source.graphs}
    return Case(reference, bundle, Pipeline(bundle, "onnx", runners=runners))


def differs(one: np.ndarray, other: np.ndarray) -> bool:
    return float(np.abs(one - other).max()) > 1e-3 * float(np.abs(other).max())


def test_stable_diffusion_3(tmp_path: Path) -> None:
    folder = sd3.sd35(tmp_path / "source", layers=(2, 3))
    case = made(folder, tmp_path / "chosen", max_sequence_length=31)
    assert case.bundle.component("conditions").output("encoder_hidden_states").axes[1] == 77 + 31
    same = case.compare()
    assert differs(same, case.compare(prompt_2=OTHER))
    assert differs(same, case.compare(prompt_3=THIRD))
    # diffusers: ``prompt_3 or prompt``
    found = case.pipeline(**SIZE, num_inference_steps=2, seed=3, prompt=PROMPT, prompt_3="", output_type="latent")
    assert not differs(same, found.latents) and differs(same, case.compare(prompt_3=[""]))
    case.compare(prompt=[PROMPT, OTHER], prompt_3=[THIRD, PROMPT], negative_prompt="blurry", guidance_scale=3.0)


def test_clip_skip(tmp_path: Path) -> None:
    """diffusers leaves layers out for the prompt and not for the negative one, which a bundle reads like the prompt;
    so the two are held against each other where nothing is guided.
    """
    folder = sd3.sd35(tmp_path / "source", layers=(2, 3))
    unguided = {"guidance_scale": 1.0}
    skipped = made(folder, tmp_path / "chosen", clip_skip=1).compare(**unguided)
    assert differs(skipped, made(folder, tmp_path / "usual").compare(**unguided))


def test_flux(tmp_path: Path) -> None:
    case = made(flux.make_flux(tmp_path / "source"), tmp_path / "chosen", max_sequence_length=23)
    same = case.compare()
    assert differs(same, case.compare(prompt_2=THIRD))
    fast = {"prompt": OTHER, "num_inference_steps": 1, "seed": 3, "output_type": "latent", **SIZE}
    with pytest.warns(UserWarning, match="true_cfg_scale: 3 has no effect without a negative_prompt"):
        case.pipeline(**fast, true_cfg_scale=3.0)
    with pytest.warns(UserWarning, match="negative_prompt: has no effect .*; use a true_cfg_scale above 1"):
        case.pipeline(**fast, negative_prompt="blurry")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case.pipeline(**fast, negative_prompt="blurry", true_cfg_scale=3.0)
    with pytest.raises(InputError, match="prompt_3: came, but this bundle has no text encoder 3; leave it out"):
        case.pipeline(prompt=PROMPT, prompt_3=OTHER)
    with pytest.raises(InputError, match="prompt_2: 3 came for 2 prompts; give one, or one for each"):
        case.pipeline(prompt=[PROMPT] * 2, prompt_2=[OTHER] * 3)
    with pytest.raises(InputError, match="prompt_2: came without a prompt"):
        case.pipeline(prompt_2=OTHER)


def test_pixart(tmp_path: Path) -> None:
    case = made(pixart.sigma(tmp_path / "source"), tmp_path / "chosen", max_sequence_length=11)
    with pytest.warns(UserWarning, match="reads 11 tokens"):
        case.compare(prompt=PROMPT * 3)


def test_what_cannot_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pixart.sigma(tmp_path / "pixart")
    with pytest.raises(SourceError, match="--clip-skip: cannot be chosen for a PixArtSigmaPipeline; leave it out"):
        open_source(folder, clip_skip=1)
    with pytest.raises(SourceError, match="--max-sequence-length: 0 came, 1 or more tokens were expected"):
        open_source(folder, max_sequence_length=0)
    assert run(["export", str(folder), str(tmp_path / "b"), "--clip-skip", "1", "--quiet"]) == 2
    assert "--clip-skip: cannot be chosen" in capsys.readouterr().err
    source = sd3.sd35(tmp_path / "sd3")
    with pytest.raises(SourceError, match=r"has 1 layers, none for hidden_states\[-3\]"):
        open_source(source, clip_skip=1)
    with pytest.raises(SourceError, match="--clip-skip: -1 came"):
        open_source(source, clip_skip=-1)
    with pytest.raises(SourceError, match="--max-sequence-length: 513 came, 1 … 512 tokens"):
        open_source(source, max_sequence_length=513)


def test_classes_have_no_tokens(tiny_source: Path) -> None:
    with pytest.raises(SourceError, match="--max-sequence-length: cannot be chosen for a DiTPipeline"):
        open_source(tiny_source, max_sequence_length=5)
