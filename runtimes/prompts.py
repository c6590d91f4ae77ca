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
from dit_deploy.errors import BundleError, InputError
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

    def __call__(
        self, texts: Sequence[str], negative: bool = False, others: Mapping[int, Sequence[str]] | None = None
    ) -> dict[str, Array]:
        """Return the conditions that ``texts`` make, by name, [len(texts), …].

        A text that is longer than an encoder reads is cut, with a warning that quotes what was left out.

        Args:
            others: as many texts, which the encoder at that place reads instead: 1 is the second.

        Raises:
            InputError: a text is none that can be written as UTF-8.
            BundleError: a tokenizer or encoder was altered, or cannot be read.
            BackendError: an encoder failed, or gave values that are not finite.
        """
        made = self.encoded(texts, negative, others)
        return made if self._prompts.join is None else self._run(self._prompts.join, made)

    def encoded(
        self, texts: Sequence[str], negative: bool = False, others: Mapping[int, Sequence[str]] | None = None
    ) -> dict[str, Array]:
        """Return what the text encoders give for ``texts``, by name, [len(texts), …]; see :meth:`__call__`."""
        made: dict[str, Array] = {}
        for place, encoder in enumerate(self._prompts.encoders):
            read = (others or {}).get(place, texts)
            made |= self._run(encoder.component, self.tokens(encoder, read, negative))
        return made

    def tokens(self, encoder: PromptEncoder, texts: Sequence[str], negative: bool = False) -> dict[str, Array]:
        """Return ``input_ids`` and ``attention_mask`` of the texts for one encoder, int64 [len(texts), tokens].

        Raises:
            InputError: a text is none that can be written as UTF-8.
            BundleError: the tokenizer was altered, cannot be read, or does not pad texts to one length.
        """
        what = "negative_prompt" if negative else "prompt"
        template = encoder.negative_template if negative else encoder.prompt_template
        before = template.index("{}")
        path = encoder.negative_tokenizer if negative and encoder.negative_tokenizer else encoder.tokenizer
        cleaned = [_cleaned(text, encoder.cleaning, what) for text in texts]
        encodings = self._tokenizer(path).encode_batch([template.replace("{}", text) for text in cleaned])
        if len({len(encoding.ids) for encoding in encodings}) > 1:
            raise BundleError(f"{self._bundle.path / path} does not pad texts to one length; give one prompt at a time")
        for text, encoding in zip(cleaned, encodings, strict=True):
            if left_out := _left_out(text, encoding, before):
                warnings.warn(
                    f"{what}: the {encoder.component} reads {len(encoding.ids)} tokens; left out: "
                    f"{shown(left_out, 400)}",
                    UserWarning,
                    stacklevel=6,  # whoever called the pipeline
                )
        return {
            "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
        }

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return how many tokens of each text are no padding, by the first encoder's tokenizer, int64 [len(texts)]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it is cut was said when it was encoded
            lengths: NDArray[np.int64] = self.tokens(self._prompts.encoders[0], texts)["attention_mask"].sum(1)
        return lengths

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


def _cleaned(text: str, steps: Sequence[str], what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what}: {shown(text)} holds half a character (a lone surrogate) at {error.start}") from None
    for step in steps:
        text = CLEANING[step](text)
    return text


def _left_out(text: str, encoding: Encoding, before: int) -> str:
    """Return what of ``text`` no token stands for; ``before`` characters of a template stand in front of it.

    What was cut of a template behind the text is none of the user's.
    """
    if not encoding.overflowing:
        return ""
    read = max((end for _, end in encoding.offsets), default=0)  # special tokens have the place (0, 0)
    return text[max(0, read - before) :].strip()
