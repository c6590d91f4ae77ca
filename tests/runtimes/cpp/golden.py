"""Write the golden files that the C++ runtime's tests read: what the Python runtime draws, step by step.

    python tests/runtimes/cpp/golden.py BUNDLE OUT [--cases NAME …]     # of any bundle
    python tests/runtimes/cpp/golden.py --all build/golden              # of the demo, which is exported and built first

A folder of golden files holds ``golden.json`` (format, version, the bundle's path and digest, the cases) and one
``NAME.safetensors`` a case:

    noise      float32, the first draw of the latents' shape
    latents    float32 [steps, batch, …], after each step
    final      float32 [batch, …], where the latents are others in the end than after the last step: some are kept
    array      float32 [batch, (frames,) height, width, channels] in 0 … 1, where the bundle has a VAE decoder
    pictures   uint8, the same rounded
    image.0 …  uint8 [height, width, channels], the pictures that the request has; so do last_image and video
    given.latents, given.array, given.pictures
               the same of a run that is given ``noise``; only where such a run differs: a sampler that draws more noise
               meanwhile gets other draws then
    metadata   ``format``, ``version``, ``request`` (JSON: the arguments of the call, and ``engine``)

A case is a line of :data:`CASES`: its name, what a bundle must have for it, and the request. They are no files of the
repository: kernels round as the machine at hand does, so each machine writes its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle import Manifest
from dit_deploy.errors import DitDeployError, InputError
from dit_deploy.runtimes import pipeline as pipeline_module
from dit_deploy.runtimes.arguments import first_noise
from dit_deploy.runtimes.frames import latent_frames
from dit_deploy.sampling import NoiseSource

FORMAT, VERSION = "dit-deploy-golden", 1
ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "examples" / "fashion" / "model"
#: The engines of the demo: name → how they are built. Calibration is short: scales decide no comparison with Python.
ENGINES: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "int8": {"precision": "int8"},
    "int8-onnxruntime": {"precision": "int8", "kernels": "onnxruntime"},
}

Arrays = dict[str, NDArray[Any]]

#: Arguments that are pictures.
PICTURES = ("image", "last_image", "video")


@dataclass(frozen=True)
class Model:
    """What the requests are made from."""

    multiple: int  # pixels
    height: int  # pixels, of the training
    width: int
    classes: int
    channels: int  # of the latents
    compression: int  # pixels on a side of a latent pixel
    frames: tuple[int, ...] = ()  # the smallest numbers of pictures that a video of this model may have
    tile: int = 0  # latent pixels on a side of the pieces that diffusers has for this model

    def picture(self, seed: int, rows: float = 1, columns: float = 1, channels: int = 3) -> NDArray[np.uint8]:
        """Return a smooth picture with some noise on it, ``rows`` × ``columns`` times the training size."""
        height, width = round(self.height * rows), round(self.width * columns)
        slopes = np.linspace(0, 200, height)[:, None, None] + np.linspace(0, 40, width)[None, :, None]
        speckles = np.random.default_rng(seed).integers(0, 16, (height, width, channels))
        return (slopes + speckles).astype(np.uint8)


@dataclass(frozen=True)
class Case:
    """One golden file: ``needs`` are words of :func:`features`."""

    name: str
    needs: tuple[str, ...]
    request: Callable[[Model], dict[str, Any]]
    engine: str = "onnx"


def _but_one_channel(model: Model) -> int:
    return model.channels - 1


def _twice_as_high(model: Model) -> int:
    return 2 * model.height


def _a_little_wider(model: Model) -> int:
    return model.width + model.multiple


def _two_pictures(model: Model) -> list[NDArray[np.uint8]]:
    return [model.picture(1, 1, 2), model.picture(2, 1, 2)]


def _unlike_pictures(model: Model) -> list[NDArray[np.uint8]]:
    return [model.picture(5, 0.7, 0.6, channels=4), model.picture(6, 3.1, 2.4, channels=1)]


def _draw(*labels: int, steps: int, seed: int | list[int], **more: Any) -> Callable[[Model], dict[str, Any]]:
    """Return what makes a request; what of ``more`` is a function is asked for its value with the model."""

    def request(model: Model) -> dict[str, Any]:
        chosen = {name: value(model) if callable(value) else value for name, value in more.items()}
        return {
            "class_labels": [label % model.classes for label in labels],
            "num_inference_steps": steps,
            "seed": seed,
            **chosen,
        }

    return request


def _say(*prompts: str, steps: int, seed: int | list[int], **more: Any) -> Callable[[Model], dict[str, Any]]:
    """Return what makes a request with prompts, of a small picture; see :func:`_draw`."""

    def request(model: Model) -> dict[str, Any]:
        chosen = {name: value(model) if callable(value) else value for name, value in more.items()}
        sizes = {"height": min(model.height, 6 * model.multiple), "width": min(model.width, 6 * model.multiple)}
        return {"prompt": list(prompts), "num_inference_steps": steps, "seed": seed, **sizes, **chosen}

    return request


def _film(
    *prompts: str, frames: int, steps: int, seed: int | list[int], **more: Any
) -> Callable[[Model], dict[str, Any]]:
    """Return what makes a request of small videos of the number of frames at place ``frames``; see :func:`_draw`."""

    def request(model: Model) -> dict[str, Any]:
        chosen = {name: value(model) if callable(value) else value for name, value in more.items()}
        sizes = {"num_frames": _frames(model, frames), "height": 4 * model.multiple, "width": 6 * model.multiple}
        return {"prompt": list(prompts), "num_inference_steps": steps, "seed": seed, **sizes, **chosen}

    return request


def _frames(model: Model, place: int) -> int:
    return model.frames[min(place, len(model.frames) - 1)]


def _moving(count: int, rows: float = 4, columns: float = 6) -> Callable[[Model], list[NDArray[np.uint8]]]:
    """Return what makes a video of the number of frames at the place ``count``, of a small request's size."""

    def pictures(model: Model) -> list[NDArray[np.uint8]]:
        size = model.multiple * rows / model.height, model.multiple * columns / model.width
        return [model.picture(40 + index, *size) for index in range(_frames(model, count))]

    return pictures


def _wider_than_a_piece(model: Model) -> int:
    return (model.tile * model.compression // model.multiple + 1) * model.multiple


def _one(seed: int, rows: float = 4, columns: float = 6) -> Callable[[Model], list[NDArray[np.uint8]]]:
    """Return what makes one picture of a small request's size, or of another in multiples."""
    return lambda m: [m.picture(seed, m.multiple * rows / m.height, m.multiple * columns / m.width)]


_CLASSES = ("class_labels", "epsilon", "pictures")
_GUIDED = (*_CLASSES, "guidance")
_VARIANCE = (*_GUIDED, "learned_range_variance")
_IMAGE = (*_GUIDED, "vae_encoder")
_LEARNED = {"_class_name": "DDPMScheduler", "variance_type": "learned_range", "clip_sample": False}
_EACH = [13, 2**32 + 14, 2**63 + 15]
_SAID = ("prompts", "pictures")
_FILMED = ("prompts", "videos", "from text")
_GUIDED_TEXT = (*_SAID, "guidance")
_CAT, _FOX = "a photo of a small cat on a red sofa", "картина маслом: лиса в снегу &amp; 高清细节 🙂"

#: A family adds its own here, a line each.
CASES: tuple[Case, ...] = (
    Case("ddim", _GUIDED, _draw(1, 7, steps=12, seed=0)),
    Case("ddim-plain", _CLASSES, _draw(3, steps=10, seed=1, guidance_scale=1.0)),
    Case("ddim-eta", _GUIDED, _draw(3, 4, steps=8, seed=2, scheduler="ddim", eta=0.7)),
    Case("dpmsolver++", _GUIDED, _draw(2, 8, steps=10, seed=3, scheduler="dpmsolver++")),
    Case("unipc", _GUIDED, _draw(5, 9, steps=10, seed=4, scheduler="unipc")),
    Case("euler-ancestral", _GUIDED, _draw(0, 6, steps=10, seed=5, scheduler="euler-ancestral")),
    Case("heun", _GUIDED, _draw(4, steps=6, seed=6, scheduler="HeunDiscreteScheduler")),
    Case("learned-variance", _VARIANCE, _draw(1, 2, steps=12, seed=7, scheduler=_LEARNED)),
    Case(
        "learned-variance-apart",
        _VARIANCE,
        _draw(8, steps=8, seed=8, scheduler=_LEARNED, guidance_batched=False, guidance_channels=_but_one_channel),
    ),
    Case("guidance-apart", _GUIDED, _draw(1, 2, 3, steps=8, seed=9, guidance_batched=False)),
    Case("guidance-channels", _GUIDED, _draw(5, steps=8, seed=10, guidance_channels=_but_one_channel)),
    Case("guidance-all-channels", _GUIDED, _draw(5, steps=8, seed=10, guidance_channels=None, guidance_scale=2.5)),
    Case("guidance-interval", _GUIDED, _draw(6, steps=10, seed=11, guidance_interval=[0.2, 0.7])),
    Case("guidance-rescale", _GUIDED, _draw(7, 0, steps=8, seed=12, guidance_rescale=0.7, guidance_scale=6.0)),
    Case("a-seed-each", _GUIDED, _draw(0, 1, 2, steps=8, seed=_EACH, scheduler="euler-ancestral")),
    Case("high", _GUIDED, _draw(3, 9, steps=6, seed=16, height=_twice_as_high, width=_a_little_wider)),
    Case("wide", _GUIDED, _draw(4, steps=6, seed=17, height=lambda m: m.multiple, width=lambda m: 3 * m.width)),
    Case("image", _IMAGE, _draw(9, steps=12, seed=18, image=lambda m: [m.picture(0)], strength=0.6)),
    Case("image-each", _IMAGE, _draw(7, 5, steps=10, seed=[19, 20], image=_two_pictures, scheduler="dpmsolver++")),
    Case(
        "image-for-all",
        _IMAGE,
        _draw(0, 5, 8, steps=10, seed=21, image=lambda m: [m.picture(3)], scheduler="euler-ancestral", strength=0.5),
    ),
    Case("image-rounded-down", _IMAGE, _draw(3, steps=6, seed=22, image=lambda m: [m.picture(4, 1.6, 2.3)])),
    Case(
        "image-of-other-sizes",
        _IMAGE,
        _draw(3, 8, steps=6, seed=23, image=_unlike_pictures, height=lambda m: m.height, width=_a_little_wider),
    ),
    *(
        Case(
            f"{engine}-{scheduler}",
            (*_GUIDED, f"engine {engine}"),
            _draw(1, 7, steps=10, seed=24, scheduler=scheduler),
            engine,
        )
        for engine in ENGINES
        for scheduler in ("ddim", "dpmsolver++", "unipc")
    ),
    Case("prompt", _SAID, _say(_CAT, steps=4, seed=25)),
    Case("prompts", _SAID, _say(_CAT, _FOX, steps=3, seed=[26, 27], height=lambda m: 7 * m.multiple)),
    Case("prompt-negative", _GUIDED_TEXT, _say(_FOX, steps=3, seed=28, negative_prompt=["blurry, Low quality "])),
    Case("prompt-plain", _GUIDED_TEXT, _say(_CAT, steps=3, seed=29, guidance_scale=1.0)),
    Case("prompt-apart", _GUIDED_TEXT, _say(_CAT, steps=2, seed=30, num_images_per_prompt=2, guidance_batched=False)),
    Case("prompt-cut", _SAID, _say("red sofa, " * 150, "  ", steps=2, seed=31)),
    Case("prompt-scale", (*_SAID, "embedded"), _say(_CAT, steps=3, seed=32, guidance_scale=7.5)),
    Case(
        "prompt-true-cfg",
        (*_SAID, "embedded"),
        _say(_FOX, steps=3, seed=33, true_cfg_scale=3.0, negative_prompt=["blurry"]),
    ),
    Case(
        "prompt-skip-layers",
        (*_GUIDED_TEXT, "skip_layers"),
        _say(_CAT, _FOX, steps=8, seed=34, skip_guidance_layers=[1], skip_layer_guidance_stop=0.5),
    ),
    Case(
        "prompt-image",
        (*_SAID, "vae_encoder"),
        _say(_CAT, steps=5, seed=35, num_images_per_prompt=2, image=lambda m: [m.picture(7)], strength=0.7),
    ),
    Case(
        "prompt-2", (*_SAID, "second text encoder"), _say(_CAT, _FOX, steps=2, seed=[38, 39], prompt_2=["a red sofa"])
    ),
    Case(
        "prompt-3",
        (*_GUIDED_TEXT, "third text encoder"),
        _say(
            *(_CAT, _FOX),
            steps=2,
            seed=40,
            prompt_3=["snow", "a red sofa"],
            negative_prompt_2=["blurry", "Low quality"],
            negative_prompt_3=["dark"],
        ),
    ),
    Case("prompt-tiles", _SAID, _say(_FOX, steps=2, seed=36, vae_tile=lambda m: 8 * m.compression)),
    # Not of PixArt, whose posterior here is so wide that the last bit of numpy's own logarithm is above the tolerance.
    Case(
        "prompt-image-tiles",
        (*_SAID, "vae_encoder", "flow_prediction"),
        _say(_FOX, steps=3, seed=37, image=lambda m: [m.picture(8)], vae_tile=lambda m: 8 * m.compression),
    ),
    Case("film", _FILMED, _film(_CAT, frames=2, steps=4, seed=50, negative_prompt=["blurry"])),
    Case("films", _FILMED, _film(_CAT, _FOX, frames=1, steps=3, seed=[51, 52], width=lambda m: 5 * m.multiple)),
    Case("film-plain", _FILMED, _film(_FOX, frames=1, steps=3, seed=53, guidance_scale=1.0, num_images_per_prompt=2)),
    Case("film-of-one", _FILMED, _film(_FOX, frames=0, steps=3, seed=54)),
    Case("film-tiles", _FILMED, _film(_CAT, frames=1, steps=2, seed=55, vae_tile=lambda m: 4 * m.compression)),
    Case(
        "film-windows",
        (*_FILMED, "any length"),
        _film(_FOX, frames=7, steps=3, seed=56, window_frames=lambda m: _frames(m, 2)),
    ),
    Case(
        "film-model-tiles",
        (*_FILMED, "tiling"),
        _film(_CAT, frames=1, steps=2, seed=57, vae_tile="model", width=_wider_than_a_piece),
    ),
    Case(
        "film-from-video",
        (*_FILMED, "vae_encoder", "no image_conditions"),
        _film(_CAT, frames=2, steps=5, seed=58, video=_moving(2), strength=0.6, num_images_per_prompt=2),
    ),
    Case(
        "films-from-video",
        (*_FILMED, "vae_encoder", "no image_conditions"),
        _film(_CAT, _FOX, frames=1, steps=4, seed=[59, 60], video=_moving(3, 3.3, 7.1)),
    ),
    Case("film-experts", (*_FILMED, "experts"), _film(_CAT, frames=1, steps=6, seed=61, guidance_scale_2=2.0)),
    Case("film-experts-below", (*_FILMED, "experts"), _film(_FOX, frames=0, steps=6, seed=68, guidance_scale_2=0.5)),
    Case("film-rate", (*_FILMED, "frame_rate"), _film(_CAT, frames=1, steps=2, seed=62, frame_rate=12.5)),
    Case(
        "film-decoder",
        (*_FILMED, "decode_timestep"),
        _film(_CAT, frames=1, steps=2, seed=63, decode_timestep=0.05, decode_noise_scale=0.025),
    ),
    Case("film-image", ("videos", "image"), _film(_CAT, frames=2, steps=3, seed=64, image=_one(9))),
    Case(
        "films-image",
        ("videos", "image"),
        _film(_CAT, _FOX, frames=1, steps=3, seed=[65, 66], image=_one(10, 7.3, 5.2)),
    ),
    Case(
        "film-last-image",
        ("videos", "last_image"),
        _film(_FOX, frames=2, steps=3, seed=67, image=_one(11), last_image=_one(12, 5, 5)),
    ),
)


def features(bundle: Bundle) -> set[str]:
    """Return what cases may need: denoiser's inputs, components, prediction type, guidance, variance, engines."""
    manifest = bundle.manifest
    found = {*(spec.name for spec in manifest.components["denoiser"].inputs), *manifest.components}
    found |= {manifest.prediction.type, *(f"engine {name}" for name in bundle.engine_names())}
    if manifest.guidance.kind == "classifier_free":
        found.add("guidance")
    if manifest.guidance.kind == "embedded":
        found.add("embedded")
    if manifest.guidance.skip_layers is not None:
        found.add("skip_layers")
    if manifest.prompts is not None:
        names = ("second text encoder", "third text encoder")
        found |= {"prompts", *names[: len(manifest.prompts.encoders) - 1]}
    if manifest.prediction.learned_range_variance:
        found.add("learned_range_variance")
    return found | _features_of_videos(manifest)


def _features_of_videos(manifest: Manifest) -> set[str]:
    found = {"pictures" if manifest.latents.frames is None else "videos"}
    found |= {name for name in ("experts", "tiling") if getattr(manifest, name) is not None}
    if "vae_decoder" in manifest.components:
        found |= {spec.name for spec in manifest.components["vae_decoder"].inputs} - {"latents"}
    if len(_short_films(manifest)) > 1:
        found.add("any length")
    conditions = manifest.image_conditions
    if conditions is None or not conditions.required:
        found.add("from text")
    if conditions is None:
        return found | {"no image_conditions"}
    encoder = None if conditions.encoder is None else manifest.components[conditions.encoder.component]
    if encoder is None or encoder.input("images").axes[1] == 1:
        found.add("image")
    return found | ({"last_image"} if conditions.last_image else set())


def _short_films(manifest: Manifest) -> tuple[int, ...]:
    """Return the smallest numbers of pictures that a video may have; none of a bundle of pictures."""

    def fits(count: int) -> bool:
        try:
            latent_frames(manifest, count)
        except InputError:
            return False
        return True

    return () if manifest.latents.frames is None else tuple(filter(fits, range(1, 82)))[:8]


def write_goldens(bundle: Bundle, out: Path, names: Sequence[str] = ()) -> list[str]:
    """Write the golden files of every case that ``bundle`` has what it takes for, or of ``names``; return their names.

    ``out`` is replaced where it is a folder of golden files.
    """
    unknown = [name for name in names if name not in {case.name for case in CASES}]
    if unknown:
        sys.exit(f"--cases {unknown[0]}: expected one of {', '.join(case.name for case in CASES)}")
    has = features(bundle)
    fitting = [case for case in CASES if has.issuperset(case.needs) and (not names or case.name in names)]
    if not fitting:
        sys.exit(f"{bundle.path}: no case fits it; add one to CASES in {Path(__file__).name}")
    _empty(out)
    pipelines: dict[str, Pipeline] = {}
    for case in fitting:
        if case.engine not in pipelines:
            pipelines[case.engine] = Pipeline(bundle, case.engine, threads=1)  # as the C++ tests do
        write_case(pipelines[case.engine], case, out / f"{case.name}.safetensors")
    document = {
        "format": FORMAT,
        "version": VERSION,
        "bundle": os.path.relpath(bundle.path, out),
        "digest": bundle.digest,
        "cases": [case.name for case in fitting],
    }
    (out / "golden.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return [case.name for case in fitting]


def write_case(pipe: Pipeline, case: Case, path: Path) -> None:
    """Run a case from the seed, and with the noise given where that can differ, and write its file."""
    from safetensors.numpy import save_file

    request = case.request(_model(pipe))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arrays, draws = _run(pipe, request)
    said = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    if draws > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the same again
            given, _ = _run(pipe, {**request, "noise": arrays["noise"]})
        if not all(np.array_equal(array, arrays[name]) for name, array in given.items()):
            arrays |= {f"given.{name}": array for name, array in given.items()}
    for name in PICTURES:
        arrays |= {f"{name}.{index}": picture for index, picture in enumerate(request.get(name, ()))}
    words = {name: value for name, value in request.items() if name not in PICTURES} | {"engine": case.engine}
    metadata = {"format": FORMAT, "version": str(VERSION), "request": json.dumps(words), "warnings": json.dumps(said)}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata)


def _run(pipe: Pipeline, request: dict[str, Any]) -> tuple[Arrays, int]:
    """Return the first ``noise``, ``latents`` of each step and, where decoded, ``array`` and ``pictures``.

    The number is how often noise was drawn in all.
    """
    steps: list[NDArray[np.float32]] = []

    def keep(_step: int, _steps: int, latents: NDArray[np.float32]) -> None:
        steps.append(latents.copy())

    for name in set(PICTURES).intersection(request):
        pictures = [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in request[name]]
        request = {**request, name: pictures}
    decodes = "vae_decoder" in pipe.bundle.manifest.components
    drawn: list[NDArray[np.float32]] = []

    def draw(*arguments: Any) -> NDArray[np.float32]:
        drawn.append(first_noise(*arguments))
        return drawn[-1]

    with (
        patch.object(pipeline_module, "first_noise", draw),
        patch.object(NoiseSource, "draw", autospec=True, side_effect=NoiseSource.draw) as each,
        patch.object(NoiseSource, "draw_for_all", autospec=True, side_effect=NoiseSource.draw_for_all) as for_all,
    ):
        out = pipe(**request, callback=keep, output_type="numpy" if decodes else "latent")
    arrays: Arrays = {"noise": drawn[0], "latents": np.stack(steps)}
    if not np.array_equal(out.latents, steps[-1]):
        arrays["final"] = out.latents
    if decodes:
        arrays["array"] = np.asarray(
            out.images if pipe.bundle.manifest.latents.frames is None else out.frames, np.float32
        )
        arrays["pictures"] = (arrays["array"] * 255).round().astype(np.uint8)
    return arrays, each.call_count + for_all.call_count


def _model(pipe: Pipeline) -> Model:
    manifest = pipe.bundle.manifest
    latents, specs = manifest.latents, {spec.name: spec for spec in manifest.components["denoiser"].inputs}
    null = manifest.guidance.unconditional.get("class_labels")
    maximum = specs["class_labels"].maximum if "class_labels" in specs else None
    classes = int(null if null is not None else (maximum or 0) + 1)
    scale = latents.spatial_compression
    return Model(
        pipe.pixel_multiple,
        latents.height * scale,
        latents.width * scale,
        max(classes, 1),
        latents.channels,
        scale,
        _short_films(manifest),
        0 if manifest.tiling is None else manifest.tiling.tile_width,
    )


def _empty(out: Path) -> None:
    """Make ``out`` an empty folder; only golden files are ever removed."""
    if out.exists() and any(out.iterdir()) and not (out / "golden.json").is_file():
        sys.exit(f"{out} holds something else than golden files; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    for file in [*out.glob("*.safetensors"), out / "golden.json"]:
        file.unlink(missing_ok=True)


def make_demo(folder: Path) -> Bundle:
    """Export the trained demo into ``folder`` and build its engines, each where it is not there yet and the same."""
    from dit_deploy.exporters import export
    from dit_deploy.exporters.builders import CalibrationOptions, build_engine

    path = folder / "fashion"
    if path.is_dir():
        try:
            bundle = Bundle.open(path)
        except DitDeployError:
            shutil.rmtree(path)
    if not path.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        bundle = export(MODEL, path)
    short = CalibrationOptions(samples=4, evaluations=2, steps=4)
    for name, options in ENGINES.items():
        build_engine(bundle, name=name, check=False, calibration=short, **options)
    return Bundle.open(path)


def _families() -> dict[str, Callable[[Path], Path]]:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # for tests.families, when run as a program
    from tests.families import cogvideox, flux, latte, ltx, pixart, sd3, spacetime_dit, wan

    return {
        "ltx": lambda path: ltx.make_ltx(path, "0.9.1"),  # takes longest
        "pixart": pixart.sigma,
        "sd3": sd3.sd35,
        "flux": flux.make_flux,
        "spacetime-dit": spacetime_dit.make_spacetime_dit,
        "wan": wan.make_wan,
        "wan-experts": lambda path: wan.make_wan(path, "t2v-2.2"),
        "wan-image": lambda path: wan.make_wan(path, "i2v"),
        "latte": latte.make_latte,
        "cogvideox": lambda path: cogvideox.make_cogvideox(path, "2B"),
    }


def _write_demo(out: Path) -> list[str]:
    """Write the demo's bundle, one of its denoiser alone, and the golden files of both; return a line for each."""
    bundle = make_demo(out / "bundles")
    cases = write_goldens(bundle, out / "fashion")
    alone = Bundle.open(without_vae(bundle, out / "bundles" / "fashion-denoiser"))
    few = write_goldens(alone, out / "fashion-denoiser", ("ddim", "euler-ancestral"))
    return [f"{out / 'fashion'}: {len(cases)} cases", f"{out / 'fashion-denoiser'}: {len(few)} cases"]


def _write_family(out: Path, name: str) -> list[str]:
    """Export a family into ``out / "bundles"``, where it is not there yet, and write its golden files."""
    import torch

    from dit_deploy.exporters import export

    torch.set_num_threads(1)
    path = out / "bundles" / name
    if not path.is_dir():
        with tempfile.TemporaryDirectory() as source:
            export(_families()[name](Path(source)), path)
    return [f"{out / name}: {len(write_goldens(Bundle.open(path), out / name))} cases"]


def without_vae(bundle: Bundle, path: Path) -> Path:
    """Write a copy of ``bundle`` at ``path`` that has a denoiser and nothing else, and return it."""
    if path.is_dir():
        shutil.rmtree(path)
    shutil.copytree(bundle.path, path, ignore=shutil.ignore_patterns("engines", "parity", "vae_*", ".*"))
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    for name in ("vae_encoder", "vae_decoder"):
        manifest["components"].pop(name, None)
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if not name.startswith("vae_")}
    data = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(data)
    (path / "manifest.json.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  manifest.json\n", encoding="ascii")
    return path


def write_all(out: Path) -> None:
    """Write everything that the C++ tests read into ``out``: bundles, golden files, messages.

    A trace keeps one core busy, so there are as many at once as there are cores.
    """
    from refusals import write_refusals

    (out / "bundles").mkdir(parents=True, exist_ok=True)
    tasks = [partial(_write_demo, out), *(partial(_write_family, out, name) for name in _families())]
    with ProcessPoolExecutor(min(len(tasks), os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(task) for task in tasks]:
            print("\n".join(future.result()), flush=True)
    count = write_refusals(out / "bundles", out / "refusals.json")
    print(f"{out / 'refusals.json'}: {count} requests that are refused")


def main(words: Iterable[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="a bundle that `dit-deploy export` made")
    parser.add_argument("out", type=Path, nargs="?", help="the folder of golden files to write")
    parser.add_argument("--cases", nargs="+", default=(), metavar="NAME", help="only these")
    parser.add_argument("--all", type=Path, metavar="OUT", help="the demo's, with what the other C++ tests read")
    arguments = parser.parse_args(None if words is None else list(words))
    if (arguments.all is None) == (arguments.out is None) or (arguments.all is not None and arguments.bundle):
        parser.error("give BUNDLE and OUT, or --all OUT")
    try:
        if arguments.all is not None:
            write_all(arguments.all)
        else:
            cases = write_goldens(Bundle.open(arguments.bundle), arguments.out, arguments.cases)
            print(f"{arguments.out}: {len(cases)} cases")
    except DitDeployError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
