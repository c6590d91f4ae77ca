"""What ``calibration/KEY.json`` says, version 1."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError, model_validator

from dit_deploy.bundle._json import read_object
from dit_deploy.bundle._parse import explain
from dit_deploy.bundle.manifest import Name, Positive, Record, Sha256
from dit_deploy.errors import BundleError
from dit_deploy.exporters.calibration.observers import BINS, Histogram
from dit_deploy.exporters.calibration.statistics import Statistics

__all__ = ["CALIBRATION_FORMAT", "CALIBRATION_VERSION", "CalibrationRecord", "Identity", "canonical_digest"]

CALIBRATION_FORMAT = "dit-deploy-calibration"
CALIBRATION_VERSION = 1

#: What a calibration is of: everything that decides its content.
Identity = Mapping[str, Any]
#: Bytes of one array; a layer's maxima are a few thousand numbers.
_ARRAY_LIMIT = 1 << 26
_LITTLE_ENDIAN = {"float32": "<f4", "int64": "<i8", "int32": "<i4"}
NotNegative = Annotated[float, Field(ge=0)]


class Activation(Record):
    """The input of linear layers. ``counts`` (int64) and ``channels`` (float32) are little-endian, zlib, base64.

    ``counts`` ends with the last bin that is not empty; see :class:`~.observers.Histogram`.
    """

    exponent: Annotated[int, Field(ge=-149, le=128)]
    absmax: NotNegative
    counts: str
    channels: str

    def histogram(self) -> Histogram:
        """Return the histogram of |x|."""
        counts = np.zeros(BINS, np.int64)
        kept = self._counts()
        counts[: len(kept)] = kept
        return Histogram(self.exponent, self.absmax, counts)

    def maxima(self) -> NDArray[np.float32]:
        """Return the largest |x| of each channel, float32 [in]."""
        return _unpack(self.channels, "<f4", _ARRAY_LIMIT).astype(np.float32)

    def content(self) -> list[JsonValue]:
        """Return what the digest covers: not how well the bytes were packed, which depends on the library."""
        return [self.exponent, self.absmax, _sha256(self._counts()), _sha256(self.maxima().astype("<f4"))]

    def _counts(self) -> NDArray[np.int64]:
        counts = _unpack(self.counts, "<i8", BINS * 8)
        if (counts < 0).any():
            raise ValueError("counts are below 0")
        return counts


class StoredArray(Record):
    """An array of any shape, packed as in :class:`Activation`."""

    dtype: Literal["float32", "int64", "int32"]
    shape: tuple[Positive, ...]
    data: str

    @classmethod
    def of(cls, array: NDArray[Any]) -> StoredArray:
        """Return ``array`` as it is kept."""
        name = array.dtype.name
        return cls.model_validate({"dtype": name, "shape": array.shape, "data": _pack(array, _LITTLE_ENDIAN[name])})

    def array(self) -> NDArray[Any]:
        """Return the array."""
        flat = _unpack(self.data, _LITTLE_ENDIAN[self.dtype], _ARRAY_LIMIT)
        if flat.size != math.prod(self.shape):
            raise ValueError(f"{flat.size} packed numbers are not as many as the shape {list(self.shape)} says")
        return flat.astype(self.dtype).reshape(self.shape)

    def content(self) -> list[JsonValue]:
        """Return what the digest covers."""
        return [self.dtype, list(self.shape), _sha256(_unpack(self.data, _LITTLE_ENDIAN[self.dtype], _ARRAY_LIMIT))]


class CalibrationRecord(Record):
    """The whole of a calibration's file.

    ``graphs`` are :func:`~dit_deploy.bundle.engine.graph_digest` of the component itself and of those that its
    feeds come from; ``model`` covers what else of the manifest and the scheduler decides them. A ``null`` among
    ``ranges`` stands for infinity. ``digest`` covers everything but itself, ``created_by`` and ``seconds``.
    """

    format: Literal["dit-deploy-calibration"]
    version: Literal[1]
    created_by: str
    component: Name
    graphs: dict[Name, Sha256]
    model: Sha256
    settings: dict[str, JsonValue]
    layers: dict[str, str]
    activations: dict[str, Activation]
    ranges: dict[str, NotNegative | None]
    feeds: tuple[dict[Name, StoredArray], ...] = ()
    latents: StoredArray | None = None
    seconds: NotNegative
    digest: Sha256

    @model_validator(mode="after")
    def _sound(self) -> CalibrationRecord:
        if missing := set(self.layers.values()) - set(self.activations):
            raise ValueError(f"layers name an activation that is not there: {sorted(missing)[0]}")
        for one in (*(array for feed in self.feeds for array in feed.values()), self.latents):
            if one is not None:
                one.array()
        if self.digest != self._digest():
            raise ValueError("the digest is not that of the content")
        return self

    @classmethod
    def make(
        cls,
        identity: Identity,
        statistics: Statistics,
        *,
        feeds: Sequence[Mapping[str, NDArray[Any]]] = (),
        latents: NDArray[np.float32] | None = None,
        created_by: str,
        seconds: float,
    ) -> CalibrationRecord:
        """Return the record of what was gathered, and of what later calibrations start from."""
        if any(array.dtype.name not in _LITTLE_ENDIAN for feed in feeds for array in feed.values()):
            feeds = ()  # they can be made again
        activations = {
            value: Activation(
                exponent=histogram.exponent,
                absmax=histogram.absmax,
                counts=_pack(np.trim_zeros(histogram.counts, "b"), "<i8"),
                channels=_pack(statistics.channels[value], "<f4"),
            )
            for value, histogram in statistics.histograms.items()
        }
        values: dict[str, Any] = {
            **identity,
            "layers": statistics.layers,
            "activations": activations,
            "ranges": {name: one if math.isfinite(one) else None for name, one in statistics.ranges.items()},
            "feeds": tuple({name: StoredArray.of(array) for name, array in feed.items()} for feed in feeds),
            "latents": None if latents is None else StoredArray.of(latents),
            "created_by": created_by,
            "seconds": seconds,
        }
        digest = cls.model_construct(**values)._digest()
        return cls(**values, digest=digest)

    @classmethod
    def parse(cls, data: bytes, name: str) -> CalibrationRecord:
        """Return the record that the bytes hold; every fault is a one-line :class:`BundleError`."""
        mend = "remove it, and it is made anew when it is needed"
        try:
            read_object(data, name)
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            raise BundleError(f"{name} is damaged: {explain(error, 'calibration')}; {mend}") from error
        except BundleError as error:
            raise BundleError(f"{error}; {mend}") from error

    def to_json(self) -> bytes:
        """Return the file's bytes, which end in a newline."""
        return (self.model_dump_json(indent=1) + "\n").encode("utf-8")

    def identity(self) -> dict[str, Any]:
        """Return what this is a calibration of."""
        return {
            "format": self.format,
            "version": self.version,
            "component": self.component,
            "graphs": self.graphs,
            "model": self.model,
            "settings": self.settings,
        }

    def _digest(self) -> str:
        return canonical_digest(
            {
                **self.identity(),
                "layers": self.layers,
                "activations": {value: activation.content() for value, activation in self.activations.items()},
                "ranges": self.ranges,
                "feeds": [{name: array.content() for name, array in feed.items()} for feed in self.feeds],
                "latents": None if self.latents is None else self.latents.content(),
            }
        )


def canonical_digest(value: object) -> str:
    """Return the SHA-256, in hexadecimal, over a value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _pack(array: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(zlib.compress(array.astype(dtype).tobytes())).decode("ascii")


def _unpack(text: str, dtype: str, limit: int) -> NDArray[Any]:
    """Return the numbers of :func:`_pack`; ``ValueError`` where they are none, or more than ``limit`` bytes."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), limit + 1)
        if len(data) > limit or not unpacker.eof or unpacker.unused_data:
            raise ValueError("packed numbers are cut off or too many")
        array = np.frombuffer(data, dtype)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"packed numbers cannot be read: {error}") from error
    if not np.isfinite(array).all():
        raise ValueError("packed numbers are not finite")
    return array


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
