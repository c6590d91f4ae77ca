"""Wan's autoencoders at once against diffusers' loops over chunks of frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_wan
from tests.families.wan import CHANNELS, make_vae

#: Largest difference relative to the largest value: the order in which a convolution adds, no more.
ROUNDING = 2e-6


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "residual"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    make_vae(residual=request.param).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_halves_are_diffusers_loops(folder: Path, frames: int) -> None:
    vae, config = autoencoder_wan.load(folder), autoencoder_wan.read(folder, CHANNELS)
    mean, std = (torch.tensor(config[f"latents_{name}"])[:, None, None, None] for name in ("mean", "std"))
    side = config["scale_factor_spatial"]
    generator = torch.Generator().manual_seed(frames)
    video = torch.rand(2, 3, 4 * frames - 3, 3 * side, 5 * side, generator=generator)
    latents = torch.randn(2, CHANNELS, frames, 5, 3, generator=generator)
    with torch.no_grad():
        expected = (vae.encode(video * 2 - 1).latent_dist.mode() - mean) / std
        decoded = vae.decode(latents * std + mean).sample / 2 + 0.5
        (found,) = autoencoder_wan.Encoder(autoencoder_wan.load(folder))(video)
        (images,) = autoencoder_wan.Decoder(autoencoder_wan.load(folder))(latents)
    assert images.shape == (2, 3, 4 * frames - 3, 5 * side, 3 * side)
    close(found, expected)
    close(images.clamp(0, 1), decoded)


def test_a_frame_does_not_see_later_ones(folder: Path) -> None:
    decoder = autoencoder_wan.Decoder(autoencoder_wan.load(folder))
    latents = torch.randn(1, CHANNELS, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (whole,), (start,) = decoder(latents), decoder(latents[:, :, :2])
    close(whole[:, :, :5], start)
    assert (whole[:, :, 5:] - whole[:, :, 4:5]).abs().max() > 0.01


def test_no_loop_is_left(folder: Path) -> None:
    """As many convolutions run on a video as on a picture."""
    calls: dict[int, int] = {}
    for frames in (1, 5):
        decoder = autoencoder_wan.Decoder(autoencoder_wan.load(folder))
        counted = [module for module in decoder.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
        calls[frames] = 0

        def count(*_: object, frames: int = frames) -> None:
            calls[frames] += 1

        for module in counted:
            module.register_forward_hook(count)
        with torch.no_grad():
            decoder(torch.randn(1, CHANNELS, frames, 2, 2))
        assert calls[frames] == len(counted)
    assert calls[1] == calls[5]


def test_patches_without_residuals(tmp_path: Path) -> None:
    """The two marks of Wan 2.2's autoencoder do not need each other."""
    vae = make_vae(patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=8)
    vae.save_pretrained(tmp_path)
    config = autoencoder_wan.read(tmp_path, CHANNELS)
    assert autoencoder_wan.images_tensor(config).axes[1] == 3 and not config["is_residual"]
    latents = torch.randn(1, CHANNELS, 3, 2, 3)
    mean, std = (torch.tensor(config[f"latents_{name}"])[:, None, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        (found,) = autoencoder_wan.Decoder(autoencoder_wan.load(tmp_path))(latents)
        close(found.clamp(0, 1), vae.decode(latents * std + mean).sample / 2 + 0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "AutoencoderKLMochi"}, "holds a AutoencoderKLMochi; expected AutoencoderKLWan"),
        ({"z_dim": 7}, "has 7 latent channels, the denoiser 5"),
        ({"latents_mean": [0.0, 1.0]}, "latents_mean has 2 numbers for 5 channels"),
        ({"scale_factor_temporal": 8}, "scale_factor_temporal is 8, its layers make 4"),
        (
            {"temperal_downsample": [True, False], "scale_factor_temporal": 2},
            "compresses time by 2; diffusers reads 4 frames at a time",
        ),
    ],
)
def test_another_autoencoder_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    make_vae().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(SourceError, match=message) as caught:
        autoencoder_wan.read(tmp_path, CHANNELS)
    assert "\n" not in str(caught.value)


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= ROUNDING * expected.abs().max()
