"""Which checkpoints open, and what is said of those that don't."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dit_deploy.errors import SourceError
from dit_deploy.exporters import open_source
from dit_deploy.exporters.families import dit_weights
from dit_deploy.exporters.families.dit_source import open_checkpoint
from tests.models import make_original, make_transformer


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    model = make_transformer(sample_size=8, patch_size=2, heads=6, head_dim=64, layers=12, in_channels=4)
    return make_original(model)


def test_pipeline_folder(tiny_source: Path) -> None:
    source = open_checkpoint(tiny_source)
    assert source.kind == "diffusers_pipeline"
    assert source.labels["3"] == "kind 3"
    assert source.scheduler_config["_class_name"] == "DDIMScheduler"
    assert source.guidance_channels is None
    assert len(source.sha256()) == 64


def test_bare_transformer_takes_the_vae_beside_it(tiny_source: Path) -> None:
    source = open_checkpoint(tiny_source / "transformer")
    assert source.kind == "diffusers_transformer"
    assert source.vae_folder == tiny_source / "vae"


def test_sharded_folder_has_the_same_weights(tiny_source: Path, tmp_path: Path) -> None:
    model = make_transformer()
    model.save_pretrained(tmp_path / "transformer", max_shard_size="200KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    whole, sharded = open_checkpoint(tiny_source), open_checkpoint(tmp_path / "transformer")
    assert whole.config == sharded.config
    theirs = sharded.network().state_dict()
    for name, tensor in whole.network().state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("form", ["bare.pt", "ema.pt", "bare.safetensors"])
def test_original_checkpoint_files(original: dict[str, torch.Tensor], tmp_path: Path, form: str) -> None:
    path = tmp_path / form
    if form.endswith(".safetensors"):
        save_file(original, path)
    else:
        # facebookresearch/DiT's train.py saves the options of the run beside the weights.
        training = {"ema": original, "args": argparse.Namespace(model="DiT-S/2", epochs=1400)}
        torch.save(training if form.startswith("ema") else original, path)
    source = open_checkpoint(path, arch="DiT-S/2")
    assert source.kind == "original_dit"
    assert (source.guidance_channels, source.num_inference_steps) == (3, 250)
    assert source.scheduler_config["variance_type"] == "learned_range"
    expected = dit_weights.from_original(original)[1]
    for name, tensor in source.network().state_dict().items():
        assert torch.equal(tensor, expected[name]), name


class Bomb:
    """A pickle that would make a file if it were opened carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_to_run_code_is_not_opened(tmp_path: Path) -> None:
    torch.save({"weights": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.pt")
    with pytest.raises(SourceError, match="wants to run code while it is opened, and was not opened"):
        open_checkpoint(tmp_path / "bomb.pt")
    assert not (tmp_path / "exploded").exists()


def test_what_is_no_checkpoint_is_named(tmp_path: Path, tiny_source: Path) -> None:
    with pytest.raises(SourceError, match="does not exist; give a diffusers folder or"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(SourceError, match=r"has neither model_index\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(SourceError, match="is no whole safetensors file"):
        open_checkpoint(tmp_path / "broken.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(
        SourceError, match=r"broken\.pt cannot be opened as a PyTorch checkpoint: it is no whole zip file"
    ):
        open_checkpoint(tmp_path / "broken.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(SourceError, match="holds no state_dict"):
        open_checkpoint(tmp_path / "list.pt")
    with pytest.raises(SourceError, match="--arch and --image-size are for checkpoint files"):
        open_checkpoint(tiny_source, arch="DiT-S/2")
    with pytest.raises(SourceError, match=r"--vae .* has no config\.json"):
        open_checkpoint(tiny_source / "transformer", vae=tmp_path)


def test_truncated_weights_are_named(tiny_source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_source, broken)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(SourceError, match="is no whole safetensors file"):
        open_checkpoint(broken)
    weights.unlink()
    with pytest.raises(SourceError, match="holds no safetensors weights"):
        open_checkpoint(broken)


def test_another_pipeline_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(SourceError, match="is a KandinskyPipeline; this version exports DiTPipeline, PixArtAlphaPipel"):
        open_source(tmp_path)


def test_a_shard_outside_the_folder_is_refused(tmp_path: Path) -> None:
    make_transformer().save_pretrained(tmp_path, max_shard_size="200KB")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["proj_out_2.bias"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(SourceError, match="expected a file of the same folder"):
        open_checkpoint(tmp_path)
