"""One tokenizer.json gives what transformers' own call gives, on many scripts and odd texts, for each kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import transformers
from tokenizers import Tokenizer

from dit_deploy.errors import SourceError
from dit_deploy.exporters.tokenizers import max_length, tokenizer_json
from tests.families import tokenizers as tiny
from tests.families.tokenizers import ODD_TEXTS

#: kind → what writes the folder, the class that a pipeline names, and the length that its pipeline asks for.
KINDS: dict[str, tuple[Callable[[Path], int], str, int]] = {
    "clip": (tiny.clip_tokenizer, "CLIPTokenizer", 77),
    "clip that pads !": (lambda folder: tiny.clip_tokenizer(folder, pad_token="!"), "CLIPTokenizer", 77),
    "t5": (tiny.t5_tokenizer, "T5TokenizerFast", 120),
    "bert": (tiny.bert_tokenizer, "BertTokenizer", 77),
    "gemma": (tiny.gemma_tokenizer, "GemmaTokenizerFast", 300),
    "qwen": (tiny.qwen_tokenizer, "Qwen2Tokenizer", 58),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, int]:
    write, name, length = KINDS[request.param]
    folder = tmp_path_factory.mktemp("pipeline") / "tokenizer"
    write(folder)
    return folder, getattr(transformers, name).from_pretrained(folder), length


@pytest.mark.parametrize("padding", ["length", "longest", "none"])
@pytest.mark.parametrize("shorter", [0, 40])
def test_ids_and_masks_are_those_of_transformers(
    kind: tuple[Path, Any, int], padding: Literal["length", "longest", "none"], shorter: int
) -> None:
    folder, reference, length = kind
    length -= shorter
    ours = Tokenizer.from_str(tokenizer_json(folder, length=length, padding=padding).decode())
    found = ours.encode_batch(ODD_TEXTS)
    words: dict[str, Any] = {"length": "max_length", "longest": "longest", "none": False}
    expected = reference(ODD_TEXTS, padding=words[padding], max_length=length, truncation=True)
    for text, one, ids, mask in zip(ODD_TEXTS, found, expected.input_ids, expected.attention_mask, strict=True):
        assert one.ids == ids, text[:60]
        assert one.attention_mask == mask, text[:60]
    assert max(len(one.ids) for one in found) == length


def test_alone_a_text_is_the_same(kind: tuple[Path, Any, int]) -> None:
    folder, reference, length = kind
    ours = Tokenizer.from_str(tokenizer_json(folder, length=length).decode())
    for text in ODD_TEXTS:
        expected = reference(text, padding="max_length", max_length=length, truncation=True, return_tensors="np")
        assert ours.encode(text).ids == expected.input_ids[0].tolist()


def test_nothing_is_cut_where_no_length_is_asked_for(kind: tuple[Path, Any, int]) -> None:
    folder, reference, _ = kind
    ours = Tokenizer.from_str(tokenizer_json(folder, length=None, padding="longest").decode())
    assert [one.ids for one in ours.encode_batch(ODD_TEXTS)] == reference(ODD_TEXTS, padding="longest").input_ids


def test_a_pipeline_may_choose_the_side_of_padding(tmp_path: Path) -> None:
    tiny.gemma_tokenizer(tmp_path)
    left = Tokenizer.from_str(tokenizer_json(tmp_path, length=12).decode()).encode("a cat")
    right = Tokenizer.from_str(tokenizer_json(tmp_path, length=12, padding_side="right").decode()).encode("a cat")
    assert left.attention_mask[0] == 0 and right.attention_mask[0] == 1
    assert [one for one in left.ids if one] == [one for one in right.ids if one]


def test_the_pipeline_says_which_class_reads_the_folder(tmp_path: Path) -> None:
    tiny.qwen_tokenizer(tmp_path / "tokenizer")
    config = tmp_path / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": "GemmaTokenizer"}))
    (tmp_path / "model_index.json").write_text(json.dumps({"tokenizer": ["transformers", "Qwen2Tokenizer"]}))
    ours = Tokenizer.from_str(tokenizer_json(tmp_path / "tokenizer", length=30).decode())
    expected = transformers.Qwen2Tokenizer.from_pretrained(tmp_path / "tokenizer")(
        ODD_TEXTS, padding="max_length", max_length=30, truncation=True
    )
    assert [one.ids for one in ours.encode_batch(ODD_TEXTS)] == expected.input_ids


def test_vocab_and_merges_are_converted(tmp_path: Path) -> None:
    """The form in which CLIP's tokenizers are published: no tokenizer.json."""
    tiny.clip_tokenizer(tmp_path / "new")
    content = json.loads((tmp_path / "new" / "tokenizer.json").read_text())["model"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(content["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in content["merges"])]
    (old / "merges.txt").write_text("\n".join(lines) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (old / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special})
    )
    expected = Tokenizer.from_str(tokenizer_json(tmp_path / "new", length=77).decode()).encode_batch(ODD_TEXTS)
    found = Tokenizer.from_str(tokenizer_json(old, length=77).decode()).encode_batch(ODD_TEXTS)
    assert [one.ids for one in found] == [one.ids for one in expected]
    assert max_length(old) == 77


def test_a_limit_that_is_none(tmp_path: Path) -> None:
    tiny.gemma_tokenizer(tmp_path)
    assert max_length(tmp_path, 300) == 300
    with pytest.raises(SourceError, match="says no model_max_length"):
        max_length(tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="tokenizer is missing"):
        tokenizer_json(tmp_path / "tokenizer", length=8)
    with pytest.raises(SourceError, match="cannot be loaded as a tokenizer"):
        tokenizer_json(tmp_path, length=8)


def test_a_length_that_holds_no_text(tmp_path: Path) -> None:
    tiny.clip_tokenizer(tmp_path)
    with pytest.raises(SourceError, match="2 tokens leave no room beside 2 special ones"):
        tokenizer_json(tmp_path, length=2)


def test_what_converts_a_sentencepiece_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.t5_tokenizer(tmp_path / "t5")
    shutil.move(tmp_path / "t5" / "tokenizer.json", tmp_path / "t5" / "spiece.model")
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    with pytest.raises(SourceError, match=r"it has spiece\.model and no tokenizer\.json; pip install sentencepiece"):
        tokenizer_json(tmp_path / "t5", length=8)


def test_a_sentencepiece_model_is_converted(tmp_path: Path) -> None:
    """The form in which T5's tokenizers were published: a sentencepiece model alone."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="pip install sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny.CORPUS * 3),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=300,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "spiece.vocab").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    ours = Tokenizer.from_str(tokenizer_json(tmp_path, length=40).decode())
    reference = sentencepiece.SentencePieceProcessor(str(tmp_path / "spiece.model"))
    for text in (*tiny.CORPUS, "", "Größe  naïve", "🙂 cat"):
        ids = [*reference.encode(text)[:39], 1]
        assert ours.encode(text).ids == ids + [0] * (40 - len(ids)), text
