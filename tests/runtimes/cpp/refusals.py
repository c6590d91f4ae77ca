"""Requests that are refused, and what the Python runtime says to them, for the C++ runtime to be held against.

A request is JSON: what JSON has not is spelled, ``"nan"`` and ``"inf"`` for such numbers, ``{"shape": …, "value": …}``
for noise filled with one value, ``[height, width, channels]`` for a black picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.errors import DitDeployError

__all__ = ["REFUSED", "write_refusals"]

_LABEL = {"class_labels": [1], "num_inference_steps": 2, "seed": 0}
_SMALL = {"num_frames": 5, "height": 16, "width": 16}
_CONFIG = "DDIMScheduler"
#: What says how a bundle is opened.
_OPTIONS = ("engine", "vae_memory")
_STUCK = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon", "num_train_timesteps": 4}

#: (bundle, request) beside :data:`_LABEL`, where ``None`` takes an argument away. The demo's sizes are multiples of 8.
REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("fashion", {"height": 20}),
    ("fashion", {"height": 0}),
    ("fashion", {"height": -16}),
    ("fashion", {"width": 33}),
    ("fashion", {"width": 3}),
    ("fashion", {"class_labels": None}),
    ("fashion", {"class_labels": [11]}),
    ("fashion", {"class_labels": [-1]}),
    ("fashion", {"class_labels": [1, 2**62]}),
    ("fashion", {"num_inference_steps": 0}),
    ("fashion", {"num_inference_steps": -3}),
    ("fashion", {"num_inference_steps": 1001}),
    ("fashion", {"num_inference_steps": 2**40}),
    ("fashion", {"guidance_scale": "nan"}),
    ("fashion", {"guidance_scale": "inf"}),
    ("fashion", {"guidance_channels": -1}),
    ("fashion", {"guidance_channels": 5}),
    ("fashion", {"guidance_interval": [0.5, 0.25]}),
    ("fashion", {"guidance_interval": [-0.5, 1.0]}),
    ("fashion", {"guidance_interval": [0.0, 1.5]}),
    ("fashion", {"guidance_interval": ["nan", 1.0]}),
    ("fashion", {"guidance_rescale": 1.5}),
    ("fashion", {"guidance_rescale": -0.5}),
    ("fashion", {"guidance_rescale": "nan"}),
    ("fashion", {"eta": 1.5}),
    ("fashion", {"eta": -0.5}),
    ("fashion", {"eta": "nan"}),
    ("fashion", {"eta": 0.5, "scheduler": "unipc"}),
    ("fashion", {"seed": [1, 2]}),
    ("fashion", {"seed": [1, 2], "class_labels": [1, 2, 3]}),
    ("fashion", {"noise": {"shape": [1, 4, 8, 4], "value": 0.0}}),
    ("fashion", {"noise": {"shape": [2, 4, 8, 8], "value": 0.0}}),
    ("fashion", {"noise": {"shape": [4, 8, 8], "value": 0.0}}),
    ("fashion", {"noise": {"shape": [1, 4, 8, 8], "value": "nan"}}),
    ("fashion", {"noise": {"shape": [1, 4, 8, 8], "value": "inf"}}),
    ("fashion", {"noise": {"shape": [1, 4, 8, 8], "value": 3e38}}),
    ("fashion", {"strength": 0.5}),
    ("fashion", {"image": [[32, 32, 3]], "strength": 1.5}),
    ("fashion", {"image": [[32, 32, 3]], "strength": -0.5}),
    ("fashion", {"image": [[32, 32, 3]], "strength": "nan"}),
    ("fashion", {"image": [[32, 32, 3]], "strength": 0.0}),
    ("fashion", {"image": [[32, 32, 3]], "strength": 0.25}),
    ("fashion", {"image": [[32, 32, 3]], "height": -16}),
    ("fashion", {"image": [[32, 32, 3]], "width": 20}),
    ("fashion", {"image": [[5, 32, 3]]}),
    ("fashion", {"image": [[32, 32, 3], [32, 32, 3]]}),
    ("fashion", {"image": [[32, 32, 3], [32, 32, 3]], "class_labels": [1, 2, 3]}),
    ("fashion", {"image": [[32, 32, 3]], "noise": {"shape": [1, 4, 8, 4], "value": 0.0}}),
    ("fashion", {"scheduler": "magic"}),
    ("fashion", {"scheduler": "flow-euler"}),
    ("fashion", {"scheduler": {"_class_name": _CONFIG, "prediction_type": "v_prediction"}}),
    ("fashion", {"scheduler": {"_class_name": "DDPMScheduler", "variance_type": "learned"}}),
    ("fashion", {"scheduler": {"_class_name": "MagicScheduler"}}),
    ("fashion", {"scheduler": {}}),
    ("fashion", {"scheduler": {"_class_name": _CONFIG, "colour": "red"}}),
    ("fashion", {"scheduler": {"_class_name": _CONFIG, "thresholding": True}}),
    ("fashion", {"scheduler": {"_class_name": _CONFIG, "timestep_spacing": "often"}}),
    ("fashion", {"scheduler": {"_class_name": _CONFIG, "beta_start": "small"}}),
    ("fashion", {"scheduler": {"_class_name": _CONFIG, "num_train_timesteps": 0}}),
    ("fashion", {"scheduler": _STUCK, "num_inference_steps": 5}),
    ("fashion", {"prompt": "a boot"}),
    ("fashion", {"negative_prompt": "a boot"}),
    ("fashion", {"num_images_per_prompt": 2}),
    ("fashion", {"num_images_per_prompt": 0}),
    ("fashion", {"true_cfg_scale": 2.0}),
    ("fashion", {"skip_guidance_layers": [0]}),
    ("fashion", {"vae_tile": 20}),
    ("fashion", {"vae_tile": -16}),
    ("fashion", {"vae_memory": "2 apples"}),
    ("fashion", {"vae_memory": ""}),
    ("fashion", {"vae_memory": "1k"}),
    ("fashion", {"vae_memory": "123456", "image": [[32, 32, 3]]}),
    *(
        (bundle, {"class_labels": None, **request})
        for bundle, request in (
            ("pixart", {}),
            ("pixart", {"negative_prompt": "blurry"}),
            ("pixart", {"prompt": ["a cat", "a fox"], "negative_prompt": ["x", "y", "z"]}),
            ("pixart", {"prompt": "a cat", "class_labels": [1]}),
            ("pixart", {"prompt": "a cat", "true_cfg_scale": 2.0}),
            ("pixart", {"prompt": ["a cat", "a fox"], "seed": [1, 2, 3]}),
            ("sd3", {"prompt": "a cat", "skip_guidance_layers": [2]}),
            ("sd3", {"prompt": "a cat", "skip_guidance_layers": [0, -1]}),
            ("sd3", {"prompt": "a cat", "skip_guidance_layers": [0], "guidance_scale": 1.0}),
            ("sd3", {"prompt": "a cat", "skip_guidance_layers": [0], "skip_layer_guidance_scale": "nan"}),
            ("sd3", {"prompt": "a cat", "skip_guidance_layers": [0], "skip_layer_guidance_start": 0.5}),
            ("sd3", {"prompt": "a cat", "height": 48}),
            ("pixart", {"prompt": "a cat", "prompt_2": "a fox"}),
            ("sd3", {"prompt_2": "a fox"}),
            ("sd3", {"negative_prompt_3": "blurry"}),
            ("sd3", {"prompt": ["a cat", "a fox"], "prompt_3": ["x", "y", "z"]}),
            ("sd3", {"prompt": ["a cat", "a fox"], "negative_prompt_2": ["x", "y", "z"]}),
            ("flux", {"prompt": "a cat", "prompt_3": "a fox"}),
            ("flux", {"prompt": "a cat", "negative_prompt_3": "blurry"}),
            ("flux", {"prompt": "a cat", "guidance_scale": "nan"}),
            ("flux", {"prompt": "a cat", "true_cfg_scale": "inf"}),
        )
    ),
    ("fashion", {"num_frames": 9}),
    ("fashion", {"frame_rate": 12.5}),
    ("fashion", {"window_frames": 9}),
    ("fashion", {"window_overlap": 4}),
    ("fashion", {"guidance_scale_2": 2.0}),
    ("fashion", {"last_image": [[32, 32, 3]]}),
    ("fashion", {"video": [[32, 32, 3]]}),
    ("fashion", {"video": [[32, 32, 3]], "image": [[32, 32, 3]]}),
    ("fashion", {"vae_tile": "model"}),
    ("fashion", {"decode_timestep": 0.5}),
    *(
        (bundle, {"class_labels": None, "prompt": "a cat", **_SMALL, **request})
        for bundle, request in (
            *(("wan", {"num_frames": number}) for number in (0, -1, -5, 2, 3, 4, 8, 1000, 2**40, -(2**62))),
            ("wan", {"height": 12}),
            ("wan", {"frame_rate": 0.0}),
            ("wan", {"frame_rate": -1.5}),
            ("wan", {"frame_rate": 1000.0}),
            ("wan", {"frame_rate": "nan"}),
            ("wan", {"guidance_scale_2": 2.0}),
            ("wan-experts", {"guidance_scale_2": "nan"}),
            ("wan", {"window_frames": 4}),
            ("wan", {"window_frames": 9, "window_overlap": 3}),
            ("wan", {"window_frames": 9, "window_overlap": -4}),
            ("wan", {"window_frames": 9, "window_overlap": 12}),
            ("wan", {"window_overlap": 4}),
            ("wan", {"image": [[16, 16, 3]]}),
            ("wan", {"last_image": [[16, 16, 3]]}),
            ("wan", {"video": [[16, 16, 3]] * 3}),
            ("wan", {"video": [[16, 16, 3]] * 3, "num_frames": None}),
            ("wan", {"video": [[16, 16, 3]] * 5, "num_frames": 9}),
            ("wan", {"video": [[4, 4, 3]] * 5, "height": None}),
            ("wan", {"video": [[16, 16, 3]] * 5, "image": [[16, 16, 3]]}),
            ("wan", {"strength": 0.5}),
            ("wan", {"decode_noise_scale": 0.5}),
            ("wan", {"vae_tile": 12}),
            ("wan", {"vae_memory": "1.5k"}),
            ("wan", {"noise": {"shape": [1, 5, 2, 4], "value": 0.0}}),
            ("wan-image", {}),
            ("wan-image", {"image": [[16, 16, 3]], "last_image": [[16, 16, 3]]}),
            ("wan-image", {"last_image": [[16, 16, 3]]}),
            ("wan-image", {"image": [[16, 16, 3]] * 2}),
        )
    ),
    ("fashion-denoiser", {}),
    ("fashion-denoiser", {"output_type": "latent", "image": [[32, 32, 3]]}),
    ("fashion", {"engine": "fast"}),
    ("fashion-denoiser", {"engine": "int8"}),
    ("fashion", {"engine": ""}),
)


def write_refusals(bundles: Path, path: Path) -> int:
    """Ask the Python runtime for each of :data:`REFUSED`, write what it said as JSON, and return how many there are."""
    opened = {name: Bundle.open(bundles / name) for name in {bundle for bundle, _ in REFUSED}}
    pipelines = {name: Pipeline(bundle, "onnx", threads=1) for name, bundle in opened.items()}
    found = []
    for name, changed in REFUSED:
        request = {key: value for key, value in {**_LABEL, **changed}.items() if value is not None}
        try:
            options = {"engine": "onnx", **{key: request[key] for key in _OPTIONS if key in request}}
            pipe = pipelines[name] if options == {"engine": "onnx"} else Pipeline(opened[name], **options, threads=1)
            pipe(**_arguments(request))
        except DitDeployError as error:
            refusal = {"error": type(error).__name__, "message": str(error)}
        else:
            raise AssertionError(f"{name}: {changed} was not refused")
        found.append({"bundle": f"bundles/{name}", "request": request, **refusal})
    document = {"format": "dit-deploy-refusals", "version": 1, "refused": found}
    path.write_text(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(found)


def _arguments(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request's arguments as Python's pipeline takes them."""
    arguments = {name: _number(value) for name, value in request.items() if name not in _OPTIONS}
    if "noise" in request:
        arguments["noise"] = np.full(request["noise"]["shape"], float(request["noise"]["value"]), np.float32)
    for name in ("image", "last_image", "video"):
        if name in request:
            arguments[name] = [Image.new("RGB", (width, height)) for height, width, _ in request[name]]
    if "guidance_interval" in request:
        arguments["guidance_interval"] = tuple(map(_number, request["guidance_interval"]))
    return arguments


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf") else value
