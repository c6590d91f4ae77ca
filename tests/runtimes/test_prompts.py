"""Prompts → token ids and conditions, by the bundle alone: cleaning, templates, what is cut, what is refused."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5EncoderModel, T5Tokenizer

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle import PromptEncoder, Prompts
from dit_deploy.errors import BundleError, InputError
from dit_deploy.exporters import export
from dit_deploy.runtimes.conditions import read_conditions, read_texts
from dit_deploy.runtimes.prompts import CLEANING, PromptReader
from tests.families.text_bundle import TOKENS, text_source

LONG = "a photograph of an astronaut riding a horse, " * 9 + "and the very end"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source")


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(text_source(folder), tmp_path_factory.mktemp("bundles") / "text")


@pytest.fixture
def pipeline(bundle: Bundle) -> Pipeline:
    return Pipeline(bundle)


def reader(pipeline: Pipeline) -> PromptReader:
    return PromptReader(pipeline.bundle, pipeline.pool)


def encoder(**fields: Any) -> PromptEncoder:
    return PromptEncoder(**{"component": "text_encoder", "tokenizer": "tokenizer/tokenizer.json", **fields})


def test_ids_and_mask_are_those_of_transformers(pipeline: Pipeline, folder: Path) -> None:
    texts = ["a cat", "", "一只猫 🙂", "a photograph of an astronaut"]
    found = reader(pipeline).tokens(encoder(), texts)
    reference = T5Tokenizer.from_pretrained(folder / "tokenizer")
    expected = reference(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="np")
    assert found["input_ids"].dtype == np.int64
    assert (found["input_ids"] == expected.input_ids).all()
    assert (found["attention_mask"] == expected.attention_mask).all()


def test_a_template_goes_around_and_texts_are_cleaned_first(pipeline: Pipeline) -> None:
    read = reader(pipeline)
    one = encoder(
        prompt_template="draw {} now", cleaning=["html_unescape", "collapse_whitespace", "lowercase", "strip"]
    )
    found = read.tokens(one, ["  A&amp;amp;B\n  {} CAT "])
    assert (found["input_ids"] == read.tokens(encoder(), ["draw a&b {} cat now"])["input_ids"]).all()
    plain = read.tokens(encoder(), ["  A&amp;amp;B\n  {} CAT "])
    assert (read.tokens(one, ["  A&amp;amp;B\n  {} CAT "], negative=True)["input_ids"] != plain["input_ids"]).any()


@pytest.mark.parametrize(
    ("step", "text", "cleaned"),
    [
        ("html_unescape", "&amp;lt;b&gt; &eacute;", "<b> é"),
        ("lowercase", "ÄB İ", "äb i̇"),
        ("strip", " \u3000\ta b\n", "a b"),
        ("collapse_whitespace", " a \n\t\u00a0 b ", " a b "),
    ],
)
def test_cleaning(step: str, text: str, cleaned: str) -> None:
    assert CLEANING[step](text) == cleaned


def test_what_is_cut_is_quoted(pipeline: Pipeline, folder: Path) -> None:
    with pytest.warns(UserWarning, match=rf"^prompt: the text_encoder reads {TOKENS} tokens; left out: '.*") as seen:
        found = reader(pipeline).tokens(encoder(), ["a cat", LONG])
    (warning,) = seen
    reference = T5Tokenizer.from_pretrained(folder / "tokenizer")
    kept = reference.decode(found["input_ids"][1], skip_special_tokens=True)
    assert str(warning.message).endswith("and the very end'")
    left_out = str(warning.message).partition("left out: '")[2].rstrip("'")
    assert (kept + " " + left_out).replace(" ", "") == LONG.replace(" ", "")
    assert found["input_ids"][1, -1] == reference.eos_token_id


def test_a_long_quotation_is_shortened(pipeline: Pipeline) -> None:
    with pytest.warns(UserWarning, match="left out") as seen:
        reader(pipeline).tokens(encoder(), ["word " * 5000])
    assert len(str(seen[0].message)) < 500


def test_of_a_template_only_the_prompt_is_quoted(pipeline: Pipeline) -> None:
    one = encoder(prompt_template="draw {} in oil, by an old master of the house, with much light and air in it")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader(pipeline).tokens(one, ["a cat"])  # cuts the template's end, which is none of the user's
    with pytest.warns(UserWarning, match="left out: '.* and the very end'$"):
        reader(pipeline).tokens(one, [LONG])


def test_negative_prompts_may_have_a_tokenizer_of_their_own(pipeline: Pipeline) -> None:
    one = encoder(negative_tokenizer="tokenizer/negative.json")
    assert reader(pipeline).tokens(one, ["a cat"])["input_ids"].shape == (1, TOKENS)
    assert reader(pipeline).tokens(one, ["a cat"], negative=True)["input_ids"].shape == (1, TOKENS // 2)
    with pytest.warns(UserWarning, match=f"^negative_prompt: the text_encoder reads {TOKENS // 2} tokens"):
        reader(pipeline).tokens(one, [LONG], negative=True)


def test_the_warning_points_at_the_caller(pipeline: Pipeline) -> None:
    with pytest.warns(UserWarning, match="left out") as seen:
        pipeline(prompt=LONG, num_inference_steps=1, output_type="latent", seed=0)
    assert {warning.filename for warning in seen} == {__file__}


def test_conditions_are_what_the_encoder_gives(pipeline: Pipeline, folder: Path) -> None:
    texts = ["a cat", "two small cats on a red sofa"]
    found = reader(pipeline)(texts)
    reference = T5Tokenizer.from_pretrained(folder / "tokenizer")
    model = T5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    inputs = reference(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)[0].numpy()
    assert np.abs(found["encoder_hidden_states"] - expected).max() < 1e-5 * np.abs(expected).max()
    assert (found["encoder_attention_mask"] == inputs["attention_mask"].numpy()).all()


def test_padding_that_is_dropped(pipeline: Pipeline) -> None:
    """One sample has its prompt's tokens in both halves; of several, padding is zeros and negatives stay whole."""
    manifest, read = pipeline.bundle.manifest, reader(pipeline)
    assert manifest.prompts is not None
    dropped = manifest.model_copy(update={"prompts": manifest.prompts.model_copy(update={"padding": "dropped"})})
    prompts, negative = ["a cat", "an oil painting of two small cats"], "low quality, blurry"
    counts = read.tokens(encoder(), prompts)["attention_mask"].sum(1)
    assert counts[0] < counts[1] < TOKENS and list(read.lengths(prompts)) == list(counts)

    def conditions(prompt: list[str], images_each: int = 1) -> Any:
        texts = read_texts(dropped, prompt, negative, images_each)
        return read_conditions(dropped, texts=texts, encode=read)

    name = "encoder_hidden_states"
    alone = conditions(prompts[:1])
    for half, words in ((alone.conditional, prompts[:1]), (alone.unconditional, [negative])):
        np.testing.assert_array_equal(half[name], read(words)[name][:, : counts[0]])
    for prompt, each in ((prompts, 1), (prompts[:1], 2)):
        several, whole = conditions(prompt, each), np.repeat(read(prompt)[name], each, axis=0)
        for found, expected, count in zip(
            several.conditional[name], whole, np.repeat(counts[: len(prompt)], each), strict=True
        ):
            np.testing.assert_array_equal(found[:count], expected[:count])
            assert not found[count:].any() and expected[count:].any()
        np.testing.assert_array_equal(several.unconditional[name], np.repeat(read([negative])[name], 2, axis=0))


def test_padding_is_dropped_of_one_encoder() -> None:
    with pytest.raises(ValueError, match="padding can be dropped of one encoder without join"):
        Prompts(encoders=(encoder(), encoder()), padding="dropped")
    with pytest.raises(ValueError, match="padding can be dropped of one encoder without join"):
        Prompts(encoders=(encoder(),), join="conditions", padding="dropped")


def test_half_a_character_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match=r"prompt: 'a\\ud83d b' holds half a character \(a lone surrogate\) at 1"):
        pipeline(prompt="a\ud83d b", num_inference_steps=1, output_type="latent")


def test_a_tokenizer_that_pads_nothing_takes_one_text(pipeline: Pipeline) -> None:
    one = encoder(tokenizer="tokenizer/unpadded.json")
    assert reader(pipeline).tokens(one, ["a cat"])["input_ids"].shape[1] < TOKENS
    with pytest.raises(BundleError, match="does not pad texts to one length"):
        reader(pipeline).tokens(one, ["a cat", "two small cats"])


def test_a_damaged_tokenizer_is_named(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    file = tmp_path / "bundle" / "tokenizer" / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"Unigram", b"Bigram!"))
    pipeline = Pipeline(Bundle.open(tmp_path / "bundle"))
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        pipeline(prompt="a cat", num_inference_steps=1, output_type="latent")
