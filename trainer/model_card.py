"""The README of an exported model: what it is, what it read, how it scores, how to load it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.inference import TrainedModel, corpus_of

#: All that `trainer.load` imports beside this project.
PACKAGES = ("torch>=2.10", "numpy", "pydantic>=2.9", "safetensors", "tokenizers", "xxhash")

_LOAD = {
    "txl": """```bash
pip install {packages}
pip install --no-deps .          # in a clone of txl-trainer: neither deepspeed nor wandb is needed
```

```python
import trainer

model = trainer.load("{name}")
print(model.generate("{prompt}"))
print(sum(model.nats("some text")))
```""",
    "huggingface": """```bash
pip install "transformers==4.35.2" "tokenizers==0.15.2" "huggingface_hub<0.26" torch
```

```python
from transformers import TransfoXLLMHeadModel

model = TransfoXLLMHeadModel.from_pretrained("{name}").eval()
```

transformers removed this model in 5.0. There, an empty memory is zeros that are attended, so that
the first `mem_len` tokens score a little differently; `labels` are shifted inside.""",
}


def model_card(run_dir: Path, trained: TrainedModel, *, name: str, form: str) -> str:
    """The text of `README.md`.

    Args:
        run_dir: where its evaluations and its corpus are named.
        trained: the model.
        name: of the folder.
        form: how it was exported, ``txl`` or ``huggingface``.
    """
    packages = " ".join(f'"{package}"' for package in PACKAGES)
    loading = _LOAD[form].format(packages=packages, name=name, prompt="It was")
    sections = [
        f"# {name}\n\n{_summary(trained)}",
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
    told = (
        f"A Transformer-XL language model: {model.n_layer} layers, d_model {model.d_model}, "
        f"{model.n_head} heads of {model.d_head}, {n_parameters:,} parameters, over "
        f"{trained.vocabulary.size:,} {trained.vocabulary.kind}. It carries memory from segment to "
        f"segment."
    )
    if origin := origin_of(trained).get("imported"):
        return f"{told}\n\nImported from {origin['file']}, a checkpoint of {origin['layout']}."
    parent = train.get("parent")
    begun = f", begun from {Path(parent).parent.parent.name}/{Path(parent).name}" if parent else ""
    return f"{told}\n\nTrained with txl-trainer{begun}; this is step {train['step']:,}."


def origin_of(trained: TrainedModel) -> dict[str, dict[str, str]]:
    """Where an imported model came from, without anybody's folders; nothing for another."""
    imported = trained.saved.get("imported")
    if imported is None:
        return {}
    return {"imported": {key: imported[key] for key in ("layout", "file") if key in imported}}


def _data(run_dir: Path, trained: TrainedModel) -> str:
    if trained.saved.get("imported"):
        return "Unknown: the checkpoint came from another trainer."
    try:
        corpus = corpus_of(run_dir)
    except InputError:
        return "Unknown: the run names no corpus."
    rows = []
    for header in sorted(corpus.glob("*.json")):
        values = _json(header)
        if "n_tokens" in values:
            counts = (f"{values[key]:,}" for key in ("n_tokens", "n_words", "n_documents"))
            rows.append((header.stem, *counts, _made(values["made"])))
    if not rows:
        return f"Corpus `{corpus.name}`, which is not at hand any more."
    return (
        f"Corpus `{corpus.name}` ({trained.vocabulary.kind}, vocabulary "
        f"`{trained.vocabulary.hash}`):\n\n"
    ) + _table(("split", "tokens", "words and line ends", "documents", "made with"), rows)


def _made(options: dict[str, Any]) -> str:
    """How a corpus was prepared; of paths only the names, which a stranger may see."""
    told = {}
    for key, value in options.items():
        if isinstance(value, list):
            value = [Path(str(item)).name for item in value]
        if value not in (None, [], "", False):
            told[key] = value
    return json.dumps(told)


def _recipe(trained: TrainedModel) -> str:
    """All that shaped the weights; of an imported model only what its checkpoint says."""
    imported = "imported" in trained.saved
    parts = ("model", "eval") if imported else ("model", "train", "optim", "data", "eval")
    values = trained.experiment.model_dump(mode="json")
    rows = [
        (f"{part}.{name}", json.dumps(value))
        for part in parts
        for name, value in values[part].items()
        if value is not None
    ]
    if imported:
        return "How it was trained is not known here.\n\n" + _table(("setting", "value"), rows)
    return _table(("setting", "value"), [*rows, ("seed", str(values["seed"]))])


def _results(run_dir: Path, trained: TrainedModel) -> str:
    """Of `txl eval` with this checkpoint."""
    found = [_json(path) for path in sorted((run_dir / "evals").glob("*.json"))]
    rows = [
        (
            result["split"], *(str(result["settings"][key]) for key in _SETTINGS),
            f"{result['loss']:.4f}", f"{result['ppl']:.2f}", f"{result['ppl_word']:.2f}",
            f"{result['bpc']:.4f}", result["counting"],
        )
        for result in found
        if result.get("checkpoint") == trained.path.name
    ]  # fmt: skip
    train, told = trained.saved["train"], []
    if train.get("best_loss") is not None:
        told.append(
            f"Lowest validation loss in training: {train['best_loss']:.4f} nats per token, at step "
            f"{train['best_step']:,}."
        )
    if rows:
        columns = ("split", *_SETTINGS, "loss", "ppl", "ppl_word", "bpc", "counted")
        told.append(f"Of `txl eval`, loss in nats per token:\n\n{_table(columns, rows)}")
    return "\n\n".join(told) or "None was filed: `txl eval` files them in the run's directory."


_SETTINGS = ("tgt_len", "mem_len", "clamp_len", "same_length")


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(columns)
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def _json(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_bytes())
    return values if isinstance(values, dict) else {}
