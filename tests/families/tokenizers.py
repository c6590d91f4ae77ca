"""Small tokenizers of the kinds that text encoders have, saved as transformers saves them.

Each is trained on the few lines below and has what makes its kind hard: CLIP's end-of-word BPE over bytes, T5's Unigram
with an unknown token and sentinels, BERT's WordPiece with Chinese characters on their own, Gemma's BPE with byte
fallback, and Qwen's and Llama 3's byte-level BPE with chat tokens. Each function writes a folder and returns how many
ids there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "a photograph of an astronaut riding a horse on the moon, highly detailed, 8k",
    "An oil painting of two small cats on a red sofa; soft light, wide angle.",
    "the quick brown fox jumps over the lazy dog's back and the dog isn't amused",
    "low quality, blurry, bad anatomy, extra fingers, watermark, text",
    "ein Gemälde von einem Fuchs im Schnee, une peinture à l'huile d'un café à Paris",
    "una fotografía de un gato pequeño, картина маслом: лиса в снегу",
    "一只在雪地里的狐狸,油画,高清细节 一匹马 月球 猫",
    "東京の夜、雨の中のネコの写真 서울의 밤 고양이 사진",
    "قطة صغيرة على أريكة حمراء एक छोटी बिल्ली लाल सोफे पर",
    "portrait of a woman with a pearl earring, 1665, by Johannes Vermeer",
]

#: What tokenizers disagree on: scripts, marks, joiners, white space, length, and the names of special tokens.
ODD_TEXTS = [
    "",
    " ",
    "a photo of a cat",
    "  Two   Spaces,\ttab\nnewline\r\nreturn  ",
    "it's we'll I'D 're 1234567890 3.14 $%&/()=?!",
    "Größe, naïve café, Łódź, İstanbul, ſtraße, ﬁne ①②③ Ω Å",
    "e\u0301 vs é; a\u030a vs å; q\u0323\u0307 vs q\u0307\u0323; Z\u0351\u036b\u0343algo",
    "картина маслом: лиса в снегу, ёж",
    "一只在雪地里的狐狸,油画。高清!",
    "東京の夜、雨の中のネコ(写真)ﾊﾝｶｸ",
    "서울의 밤, 고양이 사진",
    "قطة صغيرة على أريكة حمراء، مُشَكَّل",
    "एक छोटी बिल्ली लाल सोफे पर क्षत्रिय",
    "ไทย: แมวตัวเล็กบนโซฟา",
    "🙂 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇯🇵 ❤️",
    "zero\u200bwidth non\u00a0breaking\u202ftoo soft\u00adhyphen bom\ufeff \u2060joiner",
    "control \x00\x07\x1b[0m chars \x7f \u0085 \u2028 \u2029 end",
    "\ud7ff\ue000\ufffd \U0010ffff 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠀋",
    "supercalifragilisticexpialidocious" * 20,
    "<|endoftext|> <|startoftext|> </s> <pad> <unk> <extra_id_0> [CLS] [MASK] <bos> <|im_end|> ▁",
    "word " * 500,
    "猫" * 300,
]


def clip_tokenizer(folder: Path, *, pad_token: str = "<|endoftext|>", model_max_length: int = 77) -> int:
    """Write a CLIP tokenizer: bytes, bytes at a word's end, merges, start and end tokens. SD3's second pads "!"."""
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    pieces = [*alphabet, *(f"{one}</w>" for one in alphabet)]
    merges = _merges(trained)
    pieces += dict.fromkeys(left + right for left, right in merges if left + right not in set(pieces))
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=model_max_length)
    return _save(tokenizer, folder)


def t5_tokenizer(folder: Path, *, model_max_length: int = 512, extra_ids: int = 100) -> int:
    """Write a T5 tokenizer: Unigram pieces after <pad>, </s> and <unk>, sentinels at the end."""
    from transformers import T5Tokenizer

    trained = tokenizers.Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(vocab_size=400, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    trained.train_from_iterator(CORPUS[:7], trainer)
    scores = _model(trained)["vocab"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(piece, score) for piece, score in scores if piece != "<unk>"]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in range(extra_ids - 1, -1, -1)]
    return _save(T5Tokenizer(vocab=pieces, extra_ids=extra_ids, model_max_length=model_max_length), folder)


def bert_tokenizer(folder: Path, *, model_max_length: int = 77) -> int:
    """Write a BERT tokenizer: WordPiece, lowercased, without accents, each Chinese character on its own."""
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer()
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    return _save(BertTokenizer(vocab=trained.get_vocab(), model_max_length=model_max_length), folder)


def gemma_tokenizer(folder: Path, *, model_max_length: int = 1 << 40) -> int:
    """Write a Gemma tokenizer: BPE with "▁" for spaces and a token for each byte that no piece covers; <bos> first."""
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    spare = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special + spare, show_progress=False)
    trained.train_from_iterator(CORPUS[:7], trainer)
    tokenizer = GemmaTokenizer(
        vocab=trained.get_vocab(), merges=_merges(trained), model_max_length=model_max_length, add_bos_token=True
    )
    return _save(tokenizer, folder)


def qwen_tokenizer(folder: Path, *, model_max_length: int = 131072) -> int:
    """Write a Qwen 2 tokenizer: byte-level BPE, no start token, chat tokens beside the padding token."""
    from transformers import Qwen2Tokenizer

    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    tokenizer = Qwen2Tokenizer(
        vocab=trained.get_vocab(),
        merges=_merges(trained),
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"],
        model_max_length=model_max_length,
    )
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return _save(tokenizer, folder)


def llama_tokenizer(folder: Path, *texts: str) -> int:
    """Write a Llama 3 tokenizer: byte-level BPE that knows the words of ``texts`` too; a start token, none at the end.

    transformers has no class of its own for it.
    """
    from transformers import PreTrainedTokenizerFast

    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1400, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([*CORPUS, *texts * 20], trainer)
    start, end = "<|begin_of_text|>", "<|end_of_text|>"
    trained.add_special_tokens([start, end, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>"])
    trained.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, trained.token_to_id(start))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token=start, eos_token=end, pad_token="<pad>", padding_side="right"
    )
    return _save(tokenizer, folder)


def _save(tokenizer: Any, folder: Path) -> int:
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _model(trained: tokenizers.Tokenizer) -> dict[str, Any]:
    import json

    return json.loads(trained.to_str())["model"]


def _merges(trained: tokenizers.Tokenizer) -> list[tuple[str, str]]:
    return [(left, right) for left, right in _model(trained)["merges"]]
