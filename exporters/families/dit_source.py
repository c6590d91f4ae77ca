"""Open a checkpoint of a class-conditional DiT: say what it is, and give its network, reference and settings.

Three kinds are known:

* a diffusers pipeline folder (``model_index.json`` with ``DiTPipeline``);
* a bare ``DiTTransformer2DModel`` folder, with a VAE folder named beside it;
* a checkpoint file of facebookresearch/DiT (``.pt`` or ``.safetensors``), with a diffusers VAE folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from dit_deploy.bundle import Scheduler
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoders
from dit_deploy.exporters import weights as files
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families import dit, dit_weights
from dit_deploy.exporters.families.dit import DiTConfig
from dit_deploy.exporters.families.dit_reference import DiffusersDiT
from dit_deploy.exporters.modules import check_class, load_diffusers
from dit_deploy.exporters.source import Graph, Source

__all__ = ["Checkpoint", "open_checkpoint", "open_file", "open_pipeline", "open_transformer"]

#: The class of the transformer when the official folders were saved.
_FORMER_CLASS = "Transformer2DModel"

#: The scheduler of the official DiT pipelines, for a transformer that comes without one.
_DIFFUSERS_SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
}

#: facebookresearch/DiT, ``create_diffusion("250")``: respaced over 0 … 999, the variance learned, nothing clipped.
_ORIGINAL_SCHEDULER: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "variance_type": "learned_range",
    "clip_sample": False,
    "timestep_spacing": "linspace",
}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. It holds no tensors: a network maps them from disk, and they go when it goes.

    Attributes:
        kind: ``diffusers_pipeline``, ``diffusers_transformer`` or ``original_dit``.
        config: the denoiser's sizes.
        network: builds the denoiser as our own :class:`~.families.dit.DiT`, which can be traced.
        reference: builds the denoiser that an export is held against: diffusers' own where there is one.
        guidance_channels: how many leading latent channels are guided; ``None`` is all.
        digest_files: whose bytes the source's SHA-256 covers.
    """

    kind: str
    name: str
    config: DiTConfig
    network: Callable[[], nn.Module]
    reference: Callable[[], nn.Module]
    vae_folder: Path | None
    scheduler_config: Mapping[str, Any]
    num_inference_steps: int
    digest_files: tuple[Path, ...]
    guidance_channels: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def sha256(self) -> str:
        """Return the SHA-256 over the bytes of the denoiser's weights."""
        return files.digest(self.digest_files)

    def source(self) -> Source:
        """Return what :func:`~dit_deploy.exporters.export` needs of it."""
        config, grid = self.config, self.config.sample_size // self.config.patch_size
        graphs: list[Graph] = []
        geometry = (1, 1.0, 0.0)
        notes: tuple[str, ...] = ()
        if self.vae_folder is None:
            notes = ("no VAE: the bundle will give latents only (name a diffusers VAE folder with --vae)",)
        else:
            graphs, geometry = autoencoders.graphs(self.vae_folder, config.in_channels, config.sample_size)
        denoiser = dit.denoiser_component(config, int(self.scheduler_config.get("num_train_timesteps", 1000)))
        graphs.append(
            Graph(
                "denoiser",
                denoiser,
                self.network,
                {"batch": 2, "patch_height": grid, "patch_width": grid},
                reference=self.reference,
            )
        )
        autoencoder = sum(path.stat().st_size for path in files.folder_files(self.vae_folder)) if self.vae_folder else 0
        return Source(
            family="dit",
            kind=self.kind,
            name=self.name,
            graphs=tuple(graphs),
            latents=dit.latents(config, *geometry),
            prediction=parts.read_prediction(self.scheduler_config, variance=config.learned_variance),
            guidance=dit.guidance(config, self.guidance_channels),
            scheduler_config=self.scheduler_config,
            scheduler=Scheduler(num_inference_steps=self.num_inference_steps),
            digest_files=self.digest_files,
            float32_bytes=4 * dit_weights.parameter_count(config) + autoencoder,
            labels=self.labels,
            notes=notes,
        )


def open_checkpoint(
    path: str | Path, *, arch: str | None = None, image_size: int | None = None, vae: str | Path | None = None
) -> Checkpoint:
    """Open the checkpoint at ``path``.

    Args:
        path: a pipeline folder, a transformer folder, or a checkpoint file.
        arch: ``"DiT-XL/2"`` and so on, for a checkpoint file; found from the tensors where it is left out.
        image_size: pixels the checkpoint was trained at, checked against its position table.
        vae: a diffusers autoencoder folder; found beside a transformer or file where it is called ``vae``.

    Raises:
        SourceError: nothing is there, or it is not what it was said to be.
    """
    path = Path(path)
    if path.is_dir():
        if arch is not None or image_size is not None:
            raise SourceError("--arch and --image-size are for checkpoint files; a folder's config.json says both")
        if (path / "model_index.json").is_file():
            return open_pipeline(path, vae)
        if (path / "config.json").is_file():
            return open_transformer(path, vae)
        raise SourceError(
            f"{path} has neither model_index.json (a diffusers pipeline) nor config.json (a transformer); "
            "give the folder that save_pretrained wrote"
        )
    if not path.is_file():
        raise SourceError(f"{path} does not exist; give a diffusers folder or a .pt or .safetensors checkpoint")
    return open_file(path, arch, image_size, vae)


def open_file(path: Path, arch: str | None, image_size: int | None, vae: str | Path | None) -> Checkpoint:
    """Open a checkpoint file of facebookresearch/DiT."""

    def read() -> tuple[DiTConfig, dict[str, Tensor]]:
        return dit_weights.from_original(files.checkpoint_tensors(path), arch, image_size)

    config = read()[0]
    return Checkpoint(
        kind="original_dit",
        name=path.stem,
        config=config,
        network=lambda: dit_weights.load(*read()),
        reference=lambda: dit_weights.load(*read()),
        vae_folder=_vae_folder(path.parent, vae),
        scheduler_config=_ORIGINAL_SCHEDULER if config.learned_variance else _DIFFUSERS_SCHEDULER,
        num_inference_steps=250 if config.learned_variance else 50,
        guidance_channels=min(3, config.in_channels),
        digest_files=(path,),
    )


def open_pipeline(path: Path, vae: str | Path | None) -> Checkpoint:
    """Open a ``DiTPipeline`` folder."""
    index = files.read_json(path / "model_index.json")
    labels = index.get("id2label") or {}
    if not isinstance(labels, dict):
        raise SourceError(f"{path}: id2label of model_index.json is a {type(labels).__name__}; expected an object")
    return _diffusers_source(
        "diffusers_pipeline",
        path,
        path / "transformer",
        vae_folder=Path(vae) if vae is not None else path / "vae",
        scheduler_config=files.read_json(path / "scheduler" / "scheduler_config.json"),
        labels={str(key): str(value) for key, value in labels.items()},
    )


def open_transformer(path: Path, vae: str | Path | None) -> Checkpoint:
    """Open a ``DiTTransformer2DModel`` folder."""
    return _diffusers_source(
        "diffusers_transformer",
        path,
        path,
        vae_folder=_vae_folder(path.parent, vae),
        scheduler_config=_DIFFUSERS_SCHEDULER,
        labels={},
    )


def _diffusers_source(
    kind: str,
    path: Path,
    folder: Path,
    vae_folder: Path | None,
    scheduler_config: Mapping[str, Any],
    labels: Mapping[str, str],
) -> Checkpoint:
    config = check_class(folder, DiTTransformer2DModel.__name__, _FORMER_CLASS)

    def read() -> tuple[DiTConfig, dict[str, Tensor]]:
        return dit_weights.from_diffusers(config, files.folder_tensors(folder))

    return Checkpoint(
        kind=kind,
        name=path.resolve().name,
        config=read()[0],
        network=lambda: dit_weights.load(*read()),
        reference=lambda: DiffusersDiT(load_diffusers(DiTTransformer2DModel, folder, _FORMER_CLASS)),
        vae_folder=vae_folder,
        scheduler_config=scheduler_config,
        num_inference_steps=50,
        labels=labels,
        digest_files=tuple(files.folder_files(folder)),
    )


def _vae_folder(parent: Path, vae: str | Path | None) -> Path | None:
    """Return the VAE folder that was named, or the one called ``vae`` beside the checkpoint, if any."""
    if vae is not None:
        folder = Path(vae)
        if not (folder / "config.json").is_file():
            raise SourceError(f"--vae {folder} is no diffusers autoencoder folder: it has no config.json")
        return folder
    return parent / "vae" if (parent / "vae" / "config.json").is_file() else None
