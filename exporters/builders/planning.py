"""From what a user asks for to a plan of the build: recipes, profiles, target, and the key that tells if it is done.

Nothing heavy happens here, so a plan can be made to explain what a build would change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from dit_deploy import extras
from dit_deploy.bench import machine
from dit_deploy.bundle import Bundle
from dit_deploy.bundle.engine import BackendName, Precision, Profile, Target
from dit_deploy.bundle.solver import SOLVER, solver_profile
from dit_deploy.errors import InputError
from dit_deploy.exporters.builders import flavours, tensorrt
from dit_deploy.exporters.builders.ep_context import PROVIDERS
from dit_deploy.exporters.builders.extents import parse_extent
from dit_deploy.exporters.builders.plan import CalibrationOptions, Plan, TensorRTOptions, key_parts
from dit_deploy.exporters.builders.profiles import plan_profiles, range_profiles
from dit_deploy.exporters.builders.recipe import Compute, Recipe
from dit_deploy.exporters.builders.text_sizes import text_sizes
from dit_deploy.exporters.calibration.texts import read_prompts, reads_prompts
from dit_deploy.exporters.component_roles import denoisers
from dit_deploy.parity.limits import limits_for
from dit_deploy.runtimes import cpu_ops

__all__ = ["ProviderName", "make_plan"]

ProviderName = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]

#: ONNX Runtime's names of the providers that an engine can be for.
_PROVIDERS: dict[ProviderName, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": PROVIDERS["tensorrt"],
    "tensorrt-rtx": PROVIDERS["tensorrt-rtx"],
}
#: What TensorRT-RTX is built for where nobody says: Ampere, Ada and Blackwell.
_RTX_TARGETS = ("8.0", "8.6", "8.9", "12.0")


def make_plan(
    bundle: Bundle,
    *,
    backend: str = "onnxruntime",
    precision: str = "fp32",
    name: str | None = None,
    components: Sequence[str] | None = None,
    provider: str | None = None,
    minimum: str | None = None,
    optimum: str | None = None,
    maximum: str | None = None,
    resolutions: Sequence[str] = (),
    compute_capabilities: Sequence[str] = (),
    compute: str | None = None,
    keep: Sequence[str] = (),
    islands: Sequence[str] = (),
    attention: str = "auto",
    kernels: str = "auto",
    smoothing: float | None = 0.5,
    method: str = "mse",
    percentile: float = 99.99,
    calibration: CalibrationOptions | None = None,
    limit: float | Literal["default"] | None = "default",
    adjust: bool = True,
    tensorrt_options: TensorRTOptions | None = None,
) -> Plan:
    """Return the plan of an engine; :func:`~dit_deploy.exporters.builders.build_engine` takes the same arguments.

    Args:
        backend: ``onnxruntime``, ``tensorrt-rtx`` (built anywhere, for chosen GPUs) or ``tensorrt`` (built on the GPU).
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``fp8``; the last two of linear layers inside the blocks.
        name: of the engine; ``BACKEND-PRECISION`` by default, with the provider between where that is not the CPU's.
        components: to build, all by default; what an engine does not have runs as a plain graph.
        provider: of ONNX Runtime: ``cpu`` (the default for fp32 and int8), ``cuda``, ``tensorrt`` or ``tensorrt-rtx``.
        minimum, optimum, maximum: sizes that a TensorRT engine takes, ``"BxHxW"``, pictures and pixels; see
            :func:`~dit_deploy.exporters.builders.profiles.range_profiles` for what is left out.
        resolutions: instead, a profile for each, ``"HxW"``, the hot one first; ``minimum`` and ``maximum`` then hold
            everything between, in one profile more.
        compute_capabilities: GPUs that TensorRT-RTX builds for, such as ``("8.9", "12.0")``.
        compute: what the rest of an int8 or fp8 engine computes in: ``fp16`` by default, ``fp32`` on a CPU.
        keep: layers that are not quantised, as glob patterns of their names.
        islands: nodes or modules that stay in FP32 beside those found by rule, as glob patterns.
        attention: the operator that attention becomes; ``auto`` is what the backend runs fused.
        kernels: of int8 on a CPU: ``onnxruntime``'s own, the ``fused`` ones of this package, or ``auto``: the fused
            ones where the CPU has VNNI and there is a compiler.
        smoothing: SmoothQuant's α of int8 and fp8, 0 … 1; ``None`` for none.
        method, percentile: how activation scales follow from what calibration saw.
        calibration: what is drawn to calibrate.
        limit: decibels of PSNR against the plain graphs that the engine must reach; the precision's by default, which
            gives way to what the bundle's own sampling makes of small errors
            (:mod:`~dit_deploy.parity.amplification`); ``None`` for no limit.
        adjust: let an int8 or fp8 engine keep layers wider until the limit holds.

    Raises:
        InputError: an argument is none of its choices, or two do not go together.
        BackendError: the backend is missing here; the message says what it lacks.
    """
    chosen_backend: BackendName = _choice("backend", backend, get_args(BackendName))
    chosen_precision: Precision = _choice("precision", precision, get_args(Precision))
    options = tensorrt_options or TensorRTOptions()
    if chosen_backend != "onnxruntime" and provider is not None:
        raise InputError(f"provider: {provider!r} came, but only --backend onnxruntime has providers")
    quantized = chosen_precision in ("int8", "fp8")
    chosen_provider: ProviderName | None = None
    if chosen_backend == "onnxruntime":
        default = "cpu" if chosen_precision in ("fp32", "int8") else "cuda"
        chosen_provider = _choice("provider", provider or default, get_args(ProviderName))
    flavour = _flavour(chosen_backend, chosen_provider)
    _check_pair(chosen_precision, chosen_provider)
    if options.strip_weights and chosen_backend == "onnxruntime":
        raise InputError("strip_weights: ONNX Runtime cannot fill an engine here; use --backend tensorrt")
    if smoothing is not None and not 0 <= smoothing <= 1:
        raise InputError(f"smoothing: {smoothing} came, expected α in 0 … 1, or none")
    _choice("method", method, ("max", "percentile", "mse"))
    _choice("attention", attention, ("auto", "onnx", "microsoft", "decomposed"))
    fused = _fused(kernels, chosen_precision, chosen_provider)
    if flavour is None and (given := options.decisive() or compute_capabilities or options.timing_cache):
        raise InputError(f"{given} came, but ONNX Runtime's own providers build nothing ahead of time; leave it out")

    calibration = calibration or CalibrationOptions()
    read_prompts(bundle, calibration.prompts)
    built = _components(bundle, components)
    inner: Compute
    if quantized:
        inner = _choice("compute", compute or ("fp32" if chosen_provider == "cpu" else "fp16"), get_args(Compute))
        if chosen_provider == "cpu" and inner != "fp32":
            raise InputError(f"compute: {inner} came, but ONNX Runtime's CPU provider computes in fp32 beside int8")
    elif compute not in (None, chosen_precision):
        raise InputError(f"compute: {compute} came with precision {chosen_precision}; it is for int8 and fp8")
    else:
        inner = "fp16" if chosen_precision == "fp16" else "bf16" if chosen_precision == "bf16" else "fp32"
    recipes = {
        component: _recipe(
            component in denoisers(bundle.manifest),
            chosen_precision,
            inner,
            attention=attention if attention != "auto" else _attention(chosen_provider, inner),
            integer="explicit" if chosen_provider != "cpu" else "fused" if fused else "cpu",
            smoothing=smoothing,
            method=method,
            percentile=percentile,
            keep=tuple(keep),
            islands=tuple(islands),
            norm_casts=flavour is not None,
            sigmoid_casts=flavour is None,
            products_only=reads_prompts(bundle, component),
        )
        for component in built
    }
    if keep and not quantized:
        raise InputError(f"keep: {', '.join(keep)} came, but {chosen_precision} quantises nothing; use islands")
    if islands and inner == "fp32":
        raise InputError(f"islands: {', '.join(islands)} came, but everything is computed in FP32 already")

    profiles: dict[str, tuple[Profile, ...]] = {}
    sizes = (minimum, optimum, maximum, *resolutions)
    if flavour is not None:
        profiles = _profiles(bundle, minimum, optimum, maximum, resolutions)
        profiles = {component: profiles[component] for component in built}
    elif any(sizes):
        raise InputError("sizes came, but ONNX Runtime's own providers run every size from one graph; leave them out")
    version, target = _target(chosen_backend, chosen_provider, flavour, tuple(compute_capabilities), options)
    if fused and "denoiser" in built:
        target = target.model_copy(update={"operators": "cpu_ops"})
    if target.device == "cuda" and "denoiser" in built and flavour is not None:
        profiles[SOLVER] = (solver_profile(profiles["denoiser"]),)

    tag = "" if chosen_provider in (None, "cpu") else f"-{chosen_provider}"
    plan = Plan(
        name=name or f"{chosen_backend}{tag}-{chosen_precision}",
        backend=chosen_backend,
        version=version,
        precision=chosen_precision,
        flavour=flavour,
        target=target,
        recipes=recipes,
        profiles=profiles,
        calibration=calibration,
        tensorrt=options,
        limit=limits_for(chosen_precision).psnr if limit == "default" else limit,
        allowed=limits_for(chosen_precision).prediction if limit == "default" else None,
        adjust=adjust and quantized,
    )
    plan.key_parts.update(key_parts(bundle, plan))
    return plan


def _recipe(denoiser: bool, precision: Precision, compute: Compute, **chosen: Any) -> Recipe:
    """Return one component's recipe: what is about 8 bits or about single layers is for the denoiser alone.

    Convolutions gain less and lose more on 8 bits, and an autoencoder runs once a picture. So does what reads
    prompts, whose error is in every step's conditions: there all but the products stays in FP32.
    """
    if denoiser and precision in ("int8", "fp8"):
        if precision == "fp8":
            chosen["integer"] = "explicit"
        return Recipe(precision, compute, **chosen)
    common = ("attention", "norm_casts", "sigmoid_casts", "products_only", *(("islands",) if denoiser else ()))
    plain = {name: chosen[name] for name in common}
    return Recipe(compute, compute, **plain)


def _choice(option: str, value: str, choices: Sequence[str]) -> Any:
    if value not in choices:
        raise InputError(f"{option}: {value!r} came, expected one of {', '.join(choices)}")
    return value


def _fused(kernels: str, precision: Precision, provider: ProviderName | None) -> bool:
    """Say whether INT8 is to use this package's own operators: where they are asked for, or faster and to be had."""
    _choice("kernels", kernels, ("auto", "onnxruntime", "fused"))
    possible = precision == "int8" and provider == "cpu"
    if kernels == "fused" and not possible:
        raise InputError("kernels: the fused operators are for --backend onnxruntime --provider cpu --precision int8")
    if kernels == "auto":
        # Measured on a CPU with VNNI; without it ONNX Runtime's own products may well be the faster ones.
        return possible and "VNNI" in machine.cpu()["features"] and not cpu_ops.cannot_build()
    return kernels == "fused"


def _components(bundle: Bundle, asked: Sequence[str] | None) -> list[str]:
    """Return the components to build, in the manifest's order."""
    for name in asked or ():
        bundle.component(name)
    if asked is not None and not asked:
        raise InputError("components: none came; leave it out to build all of them")
    return [name for name in bundle.manifest.components if asked is None or name in asked]


def _flavour(backend: BackendName, provider: ProviderName | None) -> Literal["tensorrt", "tensorrt-rtx"] | None:
    if backend != "onnxruntime":
        return backend
    return provider if provider in ("tensorrt", "tensorrt-rtx") else None


def _check_pair(precision: Precision, provider: ProviderName | None) -> None:
    """Refuse what a provider would run on another precision's kernels, or not at all."""
    if provider == "cpu" and precision in ("bf16", "fp8"):
        raise InputError(f"precision: ONNX Runtime's CPU provider has no {precision} kernels; use fp32 or int8")
    if provider == "cuda" and precision in ("int8", "fp8"):
        raise InputError(
            f"precision: ONNX Runtime's CUDA provider computes {precision} products in floating point, slower than "
            "fp16; use --backend tensorrt or tensorrt-rtx, or --provider tensorrt or tensorrt-rtx"
        )


def _attention(provider: ProviderName | None, compute: Compute) -> str:
    """Return the form that the backend runs fused. ONNX Runtime's CPU provider has no 16-bit MultiHeadAttention."""
    if provider == "cuda" or (provider == "cpu" and compute == "fp32"):
        return "microsoft"
    return "onnx"


def _profiles(
    bundle: Bundle, minimum: str | None, optimum: str | None, maximum: str | None, resolutions: Sequence[str]
) -> dict[str, tuple[Profile, ...]]:
    if resolutions:
        if optimum is not None:
            raise InputError("optimum: came with resolutions, of which the first is the optimum; leave one out")
        if (minimum is None) != (maximum is None):
            raise InputError("minimum and maximum go together beside resolutions: they are the fallback's ends")
        fallback = None
        if minimum is not None and maximum is not None:
            fallback = (parse_extent(minimum, "minimum"), parse_extent(maximum, "maximum"))
        extents = [parse_extent(text) for text in resolutions]
        return plan_profiles(bundle.manifest, extents, fallback=fallback, texts=text_sizes(bundle))
    ends = {"minimum": minimum, "optimum": optimum, "maximum": maximum}
    low, best, high = (None if text is None else parse_extent(text, name) for name, text in ends.items())
    return range_profiles(bundle.manifest, minimum=low, optimum=best, maximum=high, texts=text_sizes(bundle))


def _target(
    backend: BackendName,
    provider: ProviderName | None,
    flavour: Literal["tensorrt", "tensorrt-rtx"] | None,
    compute_capabilities: tuple[str, ...],
    options: TensorRTOptions,
) -> tuple[str, Target]:
    """Return the backend's version and what the engine is for, once it is known that it can be built here."""
    if flavour is None:
        assert provider is not None
        version = extras.installed("onnxruntime") or extras.installed("onnxruntime-gpu") or "not installed"
        return version, Target(device="cpu" if provider == "cpu" else "cuda", provider=_PROVIDERS[provider])
    if flavour == "tensorrt-rtx" and not compute_capabilities:
        known = flavours.library(flavour).compute_capabilities
        compute_capabilities = tuple(one for one in _RTX_TARGETS if one in known)
    tensorrt.check_options(flavour, compute_capabilities=compute_capabilities, **vars(options))
    library = flavours.library(flavour)
    if flavour == "tensorrt":
        assert library.gpu is not None  # the library is refused without one
        compute_capabilities = (library.gpu.compute_capability,)
    return library.version, Target(
        device="cuda",
        provider=None if backend != "onnxruntime" else PROVIDERS[flavour],
        compute_capabilities=compute_capabilities,
    )
