"""What the GPU benchmark compares: the same run, 50 steps with guidance, by PyTorch and by this package's runners."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import Bundle, Component, Manifest
from dit_deploy.bundle.manifest import Prediction
from dit_deploy.bundle.solver import solver_component
from dit_deploy.exporters.families import dit
from dit_deploy.exporters.solver_graph import write_solver
from dit_deploy.runtimes import Pipeline
from dit_deploy.runtimes.conditions import Conditions
from dit_deploy.runtimes.device_loop import DeviceSteps
from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from dit_deploy.runtimes.onnxruntime_device import OnnxRuntimeMemory
from dit_deploy.runtimes.providers import CPU, CUDA
from dit_deploy.runtimes.runner import BindingPool
from dit_deploy.sampling import Guidance, SolverTable, noise, solver_table

__all__ = ["SCHEDULER", "Work", "by_engine", "by_onnxruntime", "by_torch", "place", "random_network", "write_graph"]

Floats = NDArray[np.float32]
#: One run: its seconds, and the latents.
Run = Callable[[], tuple[float, Floats]]
#: What gives a candidate's run for some work.
Open = Callable[["Work"], Run]

SCHEDULER = {"_class_name": "DDIMScheduler", "clip_sample": False}
_SCALE = 4.0


@dataclass(frozen=True)
class Work:
    """``Work(512, 8, 50)``: eight pictures of 512 × 512 pixels at once, 50 steps."""

    size: int
    batch: int
    steps: int
    compression: int = 8

    def table(self) -> SolverTable:
        """Return the sampler."""
        return solver_table(SCHEDULER, self.steps)

    def start(self, channels: int) -> Floats:
        """Return the first sample."""
        side = self.size // self.compression
        return noise(0, (self.batch, channels, side, side))

    def labels(self, classes: int) -> NDArray[np.int64]:
        """Return the class of each picture."""
        return np.arange(self.batch, dtype=np.int64) % classes


def random_network(config: dit.DiTConfig, seed: int = 0) -> dit.DiT:
    """Return a DiT none of whose parameters is zero, scaled so that activations stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    network = dit.DiT(config).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            scale = 0.02
        elif "class_table" in name:
            scale = 0.5
        else:
            scale = (0.3 if "modulation" in name else 1.0) / float(np.sqrt(np.prod(parameter.shape[1:])))
        parameter.copy_(values * scale)
    return network


def place(network: dit.DiT, device: str, dtype: torch.dtype) -> dit.DiT:
    """Move ``network`` to ``device`` and its parameters to ``dtype``; frequencies stay in float32, as in engines."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    return network.to(device)


def by_torch(network: dit.DiT, device: str, *, mode: str | None = None) -> Open:
    """Return the loop in PyTorch around ``network``, which is on ``device``; ``mode`` is ``torch.compile``'s."""
    compiled: Any = network if mode is None else torch.compile(network, mode=mode, dynamic=False)
    dtype = next(network.parameters()).dtype

    def opened(work: Work) -> Run:
        config, table = network.config, work.table()
        assert not table.history, "this loop takes samplers without history only"
        start = torch.from_numpy(work.start(config.in_channels)).to(device)
        labels = torch.from_numpy(work.labels(config.num_classes)).to(device)
        labels = torch.cat([labels, torch.full_like(labels, config.num_classes)])
        timesteps = [torch.full((len(labels),), float(one), device=device) for one in table.timesteps]
        rows = table.sample.tolist()

        def run() -> tuple[float, Floats]:
            _wait(device)
            started, sample = time.perf_counter(), start
            with torch.no_grad():
                for timestep, (of_sample, _, of_prediction, _) in zip(timesteps, rows, strict=True):
                    if mode is not None:
                        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                    predicted = compiled(torch.cat([sample, sample]).to(dtype), timestep, labels)[0].float()
                    conditional, unconditional = predicted.chunk(2)
                    guided = unconditional + _SCALE * (conditional - unconditional)
                    sample = of_sample * sample + of_prediction * guided
            _wait(device)
            seconds = time.perf_counter() - started
            return seconds, sample.cpu().numpy()

        return run

    return opened


def by_onnxruntime(graph: Path, config: dit.DiTConfig, device: str) -> Open:
    """Return the loop on the device with ONNX Runtime, on the graph that :func:`write_graph` wrote."""
    component = dit.denoiser_component(config, 1000)
    manifest = Manifest.model_construct(
        components={"denoiser": component},
        latents=dit.latents(config, 8, 1.0, 0.0),
        prediction=Prediction(type="epsilon", learned_range_variance=config.learned_variance),
    )
    solver_path = write_solver(manifest, graph.with_name("solver.onnx"))
    on: dict[str, Any] = {"providers": (CUDA, CPU)} if device == "cuda" else {"device": OnnxRuntimeMemory("cpu")}
    denoiser = BindingPool(OnnxRuntimeRunner(graph, component, **on))
    solver = BindingPool(OnnxRuntimeRunner(solver_path, solver_component(manifest), cuda_graphs=False, **on))

    def opened(work: Work) -> Run:
        table, start = work.table(), work.start(config.in_channels)
        labels = work.labels(config.num_classes)

        def run() -> tuple[float, Floats]:
            started = time.perf_counter()
            steps = DeviceSteps(
                denoiser,
                solver,
                Conditions(
                    {"class_labels": labels}, {"class_labels": np.full_like(labels, config.num_classes)}, len(labels)
                ),
                Guidance(_SCALE),
                table,
                start,
            )
            with steps:
                for row in range(len(table)):
                    steps.predict(row)
                    steps.advance(row, None)
                    steps.check(f" after step {row + 1}")
                latents = steps.latents().copy()
            return time.perf_counter() - started, latents

        return run

    return opened


def by_engine(bundle: Bundle, engine: str) -> Open:
    """Return whole calls of a pipeline with one of a bundle's engines, less the decoder."""
    pipe = Pipeline(bundle, engine)

    def opened(work: Work) -> Run:
        latents = bundle.manifest.latents
        work = replace(work, compression=latents.spatial_compression)
        request: dict[str, Any] = {
            "class_labels": work.labels(int(bundle.manifest.guidance.unconditional["class_labels"])).tolist(),
            "num_inference_steps": work.steps,
            "guidance_scale": _SCALE,
            "guidance_channels": None,
            "scheduler": SCHEDULER,
            "noise": work.start(latents.channels),
            "height": work.size,
            "width": work.size,
            "output_type": "latent",
        }

        def run() -> tuple[float, Floats]:
            output = pipe(**request)
            return output.seconds["total"], output.latents

        return run

    return opened


def write_graph(network: dit.DiT, path: Path, device: str) -> Component:
    """Write ``network`` as an ONNX graph in its own precision, in the form that ONNX Runtime runs fast on CUDA.

    This is PyTorch's older exporter, which needs the onnx package only. Attention becomes
    ``com.microsoft.MultiHeadAttention``, as in the engines that ``dit-deploy build-engine`` makes for CUDA; inputs and
    outputs are float32. It stays below protobuf's 2 GB, as weights in FP16 do.
    """
    component = dit.denoiser_component(network.config, 1000)
    patch = network.config.patch_size
    example = (
        torch.zeros(2, network.config.in_channels, 4 * patch, 6 * patch, device=device),
        torch.zeros(2, device=device),
        torch.zeros(2, dtype=torch.int64, device=device),
    )
    names = [spec.name for spec in (*component.inputs, *component.outputs)]
    dynamic = {
        spec.name: {index: f"{spec.name}_{index}" for index, axis in enumerate(spec.axes) if not isinstance(axis, int)}
        for spec in (*component.inputs, *component.outputs)
    }
    with warnings.catch_warnings(), _microsoft_attention():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Float32Outside(network),
            example,
            str(path),
            dynamo=False,
            opset_version=20,  # the first with Gelu as one operator
            input_names=names[: len(example)],
            output_names=names[len(example) :],
            dynamic_axes=dynamic,
            custom_opsets={"com.microsoft": 1},
        )
    return component


class _Float32Outside(nn.Module):
    def __init__(self, network: dit.DiT) -> None:
        super().__init__()
        self.network = network
        self.dtype = next(network.parameters()).dtype

    def forward(self, latents: Tensor, timestep: Tensor, class_labels: Tensor) -> tuple[Tensor, ...]:
        return tuple(one.float() for one in self.network(latents.to(self.dtype), timestep, class_labels))


class _MultiHeadAttention(torch.autograd.Function):
    """Attention of [batch, tokens, hidden] that is exported as one operator."""

    @staticmethod
    def forward(_: Any, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        q, k, v = (one.reshape(*one.shape[:2], heads, -1).transpose(1, 2) for one in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph: Any, query: Any, key: Any, value: Any, heads: int) -> Any:
        made = graph.op("com.microsoft::MultiHeadAttention", query, key, value, num_heads_i=heads)
        return made.setType(query.type())


@contextmanager
def _microsoft_attention() -> Any:
    original = dit.Block.attention

    def attention(self: dit.Block, hidden_states: Tensor) -> Tensor:
        projected = (self.to_q(hidden_states), self.to_k(hidden_states), self.to_v(hidden_states))
        attended: Tensor = _MultiHeadAttention.apply(*projected, self.num_heads)  # type: ignore[no-untyped-call]
        return self.to_out(attended)

    dit.Block.attention = attention  # type: ignore[method-assign]
    try:
        with nullcontext():
            yield
    finally:
        dit.Block.attention = original  # type: ignore[method-assign]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
