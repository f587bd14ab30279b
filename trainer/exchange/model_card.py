"""The README of an exported model: its kind, its data, its scores, and how to load it."""

import json
import logging
from pathlib import Path
from typing import Any

from trainer.config.strict import checked
from trainer.data.corpus import Corpus, open_corpus
from trainer.data.named import named_corpus
from trainer.errors import InputError
from trainer.inference.trained import TrainedModel
from trainer.track.measure import Measure, corpus_label
from trainer.track.perplexity import perplexity, shown_perplexity
from trainer.track.run_files.results import EvalResult, by_text, read_results, table_rows
from trainer.track.tables import markdown_table, markdown_text
from trainer.track.throughput import SCORING
from trainer.wording import counted

log = logging.getLogger(__name__)

#: All packages that `trainer.load` imports besides this one.
PACKAGES = ("torch>=2.10", "numpy", "pydantic>=2.9", "safetensors", "tokenizers", "xxhash")

_LOAD = {
    "txl": """```bash
pip install {packages}
pip install --no-deps .          # in a clone of txl-trainer: neither deepspeed nor wandb is needed
```

```python
import trainer

model = trainer.load({name})
print(model.generate("{prompt}"))
print(sum(model.nats("some text")))
```""",
    "huggingface": """```bash
pip install "transformers==4.35.2" "tokenizers==0.15.2" "huggingface_hub<0.26" torch
```

```python
from transformers import TransfoXLLMHeadModel

model = TransfoXLLMHeadModel.from_pretrained({name}).eval()
```

transformers removed this model in 5.0. There, an empty memory is zeros that are attended, so that
the first `mem_len` tokens score a little differently; `labels` are shifted inside.""",
    "transformers": """```bash
pip install "transformers>=5.3" torch
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name}, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained({name}, trust_remote_code=True)

prompt = tokenizer("{prompt}", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0]))

text = tokenizer("some text", return_tensors="pt")
print(model(**text, labels=text["input_ids"]).loss.item())  # mean nats per token
```

The model's code is in the four files `*_txl.py` here, hence `trust_remote_code`. Its logits are
log-probabilities. Memory is its cache: `past_key_values` of one call goes into the next, and
`model.config` holds `tgt_len`, `mem_len`, `clamp_len` and `same_length`, with which it reads.
`generate` goes on over the ends of lines and documents, unless it is given `eos_token_id`; it draws
with `do_sample=True`, and searches with beams. Rows of different lengths have their pads on the
left.""",
}


def model_card(run_dir: Path, trained: TrainedModel, *, name: str, form: str) -> str:
    """Return the text of `README.md`.

    Args:
        run_dir: the run's directory, which names its evaluations and its corpus.
        trained: the model.
        name: the folder's name.
        form: the form of the export, ``txl`` or ``huggingface``.
    """
    packages = " ".join(f'"{package}"' for package in PACKAGES)
    quoted = json.dumps(name, ensure_ascii=False)
    loading = _LOAD[form].format(packages=packages, name=quoted, prompt="It was")
    sections = [
        f"# {markdown_text(name)}\n\n{_summary(trained)}",
        f"## How to load it\n\n{loading}",
        f"## Data\n\n{_data(run_dir, trained)}",
        f"## Recipe\n\n{_recipe(trained)}",
        f"## Results\n\n{_results(run_dir, trained)}",
    ]
    return "\n\n".join(sections) + "\n"


def _summary(trained: TrainedModel) -> str:
    model = trained.experiment.model
    n_parameters = sum(p.numel() for p in trained.module.parameters())
    train = trained.saved["train"]
    if model.builder is None:
        sizes = (
            f"A Transformer-XL language model: {counted(model.n_layer, 'layer')}, d_model "
            f"{model.d_model}, {counted(model.n_head, 'head')} of {model.d_head}"
        )
    else:
        options = ", ".join(f"{name} {value}" for name, value in model.options.items())
        sizes = f"A language model of the kind {model.kind}: {markdown_text(options)}"
    summary = (
        f"{sizes}, {counted(n_parameters, 'parameter')}, over "
        f"{trained.vocabulary.size:,} {trained.vocabulary.kind}. It carries memory from segment to "
        f"segment."
    )
    if origin := origin_of(trained).get("imported"):
        file, layout = markdown_text(origin["file"]), markdown_text(origin["layout"])
        return f"{summary}\n\nImported from {file}, a checkpoint of {layout}."
    parent = parent_of(trained)
    begun = f", begun from {markdown_text(parent)}" if parent else ""
    return f"{summary}\n\nTrained with txl-trainer{begun}; this is step {train['step']:,}."


def parent_of(trained: TrainedModel) -> str | None:
    """Return the run and checkpoint from which the model's run began, without private paths."""
    parent = trained.saved["train"].get("parent")
    if parent is None or "imported" in trained.saved:
        return None
    path = Path(parent)  # an export has only the names
    return f"{path.parent.parent.name}/{path.name}" if path.is_absolute() else str(parent)


def origin_of(trained: TrainedModel) -> dict[str, dict[str, str]]:
    """Return an imported model's origin, without private paths; nothing for other models."""
    imported = trained.saved.get("imported")
    if imported is None:
        return {}
    return {"imported": {key: imported[key] for key in ("layout", "file") if key in imported}}


def _data(run_dir: Path, trained: TrainedModel) -> str:
    if trained.saved.get("imported"):
        return "Unknown: the checkpoint came from another trainer."
    try:
        named = named_corpus(run_dir)
    except InputError:
        return "Unknown: the run names no corpus."
    summary = (
        f"Corpus {markdown_text(corpus_label(named.name, trained.saved['corpus']))}: "
        f"{trained.vocabulary.kind}, vocabulary `{trained.vocabulary.hash}`"
    )
    try:
        corpus = open_corpus(Path(named.path))
    except InputError:
        return f"{summary}. It is not at hand any more."
    if corpus.hash != trained.saved["corpus"]:
        return f"{summary}. What stands in its place now is another."
    return f"{summary}.\n\n{_splits(corpus)}"


def _splits(corpus: Corpus) -> str:
    rows = [["split", "tokens", "words and line ends", "documents", "made with"]]
    for split in corpus.splits.values():
        header = split.header
        counts = (f"{n:,}" for n in (header.n_tokens, header.n_words, header.n_documents))
        rows.append([split.name, *counts, json.dumps(_made(header.made), ensure_ascii=False)])
    return markdown_table(rows)


def _made(value: Any) -> Any:
    """Return how a corpus was prepared, with paths cut to their names."""
    if isinstance(value, dict):
        told = {key: _made(part) for key, part in value.items()}
        return {key: part for key, part in told.items() if part not in (None, [], "", False)}
    if isinstance(value, list):
        return [_made(part) for part in value]
    is_path = isinstance(value, str) and "://" not in value
    return Path(value).name if is_path else value


def _recipe(trained: TrainedModel) -> str:
    """Return all that shaped the weights; for an imported model, what its checkpoint says."""
    imported = "imported" in trained.saved
    parts = ("model", "eval") if imported else ("model", "train", "optim", "data", "eval")
    values = trained.experiment.model_dump(mode="json")
    rows = [["setting", "value"]]
    rows += [
        [f"{part}.{name}", json.dumps(value)]
        for part in parts
        for name, value in values[part].items()
        if value is not None
    ]
    if imported:
        return f"How it was trained is not known here.\n\n{markdown_table(rows)}"
    return markdown_table([*rows, ["seed", str(values["seed"])]])


def _results(run_dir: Path, trained: TrainedModel) -> str:
    """Return this checkpoint's results of `txl eval`, by their measure."""
    filed = read_results(run_dir)
    for problem in filed.broken:
        log.warning("passed over: %s", problem)
    weights = trained.weights_hash
    own = [result for result in filed.results if result.is_of(trained.path.name, weights)]
    paragraphs = _best(trained.saved["train"])
    if own:
        paragraphs.append(
            "Of `txl eval` with this checkpoint. Loss is in nats per token, ppl per token, "
            f"ppl_word per word and line end, bpc in bits per character; tokens/s: {SCORING}."
        )
    groups = sorted(by_text(own).items(), key=lambda group: not _is_home(group[1][0], trained))
    paragraphs += [_group(name, results, trained) for name, results in groups]
    return (
        "\n\n".join(paragraphs) or "None was filed: `txl eval` files them in the run's directory."
    )


def _best(train: dict[str, Any]) -> list[str]:
    if train.get("best_loss") is None:
        return []
    said = ""
    if train.get("best_of") is not None:
        of = checked(Measure, train["best_of"], where="best_of", fix="the checkpoint is corrupt")
        said = f", on {markdown_text(str(of))}"
    ppl = shown_perplexity(perplexity(train["best_loss"]))
    return [
        f"Lowest validation loss in training: {train['best_loss']:.4f} nats per token (ppl {ppl}), "
        f"at step {train['best_step']:,}{said}."
    ]


def _is_home(result: EvalResult, trained: TrainedModel) -> bool:
    """Return whether a result is on a split of the corpus that the model was trained on."""
    split_hash = (trained.saved.get("splits") or {}).get(result.split)
    return result.corpus_hash == trained.saved.get("corpus") or (
        split_hash is not None and split_hash == result.split_hash
    )


def _group(name: str, results: list[EvalResult], trained: TrainedModel) -> str:
    """Return the results of one text, under its name."""
    elsewhere = "" if _is_home(results[0], trained) else ", not the corpus it was trained on"
    rows, notes = table_rows(results)
    lines = [f"### {markdown_text(name)}{elsewhere}\n", markdown_table(rows)]
    lines += [f"\n[{i}] {markdown_text(note)}" for i, note in enumerate(notes, start=1)]
    return "\n".join(lines)
