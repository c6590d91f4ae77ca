"""The solver graph's inputs and outputs, derived from the manifest like every other component's.

An engine may hold it beside the bundle's own components, under the name ``solver``: it has no weights, so a bundle
does not carry it. See :mod:`dit_deploy.exporters.solver_graph` for what it computes.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..sampling.solver_row import OLDER, WIDTH
from .engine import SOLVER, Profile, SizeRange
from .manifest import Axis, Component, Manifest, TensorSpec

__all__ = ["SOLVER", "solver_component", "solver_profile"]


def solver_component(manifest: Manifest, path: str = "solver.onnx") -> Component:
    """Return the declaration of the solver graph for a bundle's latents; everything is float32.

    Free sizes are those of the latents (``batch`` without the copies that guidance needs), ``predictions`` (1, or 2
    where a row is guided: conditional, unconditional) and ``copies`` (how many of the next model input are wanted).
    ``prediction`` [predictions, batch, …] is the memory of the denoiser's [predictions · batch, …], and
    ``model_input`` [copies, batch, …] that of its latents.
    """
    denoiser = manifest.components["denoiser"]
    latents = denoiser.input("latents").axes
    batch, channels = Axis(name="batch"), manifest.latents.channels
    one = (batch, channels, *latents[2:])
    of_predictions = (Axis(name="predictions", maximum=2), *one)
    of_copies = (Axis(name="copies", maximum=2), batch)

    def spec(name: str, axes: tuple[int | Axis, ...], description: str) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", axes=axes, description=description)

    inputs = [
        spec("sample", one, "the current sample"),
        spec("saved", one, "the saved sample"),
        *(spec(f"older_{k}", one, "a converted output of an earlier row") for k in range(1, OLDER + 1)),
        spec("noise", one, "standard normal; any finite values where the row has no noise"),
        spec("prediction", of_predictions, "the denoiser's, conditional first"),
    ]
    if manifest.prediction.learned_range_variance:
        inputs.append(spec("variance", of_predictions, "the denoiser's learned variance; the conditional one counts"))
    inputs += [
        spec("copies", of_copies, "ones, as many as there are samples in the next model input"),
        spec("guided_channels", (channels,), "1 for a channel that is guided, else 0"),
        spec("coefficients", (WIDTH,), "the row, see dit_deploy.sampling.solver_row.LAYOUT"),
    ]
    outputs = (
        spec("next_sample", one, "the new sample"),
        spec("next_saved", one, "the new saved sample"),
        spec("converted", one, "the row's own converted output, m_0"),
        spec("model_input", (*of_copies, *one[1:]), "input_scale of the next row times the new sample, once a copy"),
        spec("next_timestep", of_copies, "the next row's timestep, once a copy of a sample"),
        spec("magnitude", (1,), "finite exactly where the new sample and the guided prediction are"),
    )
    return Component(path=path, inputs=tuple(inputs), outputs=outputs)


def solver_profile(profiles: Iterable[Profile]) -> Profile:
    """Return the one profile with which a solver engine serves every size that the denoiser's ``profiles`` hold.

    It is as wide as all of them together: elementwise work loses nothing by a wide range. The denoiser's batch counts
    the copies that guidance needs, the solver's does not.
    """
    sizes: dict[str, SizeRange] = {}
    for profile in profiles:
        for name, one in profile.sizes.items():
            held = sizes.get(name, one)
            sizes[name] = SizeRange(
                minimum=min(held.minimum, one.minimum), optimum=held.optimum, maximum=max(held.maximum, one.maximum)
            )
    batch = sizes["batch"]
    sizes["batch"] = SizeRange(minimum=1, optimum=max(1, batch.optimum // 2), maximum=batch.maximum)
    sizes["predictions"] = sizes["copies"] = SizeRange(minimum=1, optimum=2, maximum=2)
    return Profile(sizes=sizes)
