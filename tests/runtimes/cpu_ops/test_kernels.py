"""The C++ test of the kernels under the sanitizers, and the interface's places against ONNX Runtime's own headers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from dit_deploy.runtimes import cpu_ops
from dit_deploy.runtimes.cpu_ops.library import compile_sources, sources

pytestmark = pytest.mark.skipif(bool(cpu_ops.cannot_build()), reason=cpu_ops.cannot_build())

SOURCE = sources()[0].parent


@pytest.mark.slow
def test_kernels_under_the_sanitizers(tmp_path: Path) -> None:
    """AVX-VNNI too, in AVX-512's encoding where the processor lacks its own."""
    program = tmp_path / "kernels_test"
    flags = ["-std=c++17", "-O0", "-g", "-fwrapv", "-Wno-psabi", "-Wno-maybe-uninitialized", f"-I{SOURCE}"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DDIT_AVX_VNNI_ENCODED_AS_AVX512"]
    kernels = [file for file in sources(".cpp") if file.name != "registration.cpp"]
    compile_sources([*kernels, Path(__file__).parent / "kernels_test.cpp"], program, flags)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = done.stdout.split()
    assert "portable" in tested
    assert ("avx_vnni" in tested) or "avx512" not in tested


def test_places_are_those_of_the_real_headers(tmp_path: Path) -> None:
    """Compiled only: offsets of ONNX Runtime's structures against the numbers that ort_api.h states."""
    fetched = Path(__file__).parents[3] / "runtimes" / "cpp" / ".deps" / "headers" / "usr" / "include" / "onnxruntime"
    folder = os.environ.get("ONNXRUNTIME_INCLUDE", str(fetched if fetched.is_dir() else "/usr/include/onnxruntime"))
    if not Path(folder, "onnxruntime_c_api.h").is_file():
        pytest.skip(f"{folder} has no onnxruntime_c_api.h: runtimes/cpp/prepare.sh fetches it")
    text = (SOURCE / "ort_api.h").read_text()
    slots = re.findall(r"^  k(\w+) = (\d+),", text, re.MULTILINE)
    assert len(slots) > 15
    renamed = {
        "CustomOpDomainAdd": "CustomOpDomain_Add",
        "KernelInfoGetAttributeFloat": "KernelInfoGetAttribute_float",
        "KernelInfoGetAttributeInt64": "KernelInfoGetAttribute_int64",
        "KernelContextGetInput": "KernelContext_GetInput",
        "KernelContextGetOutput": "KernelContext_GetOutput",
        "KernelInfoGetConstantInput": "KernelInfoGetConstantInput_tensor",
        "KernelContextParallelFor": "KernelContext_ParallelFor",
    }
    real = {
        "create_kernel": "CreateKernel",
        "get_input_count": "GetInputTypeCount",
        "get_output_characteristic": "GetOutputCharacteristic",
        "create_kernel_v2": "CreateKernelV2",
        "compute_v2": "KernelComputeV2",
        "infer_shape": "InferOutputShapeFn",
        "release_alias_map": "ReleaseAliasMap",
    }
    lines = ['#include "onnxruntime_c_api.h"', "#include <cstddef>", '#include "ort_api.h"']
    lines += [f"static_assert(offsetof(OrtApi, {renamed.get(n, n)}) == {k} * sizeof(void*));" for n, k in slots]
    lines += [f"static_assert(offsetof(OrtCustomOp, {r}) == offsetof(dit::CustomOp, {n}));" for n, r in real.items()]
    lines += [
        "static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 == dit::kBfloat16);",
        "static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 == dit::kInt8);",
        "static_assert(ORT_INVALID_ARGUMENT == dit::kInvalidArgument);",
        "static_assert(INPUT_OUTPUT_OPTIONAL == dit::kOptional);",
    ]
    source = tmp_path / "places.cpp"
    source.write_text("\n".join(lines) + "\n")
    compile_sources([source], tmp_path / "places.so", ["-std=c++17", "-fPIC", "-shared", f"-I{SOURCE}", f"-I{folder}"])
