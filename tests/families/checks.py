"""What every family is held to: the classes of diffusers as they are. Each family brings its own cases."""

from __future__ import annotations

import importlib.util
import inspect
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle.activations import read_graph
from dit_deploy.bundle.engine import EngineRecord
from dit_deploy.errors import InputError, SourceError
from dit_deploy.exporters import export
from dit_deploy.exporters.builders import CalibrationOptions, build_engine
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.sources import open_source
from dit_deploy.exporters.tracing import call, example_inputs, free_sizes, traced_sizes
from dit_deploy.runtimes.pipeline import Output
from dit_deploy.runtimes.prompts import PromptReader

#: Largest differences: of latents, embeddings and outputs of graphs relative to the largest value, of pictures and
#: frames in 0 … 1.
LATENTS, PICTURES, EMBEDDINGS, GRAPH = 1e-3, 1 / 255, 1e-4, 1e-4

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed: pip install 'dit-deploy[tensorrt-rtx]'",
)


@dataclass(frozen=True)
class Case:
    """A pipeline of diffusers as it lies in a folder, the bundle that was made of it, and who runs either."""

    folder: Path
    bundle: Bundle
    ours: Pipeline
    theirs: Any


def exported(
    folder: Path,
    kind: type[Any],
    out: Path,
    source: Source | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Case:
    """Export a pipeline's folder, or what was opened of it, as ``out``, and open it as a ``kind`` of diffusers.

    ``options`` are those of ``from_pretrained``.
    """
    bundle = export(source or folder, out, progress=progress)
    assert_sizes_told(bundle)
    theirs = quiet(kind.from_pretrained(folder, low_cpu_mem_usage=False, **options))
    return Case(folder, bundle, Pipeline(bundle, "onnx", threads=1), theirs)


def assert_sizes_told(bundle: Bundle) -> None:
    """Assert that the free sizes tell the shape of each value of the VAE's decoder: a budget of memory needs them."""
    if "vae_decoder" not in bundle.manifest.components:
        return
    sizes = dict.fromkeys(free_sizes(bundle.component("vae_decoder")), 2)
    for value, noted in read_graph(bundle.component_path("vae_decoder")).values.items():
        assert noted.shape(sizes) is not None, f"vae_decoder: {value} {noted.axes}"


def quiet(pipeline: Any) -> Any:
    """Return a pipeline of diffusers that shows no bars."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def noise_picture(height: int, width: int, seed: int = 2) -> Image.Image:
    """Return a picture each of whose pixels is random."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def difference(found: np.ndarray, expected: np.ndarray, *, constant: bool = False) -> float:
    """Return the largest difference, relative to the largest value that is expected.

    Shapes must be equal, and what is expected must vary, or nothing is compared; ``constant``: it need not, if it is
    not all zeros.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert expected.any() if constant else expected.std() > 0
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def assert_near(
    found: np.ndarray, expected: np.ndarray, limit: float, what: str = "", *, constant: bool = False
) -> None:
    apart = difference(found, expected, constant=constant)
    assert apart <= limit, f"{what}: {apart:.2e} of the largest value apart, {limit:.0e} is allowed"


def draw(pipeline: Any, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    """Run a pipeline of diffusers once: its latents after the last step, and its pictures or frames in 0 … 1.

    The latents are what it returns for ``output_type="latent"``.
    """
    last: list[torch.Tensor] = []

    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        last[:] = [tensors["latents"]]
        return {}

    watch: dict[str, Any] = {"callback_on_step_end": keep}
    if "callback_on_step_end" not in inspect.signature(type(pipeline).__call__).parameters:  # PixArt's
        watch = {"callback": lambda step, timestep, latents: keep(pipeline, step, timestep, {"latents": latents})}
    output = pipeline(output_type="np", **watch, **arguments)
    return last[0].numpy(), np.asarray(output.frames if hasattr(output, "frames") else output.images)


def assert_drawn(ours: Output, latents: np.ndarray, pictures: np.ndarray, contrast: float = 0.05) -> None:
    """Hold what a run of ours drew, as arrays, against diffusers' latents and its pictures or frames in 0 … 1.

    Args:
        contrast: the pictures' standard deviation is larger, or any would be near any.
    """
    assert_near(ours.latents, latents, LATENTS, "latents")
    found = np.asarray(ours.frames if pictures.ndim == 5 else ours.images)
    assert found.shape == pictures.shape and pictures.std() > contrast
    apart = np.abs(found - pictures).max()
    assert apart <= PICTURES, f"pictures are {255 * apart:.2f} of 255 levels apart"


def graph_of(source: Path | Source, name: str) -> Graph:
    opened = source if isinstance(source, Source) else open_source(source)
    return next(graph for graph in opened.graphs if graph.name == name)


def run_graph(file: Path, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a graph's file by ONNX Runtime alone; return all outputs."""
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, dict(feeds))


def check_graph(
    file: Path,
    graph: Graph,
    axes: Sequence[str],
    sizes: Iterable[Sequence[int]],
    *,
    seed: int | None = None,
    spread: float = 0.0,
    constant: bool = False,
) -> None:
    """Hold a graph's file, run by ONNX Runtime alone at sizes that it was not traced at, against diffusers' network.

    Args:
        sizes: numbers for the names in ``axes``; those that the graph has not are passed over.
        seed: of the inputs at the first sizes, one more at each of the next; by default the sum of the sizes.
        spread: standard deviations of what is expected are not smaller.
        constant: outputs may be the same everywhere, such as a mask.
    """
    assert graph.reference is not None
    session, reference = ort.InferenceSession(file, providers=["CPUExecutionProvider"]), graph.reference()
    for number, values in enumerate(sizes):
        free, traced = dict(zip(axes, values, strict=True)), traced_sizes(graph.component)
        assert {name: free.get(name, size) for name, size in traced.items()} != traced
        feeds = example_inputs(graph.component, free, sum(values) if seed is None else seed + number, graph.feeds)
        made = zip(graph.component.outputs, session.run(None, feeds), call(reference, feeds), strict=True)
        for spec, found, expected in made:
            assert expected.std() >= spread
            assert_near(found, expected, GRAPH, f"{graph.name}, {spec.name} at {free}", constant=constant)


def check_embeddings(case: Case, texts: Sequence[str], **expected: torch.Tensor) -> None:
    """Hold what the denoiser is given of texts, by its inputs' names, against what the pipeline encodes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are too long
        found = PromptReader(case.bundle, case.ours.pool)(list(texts))
    for name, wanted in expected.items():
        if wanted.is_floating_point():
            assert_near(found[name], wanted.detach().numpy(), EMBEDDINGS, name)
        else:
            assert np.array_equal(found[name], wanted.numpy()), name


def assert_real_float32(bundle: Bundle, *names: str) -> None:
    """Assert that nothing in these components is of double precision or complex."""
    refused = {onnx.TensorProto.DOUBLE, onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}
    for name in names:
        model = onnx.load(bundle.component_path(name), load_external_data=False)
        assert not {value.type.tensor_type.elem_type for value in model.graph.value_info} & refused, name


def altered(folder: Path, copy: Path, file: str, **fields: Any) -> Path:
    """Return a copy of a pipeline's folder with other fields in one of its JSON files."""
    shutil.copytree(folder, copy)
    path = copy / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return copy


def assert_refused(folder: Path, message: str) -> None:
    """Assert that a folder cannot be opened, and that one line says why."""
    with pytest.raises(SourceError, match=message) as caught:
        open_source(folder)
    assert "\n" not in str(caught.value)


def check_missing_part(folder: Path, copy: Path, part: str) -> None:
    """Assert that a pipeline's folder without one of its parts is refused, and that the part is named."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / part)
    assert_refused(copy, rf"lacks the folder {part}, which")


def assert_bad_input(pipeline: Pipeline, message: str, **arguments: Any) -> None:
    """Assert that a call is refused, and that one line says why."""
    with pytest.raises(InputError, match=message) as caught:
        pipeline(**{"num_inference_steps": 1, **arguments})
    assert "\n" not in str(caught.value)


def rtx_engine(bundle: Bundle, precision: str, **options: Any) -> EngineRecord:
    """Build a TensorRT-RTX engine without a GPU and return its record.

    Its heavy layers have the precision that was asked for, or the build fails; its pictures are near the plain graphs'.
    """
    record = build_engine(
        bundle,
        backend="tensorrt-rtx",
        precision=precision,
        compute_capabilities=("8.9",),
        calibration=CalibrationOptions(samples=4, evaluations=2, steps=4),
        threads=1,
        **options,
    ).record
    assert set(record.components) >= set(bundle.manifest.components)
    assert record.parity is not None and record.parity["passed"]
    return record
