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
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for tests.families, when run as a program

from dit_deploy.exporters.tokenizers import tokenizer_json  # noqa: E402
from dit_deploy.runtimes.prompts import CLEANING  # noqa: E402
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


#: What pages of the web leave in captions.
DIRTY = [
    "&lt;b&gt; &amp;amp; &amp;quot; &notit; &notin; &NotEqualTilde; &hellip &foo; & && &; &#; &#x;",
    "&#65;&#x42;&#67 &#xD800;",
    "&#0; &#128; &#x80; &#150; &#1; &#13; &#12; &#127; &#1114112; &#99999999999; &#xFDD0;",
    "&Aacute &eacute;t&eacute &ampx;",
    "\x1c a\u3000b\x85\u2029 \t\r\n c\u200b \x1f",
    "ΣΑΣ. ΑΣ\u0301 Σ ΑΣ1 ΑΣ'Α A\u00adΣ ΣΣ İstanbul ǅ Ωm K",
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
    dirty = [*(text for text in TEXTS if len(text) < 100), *DIRTY]
    cleaned = {step: [clean(text) for text in dirty] for step, clean in CLEANING.items()}
    files["cleaning"] = {"format": FORMAT, "written_by": COMMAND, "texts": dirty, "cleaned": cleaned}
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
        [
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Prepend("_"),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    one.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits(False), pre_tokenizers.Metaspace("▁", "first")]
    )
    one.add_special_tokens([AddedToken("<mark>"), AddedToken("<wrap>", lstrip=True), AddedToken("<|end|>")])
    one.post_processor = processors.Sequence(
        [processors.ByteLevel(), processors.BertProcessing(("<wrap>", 9004), ("<mark>", 9003))]
    )
    yield "accents-punctuation-metaspace", one

    one = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), *((letter, -3.0) for letter in letters)], unk_id=0))
    one.normalizer = normalizers.Sequence([normalizers.Precompiled(_charsmap(
        {"ﬁ": "fi", "e\u0301": "é", "①": "1", "\r\n": " ", "\u200b": ""})),
        normalizers.Replace(Regex(" {2,}"), "▁")])  # fmt: skip
    one.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    yield "unigram-charsmap", one

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

    one = Tokenizer(
        models.WordPiece(
            {
                "[UNK]": 0,
                **{f"##{letter}": number + 1000 for number, letter in enumerate(letters)},
                **{letter: number + 1 for number, letter in enumerate(letters)},
            },
            unk_token="[UNK]",
            max_input_chars_per_word=9,
        )
    )
    one.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=False, handle_chinese_chars=False)
    one.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?<=\w)[,;-]+|\b\d+\b|\s"), "merged_with_next")
    one.decoder = decoders.WordPiece()
    yield "word-piece-split", one


def _charsmap(texts: dict[str, str]) -> bytes:
    """Return the map that a sentencepiece model carries: a double array over UTF-8, and what each text becomes."""
    nodes: list[dict[int, int]] = [{}]  # byte → node
    ends: dict[int, int] = {}  # node → place of what the text becomes
    blob = b""
    for text, becomes in texts.items():
        node = 0
        for byte in text.encode():
            if byte not in nodes[node]:
                nodes[node][byte] = len(nodes)
                nodes.append({})
            node = nodes[node][byte]
        ends[node] = len(blob)
        blob += becomes.encode() + b"\0"
    # Node n has its children in the block at 256 · (n + 1), its own end at the block's first unit.
    units = [0] * (256 * (len(nodes) + 1))

    def offset(place: int, node: int) -> int:
        distance = place ^ (256 * (node + 1))
        return distance << 10 if distance < 1 << 21 else ((distance >> 8) << 10) | 1 << 9

    units[0] = offset(0, 0)
    for node, children in enumerate(nodes):
        base = 256 * (node + 1)
        if node in ends:
            units[base] = ends[node] | 1 << 31
        for byte, child in children.items():
            units[base ^ byte] = offset(base ^ byte, child) | byte | (1 << 8 if child in ends else 0)
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + blob


def check() -> list[str]:
    """Return the names of the files that are not what would be written now.

    Training is not the same twice, so what was trained may differ: its ids are held against the committed tokenizer.
    """
    wrong = []
    for name, document in documents().items():
        path = FOLDER / f"{name}.json"
        if not path.is_file():
            wrong.append(name)
            continue
        committed = json.loads(path.read_text(encoding="utf-8"))
        if "tokenizer" in committed:
            document = {**_document(json.dumps(committed["tokenizer"])), "kind": _kind(document)}
            committed["kind"] = _kind(committed)
        if committed != document:
            wrong.append(name)
    return wrong


def _kind(document: Json) -> Json:
    """Return what of a tokenizer is not trained and names no id."""
    parts = {key: document["tokenizer"][key] for key in ("normalizer", "pre_tokenizer", "truncation")}
    model = {key: value for key, value in document["tokenizer"]["model"].items() if key not in ("vocab", "merges")}
    return {**parts, "model": model}


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
