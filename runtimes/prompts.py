"""Prompts → the denoiser's conditions: tokenizers and text encoders of the bundle, without torch."""

from __future__ import annotations

import html
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from dit_deploy.bundle import Bundle, Component, PromptEncoder, bind_axes
from dit_deploy.errors import BundleError
from dit_deploy.runtimes.arguments import shown
from dit_deploy.runtimes.finite import check_finite
from dit_deploy.runtimes.integrity import check_file
from dit_deploy.runtimes.runner import BindingPool

__all__ = ["CLEANING", "PromptReader"]

Array = NDArray[Any]

#: What each word of a manifest's ``cleaning`` does to a prompt.
CLEANING: dict[str, Callable[[str], str]] = {
    # twice, as the pipelines do: a page's "&amp;amp;" becomes "&"
    "html_unescape": lambda text: html.unescape(html.unescape(text)),
    "lowercase": str.lower,
    "strip": str.strip,
    "collapse_whitespace": lambda text: re.sub(r"\s+", " ", text),
}


class PromptReader:
    """Turns texts into conditions. Several threads may use one.

    Args:
        bundle: an opened bundle whose manifest has ``prompts``.
        pool: (component's name) → its bindings; encoders are loaded when the first prompt is read.
    """

    def __init__(self, bundle: Bundle, pool: Callable[[str], BindingPool]) -> None:
        assert bundle.manifest.prompts is not None
        self._bundle, self._pool, self._prompts = bundle, pool, bundle.manifest.prompts
        self._tokenizers: dict[str, Tokenizer] = {}
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str], negative: bool = False) -> dict[str, Array]:
        """Return the conditions that ``texts`` make, by name, [len(texts), …].

        A text that is longer than an encoder reads is cut, with a warning that quotes what was left out.

        Raises:
            BundleError: a tokenizer or encoder was altered, or cannot be read.
            BackendError: an encoder failed, or gave values that are not finite.
        """
        made: dict[str, Array] = {}
        for encoder in self._prompts.encoders:
            made |= self._run(encoder.component, self.tokens(encoder, texts, negative))
        return made if self._prompts.join is None else self._run(self._prompts.join, made)

    def tokens(self, encoder: PromptEncoder, texts: Sequence[str], negative: bool = False) -> dict[str, Array]:
        """Return ``input_ids`` and ``attention_mask`` of the texts for one encoder, int64 [len(texts), tokens]."""
        template = encoder.negative_template if negative else encoder.prompt_template
        prepared = []
        for text in texts:
            for step in encoder.cleaning:
                text = CLEANING[step](text)
            prepared.append(template.replace("{}", text))
        encodings = self._tokenizer(encoder.tokenizer).encode_batch(prepared)
        for text, encoding in zip(prepared, encodings, strict=True):
            _warn_of_cut(text, encoding, negative)
        return {
            "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
        }

    def _tokenizer(self, path: str) -> Tokenizer:
        with self._lock:
            if path not in self._tokenizers:
                file = check_file(self._bundle, path)
                try:
                    self._tokenizers[path] = Tokenizer.from_file(str(file))
                except Exception as error:  # the library raises nothing narrower
                    raise BundleError(f"{file} is no tokenizer: {shown(str(error), 200)}") from error
            return self._tokenizers[path]

    def _run(self, name: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run a component on arrays of which it takes those that it declares, in its declared types."""
        component: Component = self._bundle.component(name)
        feeds = {spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in component.inputs}
        with self._pool(name).borrow(**bind_axes(component.inputs, feeds)) as binding:
            for key, array in feeds.items():
                binding.inputs[key][...] = array
            binding.run()
            for key, array in binding.outputs.items():
                check_finite(array, f"the {name}'s {key} holds")
            return {key: array.copy() for key, array in binding.outputs.items()}


def _warn_of_cut(text: str, encoding: Encoding, negative: bool) -> None:
    if not encoding.overflowing:
        return
    ends = [end for _, end in encoding.offsets]
    left_out = text[max(ends) :].strip()
    if left_out:  # else only special tokens of the template were cut
        what = "negative_prompt" if negative else "prompt"
        warnings.warn(
            f"{what}: longer than this model reads; left out: {shown(left_out, 400)}", UserWarning, stacklevel=4
        )
