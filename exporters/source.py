"""What an export is made from, whatever the family: graphs to trace, and what a manifest says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from dit_deploy.bundle import (
    Component,
    Experts,
    Guidance,
    ImageConditions,
    Latents,
    Prediction,
    Prompts,
    Scheduler,
    Tiling,
)
from dit_deploy.exporters import weights as files

__all__ = ["Feeds", "Graph", "Source"]

#: (sizes, seed) → inputs by name that random numbers of the declared range cannot stand for, such as masks.
Feeds = Callable[[Mapping[str, int], int], Mapping[str, Any]]


@dataclass(frozen=True)
class Graph:
    """One component of the bundle to be.

    ``Graph("denoiser", component, lambda: MyNetwork().eval(), {"batch": 2, "patch_height": 16, "patch_width": 16})``

    Attributes:
        name: of the component in the manifest.
        component: the declaration of its inputs and outputs; what is traced, checked and written follows from it.
        build: makes the network, with its weights, each time it is called; it takes the declared inputs as positional
            tensors and returns a tuple of the declared outputs. It is called only when the graph is traced, so that one
            network is in memory at a time.
        typical: sizes at which the graph is proved, beside the smallest and an oblong one.
        reference: makes what the graph is held against; by default the network that ``build`` makes.
        feeds: makes the inputs that random numbers cannot stand for.
    """

    name: str
    component: Component
    build: Callable[[], nn.Module]
    typical: Mapping[str, int]
    reference: Callable[[], nn.Module] | None = None
    feeds: Feeds | None = None


@dataclass(frozen=True)
class Source:
    """An opened checkpoint. It holds no tensors: networks map them from disk when they are built.

    Attributes:
        family: the module of :mod:`dit_deploy.exporters.families` it is of.
        kind, name: what it was, and what it is called, as the manifest records them.
        graphs: in the order of export; one is called ``denoiser``.
        latents, prediction, scheduler, guidance: as the manifest records them.
        scheduler_config: as diffusers writes it; it is kept unchanged.
        digest_files: the denoiser's weights, whose bytes the source's SHA-256 covers.
        float32_bytes: about how large the bundle gets with float32 weights.
        prompts: how prompts become conditions, where the family has text encoders.
        image_conditions: how pictures that a video shall contain do, where the family takes any.
        experts: the second denoiser, where the family has two.
        tiling: the pieces in which diffusers sends this family's latents through the VAE.
        files: further files of the bundle, such as tokenizers: path in the bundle → its content.
        labels: names of the classes, by their number, where the family has classes.
        notes: lines that a person should read, one each.
    """

    family: str
    kind: str
    name: str
    graphs: tuple[Graph, ...]
    latents: Latents
    prediction: Prediction
    scheduler_config: Mapping[str, Any]
    scheduler: Scheduler = field(default_factory=Scheduler)
    guidance: Guidance = field(default_factory=Guidance)
    digest_files: tuple[Path, ...] = ()
    float32_bytes: int = 0
    prompts: Prompts | None = None
    image_conditions: ImageConditions | None = None
    experts: Experts | None = None
    tiling: Tiling | None = None
    files: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def sha256(self) -> str:
        """Return the SHA-256 over the bytes of the denoiser's weights."""
        return files.digest(self.digest_files)
