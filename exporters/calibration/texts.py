"""What text encoders, and the component that joins their outputs, are fed while prompts are read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from dit_deploy.bundle import Bundle
from dit_deploy.errors import InputError
from dit_deploy.exporters.calibration._session import MappedRunner
from dit_deploy.parity.prompts import CALIBRATION
from dit_deploy.runtimes import BindingPool
from dit_deploy.runtimes.arguments import shown
from dit_deploy.runtimes.integrity import check_component
from dit_deploy.runtimes.prompts import PromptReader

__all__ = ["made_by_prompts", "read_prompts", "reads_prompts", "text_feeds"]

Array = NDArray[Any]


def reads_prompts(bundle: Bundle, component: str) -> bool:
    """Say whether a component is a text encoder, or joins what text encoders give."""
    prompts = bundle.manifest.prompts
    return prompts is not None and component in {prompts.join, *(encoder.component for encoder in prompts.encoders)}


def read_prompts(bundle: Bundle, prompts: Sequence[str] | None) -> tuple[str, ...]:
    """Return the texts to calibrate with: ``prompts``, or the usual ones; none for a bundle without text encoders.

    Raises:
        InputError: prompts are no texts, or came for a bundle without text encoders.
    """
    if bundle.manifest.prompts is None:
        if prompts:
            raise InputError("prompts: this bundle has no text encoder to calibrate with them; leave them out")
        return ()
    if prompts is None:
        return CALIBRATION
    if isinstance(prompts, str) or not prompts or not all(isinstance(text, str) for text in prompts):
        raise InputError(f"prompts: {shown(prompts)} came, expected texts, one or more")
    return tuple(prompts)


def made_by_prompts(bundle: Bundle) -> set[str]:
    """Return the denoiser's conditions that prompts make."""
    prompts = bundle.manifest.prompts
    if prompts is None:
        return set()
    makers = [encoder.component for encoder in prompts.encoders] if prompts.join is None else [prompts.join]
    return {spec.name for name in makers for spec in bundle.component(name).outputs}


def text_feeds(
    bundle: Bundle, component: str, texts: Sequence[str], *, threads: int | None = None
) -> list[dict[str, Array]]:
    """Return the inputs of a component that :func:`reads_prompts`, once for ``texts`` and once for no prompt.

    Each text is tokenized as a prompt and the manifest's negative prompt as a negative one, as templates may differ.
    Texts that are cut are cut without a word.

    Raises:
        BundleError: a tokenizer or an encoder was altered.
        BackendError: ONNX Runtime is not installed, or an encoder that is to be joined fails.
    """
    prompts = bundle.manifest.prompts
    assert prompts is not None
    pools: dict[str, BindingPool] = {}

    def pool(name: str) -> BindingPool:
        if name not in pools:
            check_component(bundle, name)
            pools[name] = BindingPool(
                MappedRunner(bundle.component_path(name), bundle.component(name), threads=threads)
            )
        return pools[name]

    reader = PromptReader(bundle, pool)
    halves: list[tuple[list[str], bool]] = [(list(texts), False), ([prompts.negative or ""], True)]
    feeds: list[dict[str, Array]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for half, negative in halves:
            if component == prompts.join:
                given = reader.encoded(half, negative)
            else:
                (encoder,) = (one for one in prompts.encoders if one.component == component)
                given = reader.tokens(encoder, half, negative)
            feeds.append(
                {spec.name: given[spec.name].astype(spec.dtype) for spec in bundle.component(component).inputs}
            )
    return feeds
