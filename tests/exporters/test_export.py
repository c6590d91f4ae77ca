"""A whole export: the plain ONNX files, run by ONNX Runtime alone, against diffusers."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from dit_deploy import Bundle
from dit_deploy.bundle import Axis, Component, TensorSpec
from dit_deploy.errors import BundleError, ExportError, InputError, SourceError
from dit_deploy.exporters import export, proof
from dit_deploy.exporters.families.dit_reference import DiffusersDiT
from dit_deploy.exporters.tracing import free_sizes, trace
from tests.models import make_autoencoder, make_pipeline


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max())


def compare_denoiser(bundle: Path, source: Path, grids: list[tuple[int, int]]) -> None:
    """The issue's limit: 1e-4 at every grid, batch 1 to 5."""
    model = DiTTransformer2DModel.from_pretrained(source / "transformer", low_cpu_mem_usage=False).eval()
    reference, patch = DiffusersDiT(model), model.config.patch_size
    graph = session(bundle / "denoiser" / "model.onnx")
    generator = np.random.default_rng(0)
    for index, (height, width) in enumerate(grids):
        batch = 1 + index % 5
        latents = generator.standard_normal(
            (batch, model.config.in_channels, height * patch, width * patch), np.float32
        )
        timestep = generator.uniform(0, 999, batch).astype(np.float32)
        labels = generator.integers(0, model.config.num_embeds_ada_norm, batch, endpoint=True)
        found = graph.run(None, {"latents": latents, "timestep": timestep, "class_labels": labels})
        with torch.no_grad():
            expected = reference(*map(torch.from_numpy, (latents, timestep, labels)))
        for mine, other in zip(found, expected, strict=True):
            assert other.abs().max() > 0.1
            assert largest_difference(mine, other.numpy()) <= 1e-4, (batch, height, width)


def test_denoiser_equals_diffusers_at_untraced_grids(tiny_bundle: Path, tiny_source: Path) -> None:
    compare_denoiser(
        tiny_bundle, tiny_source, [(1, 1), (1, 2), (2, 1), (4, 4), (5, 3), (16, 16), (40, 24), (1, 40), (3, 5)]
    )


@pytest.mark.slow
def test_denoiser_equals_diffusers_at_every_grid(tiny_bundle: Path, tiny_source: Path) -> None:
    compare_denoiser(tiny_bundle, tiny_source, list(itertools.product(range(1, 41), range(1, 25))))


def test_declared_names_and_axes_are_in_the_file(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    for name, component in bundle.manifest.components.items():
        model = onnx.load(bundle.component_path(name), load_external_data=False)
        onnx.checker.check_model(str(bundle.component_path(name)))
        for values, specs in ((model.graph.input, component.inputs), (model.graph.output, component.outputs)):
            for value, spec in zip(values, specs, strict=True):
                dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
                expected = [
                    axis
                    if isinstance(axis, int)
                    else axis.name
                    if axis.multiple == 1
                    else f"{axis.multiple}*{axis.name}"
                    for axis in spec.axes
                ]
                assert (value.name, dims) == (spec.name, expected)


@pytest.mark.parametrize("component", ["denoiser", "vae_encoder", "vae_decoder"])
def test_shapes_are_read_by_nothing_but_shapes(tiny_bundle: Path, component: str) -> None:
    """ONNX Runtime computes shapes on the host, and captures no CUDA graph where the GPU reads a number from there."""
    #: operator → inputs that its CUDA kernel reads on the host
    host_inputs = {
        "Expand": {1}, "ConstantOfShape": {0}, "Pad": {1}, "Range": {0, 1, 2}, "Reshape": {1}, "Resize": {1, 2, 3},
        "Slice": {1, 2, 3, 4}, "Split": {1}, "Squeeze": {1}, "Tile": {1}, "Unsqueeze": {1},
    }  # fmt: skip
    makes = {"ConstantOfShape", "Expand", "Range", "Tile"}
    graph = onnx.load(tiny_bundle / component / "model.onnx", load_external_data=False).graph
    constant, host = {one.name for one in graph.initializer} | {""}, set[str]()
    for node in graph.node:
        free = [name for name in node.input if name not in constant]
        if node.op_type == "Shape" or (free and node.op_type not in makes and host.issuperset(free)):
            host.update(node.output)
        elif not free:
            constant.update(node.output)
        else:
            read = {place for place, name in enumerate(node.input) if name in host}
            assert read <= host_inputs.get(node.op_type, set()), f"{node.name} reads a shape as a number"
    assert host


def test_weights_keep_their_names_and_the_file_holds_no_path(tiny_bundle: Path) -> None:
    model = onnx.load(tiny_bundle / "denoiser" / "model.onnx", load_external_data=False)
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"blocks.1.to_q.weight", "blocks.0.mlp_out.weight", "final_linear.weight", "patch_embed.weight"} <= names
    assert str(Path(__file__).parents[2]).encode() not in (tiny_bundle / "denoiser" / "model.onnx").read_bytes()
    assert "Attention" in {node.op_type for node in model.graph.node}


@pytest.mark.slow
def test_equal_embedders_are_stored_once(tiny_bundle: Path, tmp_path: Path) -> None:
    separate = export(make_pipeline(tmp_path / "source", shared_embedder=False), tmp_path / "bundle").path
    count = {
        path: sum(
            "class_table" in tensor.name for tensor in onnx.load(path / "denoiser" / "model.onnx").graph.initializer
        )
        for path in (tiny_bundle, separate)
    }
    assert (count[tiny_bundle], count[separate]) == (1, 2)
    compare_denoiser(separate, tmp_path / "source", [(2, 3), (4, 4)])


@pytest.mark.parametrize("kind", ["kl", pytest.param("tiny", marks=pytest.mark.slow)])
@torch.no_grad()
def test_autoencoder_equals_diffusers(tiny_bundle: Path, tiny_source: Path, tmp_path: Path, kind: str) -> None:
    if kind == "kl":
        bundle, vae = tiny_bundle, AutoencoderKL.from_pretrained(tiny_source / "vae", low_cpu_mem_usage=False)
    else:
        source = make_pipeline(tmp_path / "source", vae="tiny")
        bundle = export(source, tmp_path / "bundle").path
        vae = AutoencoderTiny.from_pretrained(source / "vae", low_cpu_mem_usage=False)
    scale = vae.config.scaling_factor
    encoder, decoder = session(bundle / "vae_encoder" / "model.onnx"), session(bundle / "vae_decoder" / "model.onnx")
    for batch, height, width in [(1, 1, 1), (2, 6, 9), (3, 16, 16)]:
        torch.manual_seed(height)
        images = torch.rand(batch, 3, height * 4, width * 4)
        found = encoder.run(None, {"images": images.numpy()})
        encoded = vae.encode(images * 2 - 1)
        if kind == "kl":
            expected = [encoded.latent_dist.mean * scale, encoded.latent_dist.std * scale]
        else:
            expected = [encoded.latents * scale]
        assert len(found) == len(expected)
        for mine, other in zip(found, expected, strict=True):
            assert largest_difference(mine, other.numpy()) <= 1e-4 * float(other.abs().max())
        latents = torch.randn(batch, 6, height, width)
        (pictures,) = decoder.run(None, {"latents": latents.numpy()})
        decoded = vae.decode(latents / scale).sample / 2 + 0.5
        assert decoded.clamp(0, 1).std() > 0.01
        assert largest_difference(pictures.clip(0, 1), decoded.clamp(0, 1).numpy()) <= 1e-4
        # beyond pictures too, where a runtime blends
        assert largest_difference(pictures, decoded.numpy()) <= 1e-4 * float(decoded.abs().max())


class Baked(nn.Module):
    """Computes a size in Python, as so many networks do."""

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
        side = int(latents.shape[2])
        return (latents.reshape(-1, 4, side, side) * 2,)


def component() -> Component:
    spec = (Axis(name="batch"), 4, Axis(name="height"), Axis(name="width"))
    return Component(
        path="denoiser/model.onnx",
        inputs=(TensorSpec(name="latents", dtype="float32", axes=spec),),
        outputs=(TensorSpec(name="prediction", dtype="float32", axes=spec),),
    )


def test_a_baked_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"denoiser/model\.onnx"):
        trace(Baked(), component(), tmp_path)


def test_a_graph_that_differs_from_its_source_is_refused(tmp_path: Path) -> None:
    class Double(nn.Module):
        def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
            return (latents * 2,)

    class NotQuite(nn.Module):
        def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
            return (latents * 2.001,)

    declared = component()
    trace(Double(), declared, tmp_path)
    path = tmp_path / declared.path
    assert proof.check(path, declared, proof.expect(Double(), declared, {})) <= 1e-6
    with pytest.raises(
        ExportError, match=r"prediction differs from the source by 0\.0005 .* at batch 4, height 4, width 4"
    ):
        proof.check(path, declared, proof.expect(NotQuite(), declared, {}))


def test_a_source_of_zeros_proves_nothing() -> None:
    class Zeros(nn.Module):
        def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
            return (latents * 0,)

    with pytest.raises(ExportError, match="the source's prediction is all zeros"):
        proof.expect(Zeros(), component(), {})


def test_proof_sizes_are_untraced_and_one_is_oblong(tiny_bundle: Path) -> None:
    declared = Bundle.open(tiny_bundle).component("denoiser")
    sizes = proof.untraced_sizes(declared, {"patch_height": 4, "patch_width": 4})
    assert len(sizes) == 3
    assert any(one["patch_height"] != one["patch_width"] for one in sizes)
    assert all(set(one) == set(free_sizes(declared)) for one in sizes)


def test_vae_of_another_width_is_refused(tmp_path: Path) -> None:
    source = make_pipeline(tmp_path / "source")
    make_autoencoder("kl", latent_channels=4).save_pretrained(source / "vae")
    with pytest.raises(SourceError, match="has 4 latent channels, the denoiser 6"):
        export(source, tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_vae_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    source = make_pipeline(tmp_path / "source")
    weights = source / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["decoder.conv_in.weight"]
    save_file(tensors, weights)
    with pytest.raises(SourceError, match=r"lacks decoder\.conv_in\.weight, and 0 more tensors"):
        export(source, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"prediction_type": "original_sample"},
            "prediction_type 'original_sample' of the scheduler config is none of",
        ),
        ({"thresholding": True}, "thresholding"),
        ({"_class_name": "KarrasVeScheduler"}, "KarrasVeScheduler"),
    ],
)
def test_a_scheduler_that_is_not_supported_is_said_before_anything_is_traced(
    tmp_path: Path, option: dict[str, object], message: str
) -> None:
    source = make_pipeline(tmp_path / "source")
    path = source / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | option))
    seen: list[str] = []
    with pytest.raises((InputError, SourceError), match=message):
        export(source, tmp_path / "bundle", progress=seen.append)
    assert not any("tracing" in line for line in seen)


def test_a_folder_that_is_no_bundle_is_left_alone(tiny_source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(BundleError, match="mine"):
            export(tiny_source, tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_kill_during_export_leaves_nothing_that_opens(tiny_source: Path, tmp_path: Path) -> None:
    code = f"from dit_deploy.exporters import export; export({str(tiny_source)!r}, {str(tmp_path / 'bundle')!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".*/*/model.onnx")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".*/*/model.onnx")), "the kill came too early or too late to prove anything"
    assert not (tmp_path / "bundle").exists()
    for left in tmp_path.iterdir():
        with pytest.raises(BundleError):
            Bundle.open(left)
