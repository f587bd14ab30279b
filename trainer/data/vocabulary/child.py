"""A process of its own that tries a `tokenizer.json`, and may be killed by it.

Started by `trainer.data.vocabulary.trial`, by its path: it imports nothing of this project. It
reads the JSON from standard input and writes what is wrong with it, in one line, or nothing.
"""

import resource
import sys

#: Texts in which a pattern may lose itself: runs of a kind of character, and an end that fits none.
RUNS = (
    "a",
    " ",
    "0",
    "\n",
    ".",
    "_",
    "é",
    "漢",
    "\t ",
    "ab",
    "a ",
    "a0",
    "'s",
    " \n",
    "😀",
    "\u0301",
)
RUN_CHARACTERS = 4_000
#: As many characters as one becomes in Unicode's longest decomposition, with some left over.
MAX_GROWTH = 32


def main() -> None:
    """Try the tokenizer within the limits given: seconds of CPU, and bytes of memory."""
    seconds, n_bytes = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        problem = try_out(sys.stdin.buffer.read().decode())
    except MemoryError:
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        problem = " ".join(str(error).split())[:300]
    sys.stdout.write(problem)


def try_out(text: str) -> str:
    """Load a tokenizer, cut long runs with it, and put them together again."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for run in RUNS:
        tried = run * (RUN_CHARACTERS // len(run)) + "\x01"
        for sample in (tried[:50], tried):  # what grows, is seen before it takes much
            normalized = sample
            if tokenizer.normalizer is not None:
                normalized = tokenizer.normalizer.normalize_str(sample)
            ids = tokenizer.encode(sample, add_special_tokens=False).ids
            back = tokenizer.decode(ids, skip_special_tokens=False)
            if max(len(normalized), len(back)) > MAX_GROWTH * (len(sample) + MAX_GROWTH):
                return f"it makes {max(len(normalized), len(back)):,} characters of {len(sample)}"
    return ""


if __name__ == "__main__":
    main()
