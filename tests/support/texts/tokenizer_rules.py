"""The rules of real tokenizers, in a `tokenizer.json` of a few words."""

from typing import Any


def tokenizer(**parts: Any) -> dict[str, Any]:
    """Return a small tokenizer with parts of its own."""
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": {"a": 0, "b": 1, "ab": 2, " ": 3},
        "merges": [["a", "b"]],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model,
        **parts,
    }


def split(pattern: str) -> dict[str, Any]:
    """Return a pre-tokenizer that cuts by a pattern."""
    behavior = {"behavior": "Isolated", "invert": False}
    return {"type": "Split", "pattern": {"Regex": pattern}, **behavior}


def replace(text: str, by: str) -> dict[str, Any]:
    """Return a normalizer or decoder that writes one text for another."""
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def sequence(*parts: dict[str, Any], name: str = "normalizers") -> dict[str, Any]:
    """Return several parts, one after another."""
    return {"type": "Sequence", name: list(parts)}


GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


#: Rules of GPT-4's and Llama 3's, XLM-R's, Llama 2's and T5's tokenizers.
REAL = {
    "gpt-4": tokenizer(pre_tokenizer=sequence(split(GPT4), name="pretokenizers")),
    "xlm-r": tokenizer(
        normalizer=sequence(
            {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
        )
    ),
    "llama-2": tokenizer(
        normalizer=sequence({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        decoder=sequence(
            replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, name="decoders"
        ),
    ),
}
