"""The corpus that a run to a target reads: made once, and used again by every later call."""

import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from measured.processes import ROOT

from trainer.config.recipe import load_recipe
from trainer.data.corpus import open_corpus

#: Books, where they are; else the sources that the quick start reads.
CLASSICS = ROOT.parent / "shared" / "data" / "classics"
SPLITS = ("train", "valid", "test")


def corpus_at(
    folder: Path, texts: list[Path], *, recipe: str, prepare: str | None, limit_s: float
) -> Path:
    """Prepare a corpus, if it is not there yet.

    Args:
        folder: of the corpus.
        texts: files and folders; none are the default.
        recipe: whose kind of vocabulary is taken.
        prepare: flags of `txl prepare`, in the place of that kind.
        limit_s: seconds, after which nothing is left of it.

    Raises:
        SystemExit: there is nothing to read, or it could not be prepared.
        InputError: what is there is no corpus.
    """
    if folder.exists():
        open_corpus(folder)
        return folder
    flags = tokenizer_of(recipe) if prepare is None else shlex.split(prepare)
    command = [sys.executable, "-m", "trainer", "prepare", "--out", str(folder), *flags]
    try:
        done = subprocess.run(
            [*command, *sources(texts)], cwd=ROOT, timeout=max(1, limit_s), check=False
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{folder} was not prepared within {limit_s:.0f} s") from None
    if done.returncode:
        raise SystemExit(done.returncode)
    return folder


def tokenizer_of(recipe: str) -> list[str]:
    """Return words, where a recipe shares a large vocabulary out on clusters; else subwords."""
    if load_recipe(recipe).model.cutoffs:
        return ["--tokenizer", "words", "--min-count", "2"]
    return ["--tokenizer", "bpe"]


def sources(texts: list[Path]) -> list[str]:
    """Return flags that name the texts of each split: a file per split, or shares of all of it."""
    if not texts and CLASSICS.is_dir():
        texts = [CLASSICS]
    if not texts:
        return ["--split", "98,1,1", "--train", *_library()]
    missing = [str(path) for path in texts if not path.exists()]
    if missing:
        raise SystemExit(f"--text: {', '.join(missing)} is not there: name a file or a folder")
    if len(texts) == 1 and texts[0].is_dir():
        by_split = {split: sorted(texts[0].glob(f"{split}.*")) for split in SPLITS}
        if all(map(len, by_split.values())):
            return [
                part
                for split, files in by_split.items()
                for part in (f"--{split}", *map(str, files))
            ]
    return ["--split", "98,1,1", "--train", *map(str, texts)]


def _library() -> list[str]:
    """Return the files that the quick start trains on."""
    script = ROOT / "launch" / "quickstart_texts.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    files = done.stdout.rstrip("\0").split("\0")
    if not files[0]:
        raise SystemExit(f"{sysconfig.get_paths()['stdlib']} has no sources: give --text")
    return files
