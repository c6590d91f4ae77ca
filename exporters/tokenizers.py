"""A tokenizer folder of transformers → one ``tokenizer.json`` that does everything: truncation and padding too.

So a runtime only encodes, in Python and elsewhere, and needs no transformers. A model's slow form (``spiece.model``,
``vocab.json`` with ``merges.txt``, ``vocab.txt``) is converted here, as transformers converts it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from dit_deploy.errors import SourceError
from dit_deploy.exporters.weights import read_json

__all__ = ["load_tokenizer", "max_length", "tokenizer_json"]

#: What transformers takes for "no limit" is a float of 30 digits; no text encoder reads as many tokens as this.
_NO_LIMIT = 1 << 20


def tokenizer_json(
    folder: Path,
    *,
    length: int | None,
    padding: Literal["length", "longest", "none"] = "length",
    padding_side: Literal["left", "right"] | None = None,
    as_saved: bool = False,
) -> bytes:
    """Return the ``tokenizer.json`` of a tokenizer folder, UTF-8.

    It gives the ids that ``tokenizer(texts, max_length=length, truncation=True, padding=…)`` of transformers gives, and
    the same attention mask.

    Args:
        folder: with ``tokenizer.json`` or a slow form, and ``tokenizer_config.json``. In a pipeline's folder the class
            that its ``model_index.json`` names reads it, as diffusers does.
        length: tokens at most, special tokens included; ``None`` cuts nothing.
        padding: ``length``: always to ``length``; ``longest``: to the longest text of a batch; ``none``.
        padding_side: where a pipeline sets the tokenizer's; its own by default.
        as_saved: see :func:`load_tokenizer`.

    Raises:
        SourceError: the folder is no tokenizer, or a package that converts its form is not installed.
    """
    tokenizer = load_tokenizer(folder, as_saved=as_saved)
    if padding == "length" and length is None:
        raise ValueError("padding to a length needs one")
    backend = Tokenizer.from_str(_backend(tokenizer, folder).to_str())
    backend.no_truncation()
    backend.no_padding()
    if length is not None:
        special = backend.num_special_tokens_to_add(False)
        if length <= special:
            raise SourceError(f"{folder}: {length} tokens leave no room beside {special} special ones")
        backend.enable_truncation(length, direction=tokenizer.truncation_side)
    if padding != "none":
        if tokenizer.pad_token_id is None:
            raise SourceError(f"{folder} has no pad_token to pad with")
        backend.enable_padding(
            length=length if padding == "length" else None,
            direction=padding_side or tokenizer.padding_side,
            pad_id=tokenizer.pad_token_id,
            pad_token=tokenizer.pad_token,
            pad_type_id=tokenizer.pad_token_type_id,
        )
    return backend.to_str().encode()


def max_length(folder: Path, default: int | None = None) -> int:
    """Return the tokenizer's ``model_max_length``, or ``default`` where it has none.

    Raises:
        SourceError: the folder is no tokenizer, or it has no limit and no ``default`` came.
    """
    length = load_tokenizer(folder).model_max_length
    if length < _NO_LIMIT:
        return int(length)
    if default is None:
        raise SourceError(f"{folder}/tokenizer_config.json says no model_max_length")
    return default


def load_tokenizer(folder: Path, *, as_saved: bool = False) -> Any:
    """Return the transformers tokenizer in ``folder``: of the class that the pipeline beside it names, if one is.

    Args:
        as_saved: take a ``tokenizer.json`` as it is, whatever class the pipeline names. Pipelines name
            ``LlamaTokenizerFast`` for Llama 3 too, and that class, since transformers 5, cuts texts as Llama 2 does.

    Raises:
        SourceError: see :func:`tokenizer_json`.
    """
    import transformers

    if not folder.is_dir():
        raise SourceError(f"{folder} is missing; a pipeline with a text encoder needs its tokenizer")
    kind: Any = transformers.AutoTokenizer
    if as_saved and (folder / "tokenizer.json").is_file():
        kind = transformers.PreTrainedTokenizerFast
    elif (folder.parent / "model_index.json").is_file():
        entry = read_json(folder.parent / "model_index.json").get(folder.name)
        if isinstance(entry, list) and len(entry) == 2 and entry[0] == "transformers":
            kind = getattr(transformers, str(entry[1]), kind)
    try:
        # Without the last argument a folder with code of its own would ask on the terminal whether to run it.
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a missing package, a damaged file: transformers and tokenizers raise almost anything
        raise SourceError(f"{folder} cannot be loaded as a tokenizer: {_reason(folder, error)}") from error


def _backend(tokenizer: Any, folder: Path) -> Tokenizer:
    """Return the tokenizer of the ``tokenizers`` library behind a transformers one, converted where it has none."""
    if getattr(tokenizer, "split_special_tokens", False):
        raise SourceError(f"{folder} has split_special_tokens, which a tokenizer.json cannot say")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        return backend
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    try:
        return convert_slow_tokenizer(tokenizer)
    except Exception as error:  # see load_tokenizer
        raise SourceError(
            f"{folder} holds a {type(tokenizer).__name__}, which has no form as tokenizer.json: "
            f"{_reason(folder, error)}"
        ) from error


def _reason(folder: Path, error: Exception) -> str:
    """Return why a tokenizer cannot be read, in one line; a sentencepiece model wants a package to be converted."""
    if not (folder / "tokenizer.json").is_file() and (models := sorted(folder.glob("*.model"))):
        for module in ("sentencepiece", "google.protobuf"):
            if not _importable(module):
                package = module.replace("google.", "")
                return (
                    f"it has {models[0].name} and no tokenizer.json; pip install {package} to convert it, or save the "
                    "tokenizer with transformers elsewhere"
                )
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _importable(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True
