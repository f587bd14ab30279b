"""Options of `txl score`: its flags, with what each means.

Neither torch nor deepspeed is imported: the command line is read before a command is known to need
them.
"""

from dataclasses import dataclass
from pathlib import Path

from trainer.config.precision import Precision
from trainer.data.text.source import AskedFormat


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of a scoring of files."""

    run_dir: Path
    """directory of the run, or an exported model"""
    files: tuple[Path, ...]
    """texts: text files, JSON lines, either of them packed, and folders of them; - is stdin"""
    checkpoint: str = "best"
    """best, last, a step, or a path"""
    tgt_len: int | None = None
    """tokens scored per forward pass and row; None is the recipe's"""
    mem_len: int | None = None
    """tokens of memory; None is the recipe's"""
    clamp_len: int | None = None
    """distances beyond this share a position; None is the recipe's"""
    same_length: bool | None = None
    """every query sees exactly mem_len keys; None is the recipe's"""
    batch_size: int | None = None
    """rows read side by side, of different files or of a long one; None is the recipe's"""
    memory_across_files: bool = False
    """read all files as one text, in their order, with memory from one to the next"""
    format: AskedFormat = "auto"
    """auto: by the bytes of each file, .jsonl and .ndjson being JSON lines; text: even if it looks
    like JSON or HTML; jsonl: JSON lines; raw: bytes as they are"""
    suffixes: tuple[str, ...] = ()
    """folders and archives: read the files of these suffixes, such as .md .py"""
    text_field: str = "text"
    """key of the text in JSON lines, and column of the text in tables"""
    precision: Precision | None = None
    """of the arithmetic; None is the run's"""
    json: bool = False
    """as JSON"""
    trust_code: bool = False
    """run the code that the run names as its model (model.factory)"""
