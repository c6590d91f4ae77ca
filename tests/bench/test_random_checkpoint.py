"""Random checkpoints: whole, repeatable, in the original's names, and their outputs are neither zero nor huge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dit_deploy.bench.random_checkpoint import checkpoint_shapes, write_random_autoencoder, write_random_checkpoint
from dit_deploy.errors import InputError
from dit_deploy.exporters.families import dit_weights
from dit_deploy.exporters.weights import checkpoint_tensors


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("random"), "DiT-S/8", image_size=128, num_classes=7)


def test_the_exporter_reads_it_and_it_predicts_something(checkpoint: Path) -> None:
    tensors = checkpoint_tensors(checkpoint)
    assert all(bool(tensor.any()) for tensor in tensors.values())
    config, weights = dit_weights.from_original(tensors, "DiT-S/8", 128)
    assert (config.num_classes, config.sample_size, config.learned_variance) == (7, 16, True)
    network = dit_weights.load(config, weights)
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = network(torch.randn(2, 4, 16, 16), torch.tensor([10.0, 900.0]), torch.tensor([1, 7]))
    for output in outputs:
        assert 0.1 < float(output.std()) < 10


def test_the_same_seed_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    again = write_random_checkpoint(tmp_path, "DiT-S/8", image_size=128, num_classes=7)
    assert again.name == "DiT-S-8.safetensors"
    assert again.read_bytes() == checkpoint.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["DiT-S-8.safetensors"]


@pytest.mark.parametrize(("arch", "millions"), [("DiT-S/2", 33), ("DiT-B/2", 131), ("DiT-XL/2", 675)])
def test_sizes_are_the_paper_s(arch: str, millions: int) -> None:
    """Table 4 of Peebles & Xie (2023), where the position table does not count."""
    shapes = checkpoint_shapes(arch)
    count = sum(int(np.prod(shape)) for name, shape in shapes.items() if name != "pos_embed")
    assert round(count / 1e6) == pytest.approx(millions, abs=1)


@pytest.mark.parametrize(
    ("arch", "size", "classes", "message"),
    [
        ("DiT-M/2", 256, 1000, "'DiT-M/2' came, expected one of DiT-S/2"),
        ("DiT-B/8", 96, 1000, "96 came, expected a multiple of 64 pixels"),
        ("DiT-B/8", 0, 1000, "0 came"),
        ("DiT-B/8", 64, 0, "number of classes: 0 came"),
    ],
)
def test_bad_input(tmp_path: Path, arch: str, size: int, classes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_random_checkpoint(tmp_path, arch, size, classes)
    assert list(tmp_path.iterdir()) == []


def test_the_autoencoder_fits(tmp_path: Path) -> None:
    from dit_deploy.exporters.autoencoders import load_autoencoder, spatial_compression

    vae = load_autoencoder(write_random_autoencoder(tmp_path / "vae"))
    assert vae.config.latent_channels == 4
    assert spatial_compression(vae) == 8
