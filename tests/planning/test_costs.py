"""Operations against torch's own counter, memory against what ONNX Runtime takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dit_deploy import Bundle
from dit_deploy.exporters import autoencoder_wan
from dit_deploy.exporters.autoencoders import Decoder, decoder_component, load_autoencoder
from dit_deploy.exporters.families.dit_source import open_checkpoint
from dit_deploy.exporters.passes.attention import lower_attention
from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
from dit_deploy.exporters.tracing import call, example_inputs, trace
from dit_deploy.planning import graph_costs
from tests.families.wan import CHANNELS, make_vae
from tests.models import make_autoencoder

SIZES = [(1, 4, 4), (2, 7, 3), (3, 8, 16)]


@pytest.mark.parametrize(("batch", "rows", "columns"), SIZES)
@pytest.mark.parametrize("name", ["denoiser", "vae_decoder"])
def test_operations_are_those_that_torch_counts(
    tiny_bundle: Path, tiny_source: Path, name: str, batch: int, rows: int, columns: int
) -> None:
    bundle = Bundle.open(tiny_bundle)
    component = bundle.component(name)
    sizes = {"batch": batch}
    for axis, size in (("height", rows), ("width", columns)):
        sizes |= {f"patch_{axis}": size, f"latent_{axis}": 4 * size}
    if name == "denoiser":
        network = open_checkpoint(tiny_source).network()
    else:
        network = Decoder(load_autoencoder(tiny_source / "vae"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(network, example_inputs(component, sizes))
    costs = graph_costs(bundle.component_path(name), component, sizes)
    # torch does not count its fused attention on a CPU: two products of tokens × tokens × width a layer
    tokens, width, layers = (rows * columns, 72, 2) if name == "denoiser" else (16 * rows * columns, 24, 1)
    assert costs.attention == batch * layers * 4 * tokens**2 * width
    assert costs.operations - costs.attention == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_weights_are_those_of_the_checkpoint(tiny_bundle: Path, tiny_source: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    sizes = {"batch": 1, "patch_height": 4, "patch_width": 4}
    costs = graph_costs(bundle.component_path("denoiser"), bundle.component("denoiser"), sizes)
    parameters = sum(parameter.numel() for parameter in open_checkpoint(tiny_source).network().parameters())
    assert costs.weights == pytest.approx(parameters, rel=0.02)  # and a few constants


#: The kernel's own record of the highest point, set back first: the process begins with its parent's.
_MEASURE = """
import json, re, sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options)
small, large = ({"latents": np.zeros(shape, np.float32)} for shape in json.loads(sys.argv[2]))
status = lambda name: int(re.search(rf"{name}:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
session.run(None, small)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
session.run(None, large)
print(status("VmHWM") - before)
"""


def measured(path: Path, small: tuple[int, ...], large: tuple[int, ...]) -> float:
    """Return the bytes that ONNX Runtime takes for latents of the shape ``large``, after a run with ``small``."""
    words = [sys.executable, "-c", _MEASURE, str(path), json.dumps([small, large])]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_memory_is_near_what_onnx_runtime_takes(tmp_path: Path) -> None:
    """Of convolutions alone: on a CPU the plain graph's attention makes all scores, which planning takes for fused.

    ONNX Runtime's arena rounds up, and a convolution lays its input out anew: between the least and four times that.
    """
    vae = make_autoencoder()
    vae.decoder.mid_block.attentions = torch.nn.ModuleList([None])
    component = decoder_component(vae, 4)
    trace(Decoder(vae), component, tmp_path)
    path = tmp_path / component.path
    ratios = []
    for side in (256, 384):  # hundreds of megabytes, where what ONNX Runtime holds besides counts little
        costs = graph_costs(path, component, {"batch": 1, "latent_height": side, "latent_width": side})
        ratios.append(measured(path, (1, 6, 4, 4), (1, 6, side, side)) / costs.activations)
    print(f"measured / planned: {np.round(ratios, 2)}")
    assert all(1 <= ratio <= 4 for ratio in ratios)


@pytest.mark.slow
def test_memory_of_a_video_is_near_what_onnx_runtime_takes(tmp_path: Path) -> None:
    """Of Wan's causal decoder, with attention that makes no scores; the same bounds."""
    make_vae().save_pretrained(tmp_path / "vae")
    _, decoder = autoencoder_wan.graphs(tmp_path / "vae", autoencoder_wan.read(tmp_path / "vae", CHANNELS))
    trace(decoder.build(), decoder.component, tmp_path)
    model = load_graph(tmp_path / decoder.component.path)
    lower_attention(model, "microsoft")
    save_graph(model, tmp_path / "fused.onnx")
    ratios = []
    for shape in ((1, CHANNELS, 5, 48, 48), (1, CHANNELS, 9, 64, 48)):
        sizes = dict(zip(("latent_frames", "latent_height", "latent_width"), shape[2:], strict=True))
        costs = graph_costs(tmp_path / "fused.onnx", decoder.component, {"batch": 1, **sizes})
        ratios.append(measured(tmp_path / "fused.onnx", (1, CHANNELS, 2, 2, 2), shape) / costs.activations)
    print(f"measured / planned: {np.round(ratios, 2)}")
    assert all(1 <= ratio <= 4 for ratio in ratios)
