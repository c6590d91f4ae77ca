"""Writes what the C++ runtime's sampling tests read: ``runtimes/cpp/tests/golden/{tables,tables_state,noise}.json``.

    python tests/runtimes/cpp/golden_sampling.py           # writes the files
    python tests/runtimes/cpp/golden_sampling.py --check   # 1 where a file is not what would be written now

The tables, messages and steps are those of the Python package; the noise is torch's own. Solver tables are those of
the cases that are held against diffusers (``tests/sampling/solvers``). Of long tables some rows are kept.

A table's row is ``[timestep, step, input_scale, output[0], output[1], clip, noise_draws, log_variance[0],
log_variance[1], saved…, sample…]`` with ``null`` for an infinite clip and NaN log-variances.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for tests.sampling, when run as a program

from dit_deploy.errors import InputError  # noqa: E402
from dit_deploy.sampling import (  # noqa: E402
    Guidance,
    SkipLayerGuidance,
    SolverState,
    image_to_image_begin,
    resolve_scheduler,
    solver_table,
)
from dit_deploy.sampling.schedulers import SCHEDULERS, SHORT_NAMES  # noqa: E402
from dit_deploy.sampling.solver_row import solver_rows  # noqa: E402
from tests.sampling.solvers import (  # noqa: E402
    test_cogvideox,
    test_ddim,
    test_ddpm,
    test_dpm_solver,
    test_euler,
    test_flow_match,
    test_heun,
    test_lcm,
    test_lms,
    test_pndm,
    test_unipc,
)

__all__ = ["FOLDER", "check", "documents"]

FOLDER = ROOT / "runtimes" / "cpp" / "tests" / "golden"
FORMAT = 1
COMMAND = "python tests/runtimes/cpp/golden_sampling.py"
#: how far what is written on another machine may be off: its numpy and torch round otherwise
TOLERANCE = {"tables": 1e-9, "tables_state": 1e-6, "noise": 1e-6}

Json = dict[str, Any]
FLOW = "FlowMatchEulerDiscreteScheduler"


def documents() -> dict[str, Json]:
    """Return name → what the file of that name holds."""
    return {"tables": tables_document(), "tables_state": state_document(), "noise": noise_document()}


def tables_document() -> Json:
    """Return tables, or the messages of those that there are none of; and what schedulers' names mean."""
    return {
        **_header(),
        "tables": [_case(name, config, request) for name, config, request in (*_tables(), *_refused())],
        "schedulers": [_scheduler(own, asked) for own, asked in _asked_schedulers()],
        "begins": [
            _begin(steps, strength, round_up)
            for steps in (1, 4, 50)
            for strength in (-0.1, 0.0, 0.01, 0.3, 0.8, 1.0)
            for round_up in (False, True)
        ],
    }


def _header() -> Json:
    return {"format": FORMAT, "written_by": COMMAND}


# --- tables


def _tables() -> Iterator[tuple[str, Json, Json]]:
    """Yield (name, config, arguments of solver_table)."""
    for index, (name, config) in enumerate(_configs()):
        for steps in (7, *((20,) if index % 2 else ()), *((1, 2, 4, 50) if index % 3 == 0 else ())):
            yield name, config, {"num_inference_steps": steps}
    for name, config in _begun():
        for begin in (1, 8, 19):
            yield name, config, {"num_inference_steps": 20, "begin": begin}
    ddim = {"_class_name": "DDIMScheduler", "clip_sample": False}
    for eta in (0.3, 1.0):
        yield "eta", ddim, {"num_inference_steps": 7, "eta": eta}
    yield from _shifted_tables()


def _configs() -> Iterator[tuple[str, Json]]:
    for module in (test_ddpm, test_ddim, test_dpm_solver, test_unipc, test_heun, test_lms, test_lcm, test_pndm):
        for case, options in module.CASES.items():
            yield case, {"_class_name": module.NAME, **options}
    for pairs in (test_euler.CASES, test_flow_match.CASES):
        for case, (name, options) in pairs.items():
            yield case, {"_class_name": name, **options}
    yield "learned range", {"_class_name": "DDPMScheduler", **test_ddpm.LEARNED}
    yield "learned range leading", {"_class_name": "DDPMScheduler", "variance_type": "learned_range"}
    yield (
        "zero SNR v",
        {
            "_class_name": "DDIMScheduler",
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "clip_sample": False,
        },
    )
    yield "leaking ends", {"_class_name": "LMSDiscreteScheduler", "use_exponential_sigmas": True, "sigma_min": 0.1}
    yield "infinite clip", {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -math.inf}
    yield "private", {"_class_name": "PNDMScheduler", "_diffusers_version": "0.42.1", "skip_prk_steps": True}
    yield "carried", {"_class_name": "EulerDiscreteScheduler", "clip_sample": True, "solver_order": 3, "rho": 7.0}
    for name in test_cogvideox.NAMES:
        for case, options in test_cogvideox.CASES.items():
            yield case, {"_class_name": name, **options}
        yield "zero SNR, float32", {"_class_name": name, **test_cogvideox.PUBLISHED, "beta_schedule": "linear"}


def _begun() -> Iterator[tuple[str, Json]]:
    for name in SCHEDULERS:
        yield "begun", {"_class_name": name}
    yield "begun", {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "use_karras_sigmas": True}
    yield "begun", {"_class_name": "UniPCMultistepScheduler", "solver_order": 3, "disable_corrector": [1, 9]}
    yield "begun", {"_class_name": "PNDMScheduler", "skip_prk_steps": True}


def _shifted_tables() -> Iterator[tuple[str, Json, Json]]:
    dynamic = {"use_dynamic_shifting": True}
    for steps in (1, 4, 20):
        own = np.linspace(1.0, 1 / steps, steps).tolist()
        request = {"num_inference_steps": steps}
        for kind in ("exponential", "linear"):
            flow = {"_class_name": FLOW, **dynamic, "time_shift_type": kind, "shift": 3.0}
            unipc = {"_class_name": "UniPCMultistepScheduler", **test_unipc.FLOW, **dynamic, "time_shift_type": kind}
            for config in (flow, unipc):
                yield "dynamic", config, {**request, "mu": 1.15}
                yield "dynamic, own", config, {**request, "mu": 0.7, "sigmas": own}
                yield "terminal, own", {**config, "shift_terminal": 0.1}, {**request, "mu": 0.7, "sigmas": own}
        yield "own", {"_class_name": FLOW, "shift": 3.0}, {**request, "sigmas": own}
        yield "terminal", {"_class_name": FLOW, "shift": 3.0, "shift_terminal": 0.1}, request
        dpm = {"_class_name": "DPMSolverMultistepScheduler", **test_dpm_solver.FLOW, **dynamic}
        yield "dynamic", dpm, {**request, "mu": 0.8}
    yield "dynamic without mu", {"_class_name": FLOW, **dynamic}, {"num_inference_steps": 4}


def _refused() -> Iterator[tuple[str, Json, Json]]:
    """Yield what has no table, beyond those in :func:`_tables`."""
    four = {"num_inference_steps": 4}
    for module in (test_dpm_solver, test_unipc):
        parameters = next(mark for mark in module.test_unsupported.pytestmark if mark.name == "parametrize")
        for options, _ in parameters.args[1]:
            yield "unsupported", {"_class_name": module.NAME, **options}, four
    for name, solver in SCHEDULERS.items():
        yield "unknown option", {"_class_name": name, "clip_sampel": False}, four
        yield "too many steps", {"_class_name": name}, {"num_inference_steps": 1001}
        yield "no steps", {"_class_name": name}, {"num_inference_steps": 0}
        if "thresholding" in solver.options:
            yield "thresholding", {"_class_name": name, "thresholding": True}, four
        if "prediction_type" in solver.options:
            yield "prediction type", {"_class_name": name, "prediction_type": "score"}, four
    ddim: list[Json] = [
        {"trained_betas": [0.1, 0.1, 0.1, -2.0], "num_train_timesteps": 4},
        {"trained_betas": [0.1, "b"], "num_train_timesteps": 2},
        {"trained_betas": "abcd", "num_train_timesteps": 4},
        {"num_train_timesteps": 0},
        {"num_train_timesteps": 10.5},
        {"num_train_timesteps": 1e30},
        {"num_train_timesteps": True},
        {"beta_start": -0.1},
        {"beta_start": None},
        {"beta_end": "0.02"},
        {"beta_end": 'it\'s "quoted"\n\t\\'},
        {"beta_end": [1, 2.0, None, True, {"a": "b"}]},
        {"beta_end": 1e-300, "beta_start": 2.5},
        {"beta_start": 123456789.25},
        {"beta_start": 1e16},
        {"rescale_betas_zero_snr": "yes"},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        {"timestep_spacing": "cosine"},
        {"timestep_spacing": None},
        {"steps_offset": -1},
        {"steps_offset": 400},
        {"clip_sample_range": math.inf, "clip_sample": 1},
        {"beta_start": 0.0, "beta_end": 0.0},
    ]
    for options in ddim:
        yield "bad option", {"_class_name": "DDIMScheduler", **options}, four
    others: list[Json] = [
        {"_class_name": "DDPMScheduler", "variance_type": "learned"},
        {"_class_name": "DDPMScheduler", "beta_schedule": "exp"},
        {"_class_name": "LCMScheduler", "original_inference_steps": 3},
        {"_class_name": "LCMScheduler", "original_inference_steps": 1001},
        {"_class_name": "LCMScheduler", "timestep_scaling": 1e300},
        {"_class_name": "LCMScheduler", "rho": 7.0},
        {"_class_name": "PNDMScheduler", "steps_offset": 300},
        {"_class_name": "UniPCMultistepScheduler", "disable_corrector": [1, 2.5]},
        {"_class_name": "UniPCMultistepScheduler", "use_exponential_sigmas": True, "sigma_min": 0.0},
        {"_class_name": FLOW, "time_shift_type": "cubic"},
        {"_class_name": FLOW, "use_karras_sigmas": True, "use_beta_sigmas": True},
        {"_class_name": FLOW, "shift": -1},
        {"_class_name": "FlowMatchHeunDiscreteScheduler", "use_dynamic_shifting": True},
        {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "cubic"},
        {"_class_name": "KDPM2DiscreteScheduler"},
        {"_class_name": ["DDIMScheduler"]},
        {"_class_name": None},
        {},
    ]
    for config in others:
        yield "bad option", config, four
    for spacing in ("linspace", "leading"):
        config = {"_class_name": test_dpm_solver.NAME, "timestep_spacing": spacing}
        yield "steps that coincide", config, {"num_inference_steps": 1000}
    plain = {"_class_name": "DDIMScheduler"}
    for argument, value in (
        ("begin", 4), ("begin", -1), ("eta", 1.5), ("mu", 1.0), ("sigmas", [1.0, 0.5, 0.3, 0.2]), ("eta", -0.25),
    ):  # fmt: skip
        yield "bad argument", plain, {**four, argument: value}
    yield "bad argument", {"_class_name": "EulerDiscreteScheduler"}, {**four, "eta": 0.5}
    flow = {"_class_name": FLOW}
    for sigmas in ([1.0, 0.5], [1.0, 0.5, 0.5, 0.1], [1.5, 1.0, 0.5, 0.1], [0.5, 0.3, 0.1, 0.0], []):
        yield "bad sigmas", flow, {**four, "sigmas": sigmas}
    yield "bad sigmas", flow, {"num_inference_steps": 2, "sigmas": [1.0]}


def _case(name: str, config: Mapping[str, Any], request: Mapping[str, Any]) -> Json:
    case: Json = {"name": name, "config": dict(config), "request": dict(request)}
    arguments = dict(request)
    steps = arguments.pop("num_inference_steps")
    try:
        document = solver_table(config, steps, **arguments).to_json()
    except InputError as error:
        return {**case, "error": str(error)}
    count = len(document["timesteps"])
    kept = sorted({*range(min(count, 3)), count // 2, *range(max(count - 3, 0), count)})
    rows = [_row(document, row) for row in kept]
    ends = {key: document[key] for key in ("num_steps", "initial_noise_scale", "start")}
    return {**case, **ends, "count": count, "history": len(document["basis"]) - 4, "kept": kept, "rows": rows}


def _row(document: Mapping[str, Any], row: int) -> list[Any]:
    columns = ("timesteps", "step", "input_scale", "output", "clip", "noise_draws", "log_variance", "saved", "sample")
    numbers: list[Any] = []
    for column in columns:
        value = document[column][row]
        numbers += value if isinstance(value, list) else [value]
    return [_short(number) for number in numbers]


def _short(number: Any) -> Any:
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) < 2**53 else number


# --- the names of schedulers


def _asked_schedulers() -> Iterator[tuple[Json, str]]:
    dit = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.42.1",
        "num_train_timesteps": 1000,
        "clip_sample": False,
        "timestep_spacing": "trailing",
        "beta_schedule": "scaled_linear",
        "beta_end": 0.03,
    }
    bases: list[Json] = [
        dit,
        {**dit, "_use_default_values": ["clip_sample", "beta_end"]},
        {"_class_name": FLOW, "shift": 3.0, "use_dynamic_shifting": True, "shift_terminal": 0.1, "sigma_min": None},
        {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -math.inf, "sigma_min": 0.1, "rho": 5},
    ]
    for base in bases:
        for name in ("", *SHORT_NAMES, *SCHEDULERS):
            yield base, name
    whole = {"_class_name": "EulerDiscreteScheduler", "lambda_min_clipped": -math.inf, "beta_end": 0.5}
    yield dit, json.dumps(whole)
    for asked in ("DDIM", "no 'such' one", '{"_class_name": "DEISMultistepScheduler"}', "{}"):
        yield dit, asked
    for base in ({}, {"_class_name": 3}, {**dit, "_use_default_values": 5}, {**dit, "_use_default_values": None}):
        yield base, "euler"
    yield {**dit, "_use_default_values": [["clip_sample"]]}, "euler"


def _scheduler(own: Json, asked: str) -> Json:
    case: Json = {"own": own, "asked": asked}
    meant: Any = json.loads(asked) if asked.startswith("{") else asked or None
    try:
        return {**case, "config": resolve_scheduler(own, meant)}
    except InputError as error:
        return {**case, "error": str(error)}


def _begin(steps: int, strength: float, round_up: bool) -> Json:
    case: Json = {"steps": steps, "strength": strength, "round_up": round_up}
    try:
        return {**case, "begin": image_to_image_begin(steps, strength, round_up=round_up)}
    except InputError as error:
        return {**case, "error": str(error)}


# --- the loop


class _Numbers:
    """Numbers in −2 … 2 that the C++ test makes too: 24 bits of Knuth's linear congruential generator (MMIX)."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def array(self, *shape: int) -> NDArray[np.float32]:
        values = []
        for _ in range(math.prod(shape)):
            self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
            values.append((self._state >> 40) * 2.0**-22 - 2.0)
        return np.array(values, np.float32).reshape(shape)


def state_document() -> Json:
    """Return runs of tables over made-up predictions, guided predictions, and rows for the solver graph."""
    return {
        **_header(),
        "runs": [_run(config, steps) for config, steps in _runs()],
        "guidance": [_guided(**options) for options in _guidances()],
        "rows": [_solver_rows(config, steps) for config, steps in _runs()],
    }


def _runs() -> Iterator[tuple[Json, int]]:
    yield {"_class_name": "DDIMScheduler"}, 4
    yield {"_class_name": "DDPMScheduler"}, 4
    yield {"_class_name": "DDPMScheduler", **test_ddpm.LEARNED}, 5
    yield {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, 6
    yield {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, 4
    yield {"_class_name": "UniPCMultistepScheduler", "solver_order": 3, "disable_corrector": [2]}, 6
    yield {"_class_name": "EulerAncestralDiscreteScheduler"}, 4
    yield {"_class_name": "HeunDiscreteScheduler", **test_heun.CLIPPED}, 4
    yield {"_class_name": "LMSDiscreteScheduler"}, 6
    yield {"_class_name": "LCMScheduler"}, 4
    yield {"_class_name": "PNDMScheduler"}, 5
    yield {"_class_name": FLOW, "stochastic_sampling": True}, 4
    yield {"_class_name": "FlowMatchHeunDiscreteScheduler"}, 4


def _run(config: Json, steps: int) -> Json:
    table = solver_table(config, steps)
    shape = (1, 1, 3, 5)
    numbers = _Numbers(steps)
    state = SolverState(table, shape)
    state.reset(numbers.array(*shape))
    inputs, samples = [], []
    for row in range(len(table)):
        inputs.append(_singles(state.model_input(row)[0, 0, 0, :2]))
        arrays = [numbers.array(*shape) for _ in range(3)]  # prediction, variance and noise, needed or not
        samples.append(_singles(state.advance(row, *arrays)))
    return {"config": config, "steps": steps, "inputs": inputs, "samples": samples}


def _guidances() -> Iterator[Json]:
    yield {"scale": 4.0}
    yield {"scale": 4.1, "channels": 3}
    yield {"scale": 7.5, "rescale": 0.7}
    yield {"scale": 2.5, "rescale": 1.0, "channels": 1}
    yield {"scale": 4.0, "token": 1}
    yield {"scale": 3.5, "token": 2, "channels": 3}
    yield {"scale": 4.0, "token": 2, "rescale": 0.5}


def _guided(**options: Any) -> Json:
    numbers = _Numbers(7)
    conditional, unconditional = numbers.array(2, 4, 4, 6), numbers.array(2, 4, 4, 6)
    kept, without = conditional.copy(), numbers.array(2, 4, 4, 6)
    guided = Guidance(**options).combine(conditional, unconditional, out=conditional)
    values = _singles(guided)
    SkipLayerGuidance((0,), 2.8).add(guided, kept, without)
    return {**options, "values": values, "skipped": _singles(guided)}


def _solver_rows(config: Json, steps: int) -> Json:
    guidance = Guidance(4.0, interval=(0.2, 0.8))
    rows = solver_rows(solver_table(config, steps), guidance, 0.001)
    kept = [
        [row.guided, row.noise, list(row.older), [_short(value) for value in _singles(row.coefficients)]]
        for row in rows
    ]
    return {"config": config, "steps": steps, "rows": kept}


def _singles(array: NDArray[np.float32]) -> list[float]:
    """The numbers with as few digits as give the float32 back."""
    return [float(str(value)) for value in np.asarray(array, np.float32).reshape(-1)]


# --- noise

_SEEDS = (0, 1, 42, 2**32 - 1, 2**32 + 5, 2**63, 2**64 - 1)
_LONG = (65, 79, 96, 100, 511, 512, 513, 1000, 1024, 4095, 4096, 4101, 9999, 16384, 50000, 65536, 99991, 99999, 100000)
_MIXED = (5, 20, 3, 1, 16, 7, 100, 33, 1, 2, 15, 1000, 9, 48, 6)


def noise_document() -> Json:
    """Return what torch.randn draws: every length of 1 … 64, long ones, successive ones, one generator a sample."""
    runs = [_drawn([5], [[length]]) for length in range(1, 65)]
    runs += [_drawn([seed], [[length]]) for seed in _SEEDS for length in (1, 2, 15, 16, 17, 31, 64, 4096)]
    runs += [_drawn([index], [[length]]) for index, length in enumerate(_LONG)]
    runs += [_drawn([seed], [[length] for length in _MIXED]) for seed in _SEEDS]
    runs += [_drawn([1, 2**63, 7], [[3, 4, 9], [3, 5], [3, 1, 7, 7]]), _drawn([9], [[3, 4, 9], [2, 5]])]
    return {**_header(), "runs": runs}


def _drawn(seeds: list[int], shapes: list[list[int]]) -> Json:
    import torch  # only what writes the file needs it

    generators = []
    for seed in seeds:
        # torch reads a seed above 2**63 as the negative number of the same 64 bits
        generators.append(torch.Generator("cpu").manual_seed(seed if seed < 2**63 else seed - 2**64))
    draws = []
    for shape in shapes:
        if len(seeds) == 1:
            values = torch.randn(shape, generator=generators[0])
        else:
            values = torch.cat([torch.randn([1, *shape[1:]], generator=generator) for generator in generators])
        flat = values.reshape(-1).numpy()
        kept = _kept(len(flat))
        draws.append({"shape": shape, "kept": kept, "values": _singles(flat[kept])})
    return {"seeds": seeds, "draws": draws}


def _kept(count: int) -> list[int]:
    """All of a short draw; of a long one both ends, where its path is another, and some between."""
    if count <= 64:
        return list(range(count))
    between = np.random.RandomState(count).randint(0, count, 16).tolist()
    return sorted({*range(4), *between, *range(count - 18, count)})


# --- files


def check(name: str, document: Json) -> list[str]:
    """Return where the committed file ``name`` is not ``document``, as lines; none: it is."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        return [f"{path}: not there; run {COMMAND}"]
    lines = list(_differences(json.loads(path.read_text("utf-8")), json.loads(_text(document)), TOLERANCE[name]))
    return [f"{path.name}: {line}; run {COMMAND}" for line in lines[:10]]


def _differences(old: Any, new: Any, tolerance: float, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in old:
            yield from _differences(old[key], new[key], tolerance, f"{where}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (first, second) in enumerate(zip(old, new, strict=True)):
            yield from _differences(first, second, tolerance, f"{where}[{index}]")
    elif isinstance(old, (int, float)) and isinstance(new, (int, float)) and not isinstance(old, bool):
        if old != new and not abs(old - new) <= tolerance * max(1.0, abs(old)):
            yield f"{where} is {old}, {new} expected"
    elif old != new:
        yield f"{where} is {str(old)[:60]}, {str(new)[:60]} expected"


def _text(document: Json) -> str:
    """A line an entry, so that a change shows as what it is."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list):
            lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in value)
            parts.append(f"{json.dumps(key)}:[\n{lines}]")
        else:
            parts.append(f"{json.dumps(key)}:{json.dumps(value)}")
    return "{" + ",\n".join(parts) + "}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs (default: write)")
    arguments = parser.parse_args()
    wrong = []
    for name, document in documents().items():
        if arguments.check:
            wrong += check(name, document)
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            (FOLDER / f"{name}.json").write_text(_text(document), "utf-8")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
