"""The built library, and one instruction set after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_deploy.errors import BackendError
from dit_deploy.runtimes import cpu_ops
from tests.runtimes.cpu_ops.operators import ISAS


@pytest.fixture(scope="session")
def library() -> Path:
    """Build it, or skip where there is no compiler for it."""
    try:
        return cpu_ops.build()
    except BackendError as error:
        if "do not compile" in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, library: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this processor has; the others are skipped by name."""
    import onnxruntime

    monkeypatch.setenv("DIT_DEPLOY_CPU_OPS_ISA", request.param)
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(library))
    except Exception as error:
        if "this processor has no such instructions" not in str(error):
            raise
        pytest.skip(f"this processor has no {request.param}")
    return str(request.param)
