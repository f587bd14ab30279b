"""The program of a process that tries a `tokenizer.json`, which may kill the process.

`trainer.data.vocabulary.trial` starts it by its path; it imports nothing of this project. It reads
the JSON from standard input, and writes one line that says what is wrong, or nothing.
"""

import resource
import sys

#: Texts in which a pattern may search for long: runs of one kind of character, then an odd end.
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
#: More than the number of characters in Unicode's longest decomposition of one character.
MAX_GROWTH = 32


def main() -> None:
    """Try the tokenizer within the limits in the arguments: seconds of CPU, bytes of memory."""
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
    """Load a tokenizer, encode long runs with it, and decode them again."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for run in RUNS:
        tried = run * (RUN_CHARACTERS // len(run)) + "\x01"
        for sample in (tried[:50], tried):  # growth shows before it takes much
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
