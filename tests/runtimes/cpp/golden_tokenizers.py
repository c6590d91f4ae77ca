"""Writes what the C++ runtime's tests of tokenizers read: ``runtimes/cpp/tests/golden/tokenizers/*.json``.

    python tests/runtimes/cpp/golden_tokenizers.py           # writes the files
    python tests/runtimes/cpp/golden_tokenizers.py --check   # 1 where a file is not what would be written now

Each file holds a ``tokenizer.json`` and, for every text of ``texts.json``, its ids and how many characters the tokens
reach. Ids of the text encoders' kinds are transformers' own. The others are small tokenizers that have the parts which
those lack; theirs are of the tokenizers library.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for tests.families, when run as a program

from dit_deploy.exporters.tokenizers import tokenizer_json  # noqa: E402
from tests.families import tokenizers as tiny  # noqa: E402

__all__ = ["FOLDER", "check", "documents"]

FOLDER = ROOT / "runtimes" / "cpp" / "tests" / "golden" / "tokenizers"
COMMAND = "python tests/runtimes/cpp/golden_tokenizers.py"
FORMAT = 1
Json = dict[str, Any]

#: kind → what writes the folder, the class that a pipeline names, and the length that its pipeline asks for.
KINDS: dict[str, tuple[Callable[[Path], int], str, int]] = {
    "clip": (tiny.clip_tokenizer, "CLIPTokenizer", 77),
    "t5": (tiny.t5_tokenizer, "T5TokenizerFast", 120),
    "bert": (tiny.bert_tokenizer, "BertTokenizer", 77),
    "gemma": (tiny.gemma_tokenizer, "GemmaTokenizerFast", 100),
    "qwen": (tiny.qwen_tokenizer, "Qwen2Tokenizer", 58),
}

#: Beside the odd texts of the tests: what the smaller tokenizers are about.
TEXTS = [
    *tiny.ODD_TEXTS,
    "one,two;three--four  five 12 345 6",
    "x<mark> y <mark>z a<wrap>b <wrap> word wordy <word> Ärger ärger",
    "한글 각 ㈀ ﷺ ǆ Ǆ ¼ ⅷ 𝒳 ｶﾞ ㎏ e\u0323\u0301 \u0344 \u212b \u1e9b\u0323 \u0f73 가\u11a8",
    "İI ΑΣ ΣΑΣ ẞ Ω K ÇA aǅ",
    "\r\n\r\n  \n indent\n\n\tend  ",
    "don't DON'T it'ſ we’ll ¿qué? «non» 3,5 % ½ ² x² ٣٤ १२",
]


def documents() -> dict[str, Json]:
    """Return name → what the file of that name holds."""
    files: dict[str, Json] = {"texts": {"format": FORMAT, "written_by": COMMAND, "texts": TEXTS}}
    for name, (write, cls, length) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            data = tokenizer_json(Path(folder), length=length).decode()
            reference = getattr(transformers, cls).from_pretrained(folder)
        words = {"padding": "max_length", "max_length": length, "truncation": True}
        files[name] = _document(data, reference(TEXTS, **words).input_ids)
    for name, tokenizer in _others():
        files[name] = _document(tokenizer.to_str())
    return files


def _document(data: str, ids: list[list[int]] | None = None) -> Json:
    """Return a file's content; ``ids`` are those of another library, held against this one's here."""
    found = Tokenizer.from_str(data).encode_batch(TEXTS)
    own = [one.ids for one in found]
    if ids is not None and ids != own:
        raise AssertionError("transformers and tokenizers differ")
    return {
        "format": FORMAT,
        "written_by": COMMAND,
        "tokenizer": json.loads(data),
        "ids": own,
        "padding": [one.attention_mask.count(0) for one in found],
        "read": [max((end for _, end in one.offsets), default=0) for one in found],
        "cut": [bool(one.overflowing) for one in found],
    }


def _others() -> Iterator[tuple[str, Tokenizer]]:
    """Yield small tokenizers with what those of the text encoders lack."""
    letters = sorted({letter for text in TEXTS for letter in text if letter.isprintable() and ord(letter) < 0x3000})
    plain = {letter: number for number, letter in enumerate(["<unk>", *letters])}

    def bpe(**options: Any) -> Tokenizer:
        return Tokenizer(models.BPE(vocab={**plain, "wo": 9000, "rd": 9001, "word": 9002}, merges=[
            ("w", "o"), ("r", "d"), ("wo", "rd")], unk_token="<unk>", **options))  # fmt: skip

    one = bpe(fuse_unk=False)
    one.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()])
    one.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    one.add_tokens([
        AddedToken("<mark>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("word", single_word=True),
        AddedToken("Ärger", normalized=True),
    ])  # fmt: skip
    one.enable_truncation(20, direction="left")
    one.enable_padding(length=12, direction="left", pad_id=3, pad_to_multiple_of=8)
    yield "strip-whitespace-digits", one

    one = bpe(fuse_unk=True)
    one.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Prepend("_"), normalizers.Replace(Regex(" {2,}"), "▁")]
    )
    one.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits(False), pre_tokenizers.Metaspace("▁", "first")]
    )
    one.add_special_tokens([AddedToken("<mark>"), AddedToken("<wrap>", lstrip=True), AddedToken("<|end|>")])
    one.post_processor = processors.Sequence(
        [processors.ByteLevel(), processors.BertProcessing(("<wrap>", 9004), ("<mark>", 9003))]
    )
    yield "accents-punctuation-metaspace", one

    one = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters), *(
        (f"<0x{byte:02X}>", -9.0) for byte in range(256))], unk_id=0, byte_fallback=True))  # fmt: skip
    one.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Nmt()])
    one.pre_tokenizer = pre_tokenizers.Metaspace("▁", "never", split=False)
    one.post_processor = processors.TemplateProcessing("$A <0x00> <0x01>", None, [("<0x00>", 2000), ("<0x01>", 2001)])
    yield "unigram-bytes", one

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    one = Tokenizer(models.BPE(ignore_merges=True))
    # That of Llama 3, with counts, laziness and possessive repetition beside it.
    one.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|"
            r"\s*[\r\n]|\s+(?!\S)|\s+?(?=\s)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
    ])  # fmt: skip
    one.train_from_iterator(tiny.CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet,
                                                             show_progress=False))  # fmt: skip
    yield "byte-level-llama", one

    one = Tokenizer(models.WordPiece({"[UNK]": 0, **{f"##{l}": n + 1000 for n, l in enumerate(letters)}, **{
        letter: number + 1 for number, letter in enumerate(letters)}}, unk_token="[UNK]", max_input_chars_per_word=9))
    one.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=False, handle_chinese_chars=False)
    one.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?<=\w)[,;-]+|\b\d+\b|\s"), "merged_with_next")
    one.decoder = decoders.WordPiece()
    yield "word-piece-split", one


def check() -> list[str]:
    """Return the names of the files that are not what would be written now."""
    wrong = []
    for name, document in documents().items():
        path = FOLDER / f"{name}.json"
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != document:
            wrong.append(name)
    return wrong


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where a file is not current")
    if parser.parse_args().check:
        wrong = check()
        print("\n".join(f"{FOLDER / name}.json is not current; run `{COMMAND}`" for name in wrong))
        return 1 if wrong else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, document in documents().items():
        text = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
