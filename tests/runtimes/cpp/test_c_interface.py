"""The C interface as a binding of another language uses it: here Python's ctypes, without this package."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dit_deploy import Bundle, Pipeline

BUILD = os.environ.get("DIT_DEPLOY_CPP_BUILD")
pytestmark = pytest.mark.skipif(
    not BUILD, reason="build the C++ runtime, and set DIT_DEPLOY_CPP_BUILD to its build folder"
)

OK, INPUT_ERROR, CANCELLED = 0, 2, 7
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.POINTER(ctypes.c_float),
    ctypes.POINTER(ctypes.c_int64),
    ctypes.c_size_t,
    ctypes.c_void_p,
)


class Library:
    """Calls a function with an error pointer behind its arguments; gives back the status and the message."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        for name in ("request_create", "version"):
            self.function(name).restype = ctypes.c_void_p if name == "request_create" else ctypes.c_char_p

    def function(self, name: str) -> Any:
        return getattr(self._library, f"dit_deploy_{name}")

    def __call__(self, name: str, *arguments: Any) -> tuple[int, str]:
        error = ctypes.c_void_p()
        status = self.function(name)(*arguments, ctypes.byref(error))
        message = ctypes.string_at(error.value).decode() if error.value else ""
        self.function("string_free")(error)
        return status, message


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(Path(BUILD or "") / "libdit_deploy.so")


@pytest.fixture
def request_handle(library: Library) -> Iterator[ctypes.c_void_p]:
    handle = ctypes.c_void_p(library.function("request_create")())
    yield handle
    library.function("request_free")(handle)


def test_the_picture_is_the_python_runtimes(
    library: Library, request_handle: ctypes.c_void_p, tiny_bundle: Path
) -> None:
    pipeline, result = ctypes.c_void_p(), ctypes.c_void_p()
    assert library("open", str(tiny_bundle).encode(), None, ctypes.byref(pipeline)) == (OK, "")
    labels = (ctypes.c_int64 * 2)(3, 5)
    for call in (
        ("request_set_integers", request_handle, b"class_labels", labels, ctypes.c_size_t(2)),
        ("request_set_integer", request_handle, b"num_inference_steps", ctypes.c_int64(4)),
        ("request_set_integer", request_handle, b"seed", ctypes.c_int64(7)),
        ("request_set_number", request_handle, b"guidance_scale", ctypes.c_double(2.5)),
        ("generate", pipeline, request_handle, ctypes.byref(result)),
    ):
        assert library(*call) == (OK, "")
    pixels, sizes = ctypes.POINTER(ctypes.c_uint8)(), [ctypes.c_int64() for _ in range(3)]
    assert library.function("result_image_count")(result) == 2
    got = []
    for index in range(2):
        where = (ctypes.byref(pixels), *map(ctypes.byref, sizes))
        assert library("result_image", result, ctypes.c_size_t(index), *where) == (OK, "")
        got.append(np.ctypeslib.as_array(pixels, [size.value for size in sizes]).copy())
    library.function("result_free")(result)
    library.function("close")(pipeline)

    drawn = Pipeline(Bundle.open(tiny_bundle))(class_labels=[3, 5], num_inference_steps=4, seed=7, guidance_scale=2.5)
    expected = np.stack([np.asarray(image) for image in drawn.images])
    assert np.abs(np.stack(got).astype(int) - expected).max() <= 1


def test_a_callback_stops_and_a_mistake_is_said(
    library: Library, request_handle: ctypes.c_void_p, tiny_bundle: Path
) -> None:
    pipeline, result = ctypes.c_void_p(), ctypes.c_void_p()
    assert library("open", str(tiny_bundle).encode(), None, ctypes.byref(pipeline)) == (OK, "")
    library("request_set_integer", request_handle, b"class_labels", ctypes.c_int64(3))
    stop = CALLBACK(lambda index, *_: index < 1)
    assert library("request_set_callback", request_handle, stop, None) == (OK, "")
    status, message = library("generate", pipeline, request_handle, ctypes.byref(result))
    assert (status, result.value) == (CANCELLED, None)
    assert message.startswith("the callback cancelled after step 2 of ")

    assert library("request_set_callback", request_handle, CALLBACK(), None) == (OK, "")
    library("request_set_integer", request_handle, b"class_labels", ctypes.c_int64(99))
    status, message = library("generate", pipeline, request_handle, ctypes.byref(result))
    assert (status, result.value) == (INPUT_ERROR, None)
    assert message.startswith("class_labels: ")
    status, message = library("request_set_integer", request_handle, b"steps", ctypes.c_int64(1))
    assert (status, message.partition(",")[0]) == (INPUT_ERROR, "name: 'steps' came")
    library.function("close")(pipeline)
