"""``dit-deploy doctor``: what this machine can run, and why not the rest."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from dit_deploy.cli._console import print_results

__all__ = ["doctor"]


def doctor(json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what this machine can run.

    And why not the rest, with what would mend it. Exits with 0 whatever is missing.
    """
    from dit_deploy.doctor import examine

    found = examine()
    if json_:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(found["machine"], found).items():
        facts.add_row(Text(name, style="bold"), value)
    packages = Table.grid(padding=(0, 2))
    for package in found["packages"]:
        answer = package["version"] or Text("missing", style="yellow")
        packages.add_row(package["extra"], package["name"], answer, package["install"])
    roles = Table.grid(padding=(0, 2))
    for role in found["roles"]:
        answer = Text("yes", style="green") if role["able"] else Text("no", style="red")
        mend = f" → {role['mend']}" if role["mend"] else ""
        roles.add_row(role["name"], answer, role["reason"] + mend)
    heads = [Text(f"\n{text}", style="bold") for text in ("packages, by extra", "what this machine can do")]
    warnings = [Text(f"\nwarning: {warning}", style="yellow") for warning in found["warnings"]]
    print_results(facts, heads[0], packages, heads[1], roles, *warnings)


def _facts(machine: dict[str, Any], found: dict[str, Any]) -> dict[str, str]:
    cpu, memory = machine["cpu"], machine["memory"]
    gpus = [
        f"{gpu['name']}, compute capability {gpu['compute_capability']}, "
        f"{gpu['memory_mib'] / 1024:.0f} GiB, driver {gpu['driver']}"
        for gpu in found["gpus"]
    ]
    providers = [
        name.removesuffix("ExecutionProvider") + (f" ({why})" if why else "")
        for name, why in found["providers"].items()
    ]
    return {
        "system": f"{machine['system']}, Python {machine['python']}",
        "CPU": f"{cpu['model']} ({cpu['architecture']}), {cpu['usable_cores']} of {cpu['cores']} cores usable",
        "CPU features": ", ".join(cpu["features"]) or "none of AVX2, AVX-512, VNNI, AMX",
        "memory": f"{_size(memory['available'])} free of {_size(memory['total'])}",
        "disk": f"{_size(found['disk_free'])} free here",
        "GPU": "; ".join(gpus) or found["gpu_note"],
        "ONNX Runtime": ", ".join(providers) or "no provider",
    }


def _size(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 1e9:.1f} GB"
