"""Plans: formulas against diffusers' own classes, devices, what fits, the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel, FluxTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel

from dit_deploy import Bundle
from dit_deploy.cli import run
from dit_deploy.errors import InputError
from dit_deploy.planning import DEVICES, Device, architecture_costs, device_of, plan_architecture, plan_bundle

PUBLISHED = {
    "DiT-XL/2": lambda: DiTTransformer2DModel(
        num_attention_heads=16, attention_head_dim=72, num_layers=28, out_channels=8, sample_size=32
    ),
    "PixArt-XL-2": lambda: PixArtTransformer2DModel(sample_size=128),
    "SD3-medium": lambda: SD3Transformer2DModel(
        num_layers=24, num_attention_heads=24, attention_head_dim=64, caption_projection_dim=1536
    ),
    "SD3.5-large": lambda: SD3Transformer2DModel(
        num_layers=38, num_attention_heads=38, attention_head_dim=64, caption_projection_dim=2432
    ),
    "FLUX.1": lambda: FluxTransformer2DModel(guidance_embeds=True),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_of_published_models_are_those_of_diffusers(name: str) -> None:
    with torch.device("meta"):
        model = PUBLISHED[name]()
    blocks = [
        parameter.numel()
        for key, parameter in model.named_parameters()
        # diffusers' DiT holds a copy of the embedders in each block
        if "blocks" in key and ".emb." not in key
    ]
    modulation = sum(p.numel() for key, p in model.named_parameters() if key.startswith("adaln_single.linear"))
    assert architecture_costs(name, 1, 16, 2).weights == pytest.approx(sum(blocks) + modulation, rel=0.01)


def test_dit_xl_is_what_the_paper_says() -> None:
    # table 4 of Peebles & Xie: 118.6 Gflops, counting a multiplication with its addition as one
    costs = architecture_costs("DiT-XL/2", 1, 256, 2)
    assert costs.operations / 2 == pytest.approx(118.6e9, rel=0.03)


def test_attention_grows_with_the_square() -> None:
    small, large = (architecture_costs("DiT-XL/2", 1, tokens, 2) for tokens in (256, 1024))
    assert large.attention == pytest.approx(16 * small.attention)


def test_a_bundle_is_planned_component_by_component(tiny_bundle: Path) -> None:
    device = Device("small", {"fp32": 1.0}, memory=1e9, bandwidth=1e9)
    plan = plan_bundle(Bundle.open(tiny_bundle), steps=10, precision="fp32", device=device)
    assert [one.name for one in plan.components] == ["denoiser", "vae_decoder"]
    denoiser = plan.components[0]
    assert plan.tokens == 16
    assert denoiser.calls == 10
    assert denoiser.seconds == 10 * max(denoiser.operations / 1e12, (denoiser.weights + denoiser.activations) / 1e9)
    assert plan.fits is True
    halves = plan_bundle(Bundle.open(tiny_bundle), guided=False, precision="fp32").components[0]
    assert denoiser.operations == pytest.approx(2 * halves.operations)


def test_a_picture_that_does_not_fit_gets_pieces(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    whole = plan_bundle(bundle, height=512, width=512, precision="fp32")
    weights = sum(one.weights for one in whole.components)
    decoder = whole.components[-1].activations
    denoiser = whole.components[0].activations
    assert decoder > 4 * denoiser
    memory = weights + decoder / 4
    plan = plan_bundle(bundle, height=512, width=512, precision="fp32", device=Device("tight", memory=memory))
    assert plan.fits
    assert plan.vae_tile in (64, 128, 256)
    nothing = plan_bundle(bundle, height=512, width=512, precision="fp32", device=Device("none", memory=weights))
    assert nothing.fits is False
    assert nothing.vae_tile is None


def test_flux_on_a_4090_needs_fewer_bits() -> None:
    wide = plan_architecture("FLUX.1", precision="fp32", device=DEVICES["RTX-4090"])
    narrow = plan_architecture("FLUX.1", precision="int8", device=DEVICES["RTX-4090"])
    assert (wide.tokens, wide.fits, narrow.fits) == (4096, False, True)
    assert wide.seconds > narrow.seconds > 0


def test_sizes_between_of_a_published_model_are_rounded_up_and_said() -> None:
    plan = plan_architecture("DiT-XL/2", height=100)
    assert plan.tokens == 7 * 16
    assert plan.notes[0].startswith("height: 100 pixels are 6.25 rows of patches of 16; planned are 7 rows")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan_architecture("GPT-2"), "architecture: 'GPT-2' is not known; it is one of DiT-S/2"),
        (lambda: plan_architecture("DiT-XL/2", height=0), "height: 0 came, an integer of 1 or more was expected"),
        (lambda: plan_architecture("DiT-XL/2", precision="fp4"), "precision: 'fp4' came, expected one of fp32"),
        (lambda: plan_architecture("DiT-XL/2", steps=0), "steps: 0 came"),
        (lambda: device_of("B300"), "device: 'B300' is not known; give one of A100-80GB"),
        (lambda: device_of(None, memory=0), "memory: 0 came, a number above 0"),
        (lambda: device_of("H100", memory=3), "memory: came beside the device 'H100', which has its own"),
    ],
)
def test_bad_input_is_one_line(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]


def test_the_command_prints_a_table_or_json(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "DiT-XL/2", "--device", "h100"]) == 0
    shown = capsys.readouterr().out
    assert "256 tokens" in shown
    assert "fits H100" in shown
    assert run(["plan", str(tiny_bundle), "--json", "--tflops", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["components"][0]["name"] == "denoiser"
    assert document["seconds"] > 0
    assert run(["plan", "Wan2.2-A14B", "--memory", "24", "--window", "4096", "--steps", "8", "--frames", "80"]) == 0
    shown = capsys.readouterr().out
    assert "frames: 80 is not 4·k + 1, which this model takes; the nearest are 77 or 81, planned are 81" in shown
    assert "attention to all patches instead: " in shown
    assert "the usual 40 steps instead: " in shown
    assert "24 GB each, weights sharded: 4 GPUs; with the tokens split among them too: 3 GPUs" in shown
    assert run(["plan", "nowhere"]) == 2
    assert "is no bundle and no published model" in capsys.readouterr().err
