"""Engines in words, as ``inspect`` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dit_deploy.bundle import Engine, EngineComponent

__all__ = ["describe_engine"]


def describe_engine(engine: Engine) -> list[str]:
    """Return lines that say what an engine is, its components, how good it is, and whether it fits this machine."""
    from dit_deploy.runtimes.fit import made_for, unfit

    record = engine.record
    size = sum(one.size for one in record.files.values())
    return [
        f"{record.precision} for {made_for(record)}",
        f"{size / 1e6:.1f} MB, built in {record.seconds:.0f} s on {record.created[:10]} by {record.created_by}",
        *(_component(name, component) for name, component in record.components.items()),
        _parity(record.parity),
        f"does not fit this machine: {why}" if (why := unfit(record)) else "fits this machine",
    ]


def _component(name: str, component: EngineComponent) -> str:
    from dit_deploy.bundle.profiles import describe_profile

    sizes = "; or ".join(describe_profile(profile) for profile in component.profiles) or "any size"
    count = len(component.kept)
    kept = f"; {count} kept wider" if count else ""
    return f"{name}: {sizes}{kept}"


def _parity(parity: dict[str, Any] | None) -> str:
    if parity is None:
        return "parity not measured"
    psnr = parity.get("psnr")
    decibels = f", PSNR {psnr:.1f} dB" if isinstance(psnr, (int, float)) else ""
    why = f": {parity['failure']}" if "failure" in parity else ""
    return f"parity {'failed' if parity.get('passed') is False else 'passed'}{decibels}{why}"
