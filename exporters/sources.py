"""Open a checkpoint: say what it is, and give its network, its reference and its settings.

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

from torch import Tensor, nn

from dit_deploy.errors import SourceError
from dit_deploy.exporters import weights as files
from dit_deploy.exporters.families import dit_weights
from dit_deploy.exporters.families.dit import DiTConfig
from dit_deploy.exporters.families.dit_reference import DiffusersDiT, load_diffusers_dit

__all__ = ["Source", "open_source"]

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
class Source:
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


def open_source(
    path: str | Path, *, arch: str | None = None, image_size: int | None = None, vae: str | Path | None = None
) -> Source:
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
            return _open_pipeline(path, vae)
        if (path / "config.json").is_file():
            return _open_transformer(path, vae)
        raise SourceError(
            f"{path} has neither model_index.json (a diffusers pipeline) nor config.json (a transformer); "
            "give the folder that save_pretrained wrote"
        )
    if not path.is_file():
        raise SourceError(f"{path} does not exist; give a diffusers folder or a .pt or .safetensors checkpoint")

    def read() -> tuple[DiTConfig, dict[str, Tensor]]:
        return dit_weights.from_original(files.checkpoint_tensors(path), arch, image_size)

    config = read()[0]
    return Source(
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


def _open_pipeline(path: Path, vae: str | Path | None) -> Source:
    index = files.read_json(path / "model_index.json")
    name = index.get("_class_name")
    if name != "DiTPipeline":
        raise SourceError(f"{path} is a {name}; this version exports DiTPipeline")
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


def _open_transformer(path: Path, vae: str | Path | None) -> Source:
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
) -> Source:
    config = files.read_json(folder / "config.json")
    # The official DiT folders were saved while the class was still called Transformer2DModel.
    if config.get("_class_name") not in ("DiTTransformer2DModel", "Transformer2DModel"):
        raise SourceError(f"{folder} holds a {config.get('_class_name')}; this version exports DiTTransformer2DModel")

    def read() -> tuple[DiTConfig, dict[str, Tensor]]:
        return dit_weights.from_diffusers(config, files.folder_tensors(folder))

    return Source(
        kind=kind,
        name=path.resolve().name,
        config=read()[0],
        network=lambda: dit_weights.load(*read()),
        reference=lambda: DiffusersDiT(load_diffusers_dit(config, files.folder_tensors(folder))).eval(),
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
