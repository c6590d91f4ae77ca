"""Which components of a bundle predict, and which make conditions of pictures."""

from __future__ import annotations

from dit_deploy.bundle import Manifest

__all__ = ["denoisers", "made_of_pictures", "picture_readers"]


def denoisers(manifest: Manifest) -> tuple[str, ...]:
    """Return the components that predict: one, or two for parts of the schedule."""
    return ("denoiser",) if manifest.experts is None else ("denoiser", manifest.experts.component)


def picture_readers(manifest: Manifest) -> tuple[str, ...]:
    """Return the components that make conditions of pictures."""
    record = manifest.image_conditions
    if record is None:
        return ()
    return (record.component,) if record.encoder is None else (record.component, record.encoder.component)


def made_of_pictures(manifest: Manifest) -> set[str]:
    """Return the denoiser's conditions that pictures make, of a bundle that makes videos of them."""
    return {spec.name for name in picture_readers(manifest) for spec in manifest.components[name].outputs}
