"""The tiny bundle, its source in PyTorch, and a report on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dit_deploy.bundle import Bundle
from dit_deploy.parity import ParityReport, parity
from dit_deploy.runtimes.torch import TorchReference
from tests import video_models


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors are tiny: more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="session")
def reference(tiny_source: Path) -> TorchReference:
    return TorchReference.open(tiny_source)


@pytest.fixture(scope="session")
def report(bundle: Bundle, reference: TorchReference) -> ParityReport:
    return parity(bundle, reference, num_inference_steps=10, class_labels=[3, 16], threads=1)


@pytest.fixture(scope="session")
def video(tiny_video_bundle: Path) -> Bundle:
    return Bundle.open(tiny_video_bundle)


@pytest.fixture(scope="session")
def torch_video() -> TorchReference:
    return TorchReference(video_models.source(experts=True, pictures=True))
