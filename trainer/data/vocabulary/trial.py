"""Trying whether a `tokenizer.json` can be used, where it does no harm.

A `tokenizer.json` may hold patterns that search without end, or rules that make a text grow without
end. The library may then take all memory, or end the process. So a file with patterns, or with
rules other than the common plain ones, is tried in a process of its own.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Seconds and bytes that a trial may take; more for each megabyte of vocabulary. Real tokenizers
#: take a tenth.
_SECONDS, _BYTES = 4, 400 << 20
_SECONDS_PER_MIB, _BYTES_PER_BYTE = 1, 40

#: Parts that hold no pattern and lengthen a text at most a few times.
_PLAIN = {
    "BPEDecoder",
    "BertNormalizer",
    "BertPreTokenizer",
    "ByteFallback",
    "ByteLevel",
    "CTC",
    "CharDelimiterSplit",
    "Digits",
    "Fuse",
    "Lowercase",
    "Metaspace",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Punctuation",
    "Strip",
    "StripAccents",
    "UnicodeScripts",
    "Whitespace",
    "WhitespaceSplit",
    "WordPiece",
}
#: The most parts of a sequence, the most that add text, and the most characters that one adds.
_MAX_PARTS, _MAX_ADDING, _MAX_ADDED = 16, 2, 8


def try_tokenizer(tokenizer: dict[str, Any]) -> None:
    """Load a tokenizer and encode a few texts, in another process unless the tokenizer is plain.

    Raises:
        ValueError: the tokenizer cannot be read, or takes too much time or memory.
    """
    if all(_is_plain(tokenizer.get(part)) for part in ("normalizer", "pre_tokenizer", "decoder")):
        return
    text = json.dumps(tokenizer).encode()
    seconds = _SECONDS + _SECONDS_PER_MIB * (len(text) >> 20)
    n_bytes = _BYTES + _BYTES_PER_BYTE * len(text)
    child = str(Path(__file__).with_name("child.py"))
    try:
        tried = subprocess.run(
            [sys.executable, "-I", child, str(seconds), str(n_bytes)],
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=6 * seconds,
            check=False,
            env={"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it does not cut a short text within {6 * seconds} s") from None
    except OSError as error:
        raise ValueError(f"it cannot be tried in a process of its own: {error}") from None
    if tried.returncode != 0:
        raise ValueError(
            f"to cut a short text it takes more than {seconds} s or {n_bytes >> 20} MiB, or ends "
            f"the process (code {tried.returncode})"
        )
    if tried.stdout:
        raise ValueError(f"tokenizers cannot use it: {tried.stdout.decode(errors='replace')}")


def _is_plain(part: Any) -> bool:
    """Return whether a part holds no pattern, and adds little to a text."""
    parts = (
        part.get("normalizers", part.get("pretokenizers", part.get("decoders")))
        if (isinstance(part, dict) and part.get("type") == "Sequence")
        else [part]
    )
    if not isinstance(parts, list) or len(parts) > _MAX_PARTS:
        return False
    adding = [inner for inner in parts if isinstance(inner, dict) and _adds_little(inner)]
    others = [inner for inner in parts if inner is not None and inner not in adding]
    return len(adding) <= _MAX_ADDING and all(
        isinstance(inner, dict) and inner.get("type") in _PLAIN for inner in others
    )


def _adds_little(part: dict[str, Any]) -> bool:
    """Return whether a part adds a short text before a text, or puts a short text in its place."""
    added = part.get("prepend", part.get("content"))
    pattern = part.get("pattern", {})
    return (
        part.get("type") in ("Prepend", "Replace")
        and isinstance(added, str)
        and len(added) <= _MAX_ADDED
        and isinstance(pattern, dict)
        and "Regex" not in pattern
    )
