"""Write the graphs that the C++ loop on the device is tested with: solver graphs, and a denoiser of two kilobytes.

python tests/runtimes/cpp/golden_device.py [--check]

The solver graphs are those of the exporters, without and with a learned variance. The denoiser is elementwise: it
stands for a model whose outputs depend on every input, the class included.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnx.parser

from dit_deploy.bundle import Axis, Component, TensorSpec
from dit_deploy.exporters.solver_graph import make_solver

FOLDER = Path(__file__).parents[3] / "runtimes/cpp/tests/golden/device"

BATCH, ROWS, COLUMNS = Axis(name="batch"), Axis(name="patch_height", multiple=2), Axis(name="patch_width", multiple=2)

#: tests/device_models.h has the same formula.
DENOISER = """<ir_version: 10, opset_import: ["": 18]>
denoiser (float[batch, 4, height, width] latents, float[batch] timestep, int64[batch] class_labels)
    => (float[batch, 4, height, width] prediction, float[batch, 4, height, width] variance) {
    axes = Constant<value_ints = [1, 2, 3]>()
    labels = Cast<to = 1>(class_labels)
    of_label = Constant<value_float = 0.05>()
    of_timestep = Constant<value_float = 0.001>()
    label_part = Mul(labels, of_label)
    timestep_part = Mul(timestep, of_timestep)
    shift = Add(label_part, timestep_part)
    wide_shift = Unsqueeze(shift, axes)
    moved = Add(latents, wide_shift)
    prediction = Tanh(moved)
    negative = Neg(moved)
    variance = Tanh(negative)
}"""


def graphs() -> dict[str, bytes]:
    """Return each file's bytes by name, the same each time."""
    denoiser = onnx.parser.parse_model(DENOISER)
    onnx.checker.check_model(denoiser, full_check=True)
    plain, learned = make_solver(_manifest(learned=False)), make_solver(_manifest(learned=True))
    made = {"solver": plain, "solver_learned": learned, "denoiser": denoiser}
    return {f"{name}.onnx": model.SerializeToString(deterministic=True) for name, model in made.items()}


def _manifest(*, learned: bool) -> Any:
    latents = TensorSpec(name="latents", dtype="float32", axes=(BATCH, 4, ROWS, COLUMNS))
    return SimpleNamespace(
        components={"denoiser": Component(path="denoiser.onnx", inputs=(latents,), outputs=(latents,))},
        latents=SimpleNamespace(channels=4),
        prediction=SimpleNamespace(learned_range_variance=learned),
    )


def main() -> int:
    """Write the files; with ``--check`` say whether they are up to date."""
    for name, data in graphs().items():
        path = FOLDER / name
        if "--check" in sys.argv[1:]:
            if not path.is_file() or path.read_bytes() != data:
                print(f"{path} is not what this script writes")
                return 1
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
