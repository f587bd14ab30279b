"""Runs transformers of today on exported models, in a process of its own: see `peer.ask_today`.

Reads tasks from the JSON file named on the command line and writes their answers beside it. Nothing
of this project can be imported here.
"""

import contextlib
import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

assert importlib.util.find_spec("trainer") is None


def load(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def nats(model: Any, ids_BN: Tensor, **how: Any) -> list[list[float]]:
    """Return nats of all tokens but the first."""
    logits = model(ids_BN, **how).logits[:, :-1]
    return (-logits.gather(2, ids_BN[:, 1:, None])[..., 0]).tolist()


def read(task: dict[str, Any]) -> dict[str, Any]:
    """Return nats of a text, read whole and otherwise, and gradients, in fp64."""
    model, ids_1N = load(task["folder"]).double(), torch.tensor([task["ids"]])
    n_ids = ids_1N.shape[1]
    with torch.no_grad():
        answer: dict[str, Any] = {"nats": nats(model, ids_1N)[0]}
        first, others = ids_1N[:, : task["cut"]], ids_1N[:, task["cut"] :]
        before = model(first)
        after = model(others, past_key_values=before.get("cache", before.get("past_key_values")))
        logits = torch.cat([before.logits, after.logits], dim=1)[0, :-1]
        answer["in parts"] = (-logits.gather(1, ids_1N[0, 1:, None])[:, 0]).tolist()
        pads = torch.full((1, task["pads"]), task["pad_id"])
        padded = torch.cat([torch.cat([pads, ids_1N[:, : n_ids - task["pads"]]], 1), ids_1N])
        mask = torch.ones_like(padded)
        mask[0, : task["pads"]] = 0
        answer["padded"] = nats(model, padded.clamp_max(task["pad_id"] - 1), attention_mask=mask)
        answer["padded loss"] = float(
            model(padded[:1], attention_mask=mask[:1], labels=padded[:1]).loss
        )
        right = mask.flip(1)
        answer["padded right"] = nats(model, ids_1N.expand(2, -1), attention_mask=right)
    model.train()
    loss = model(ids_1N, labels=ids_1N).loss
    loss.backward()
    answer["loss"] = float(loss)
    answer["gradients"] = {name: p.grad.tolist() for name, p in model.named_parameters()}
    return answer


def go_on(task: dict[str, Any]) -> dict[str, Any]:
    """Return what follows prompts, and whether a saved model is the same."""
    model, ids_1N = load(task["folder"]), torch.tensor([task["ids"]])
    n_tokens, n_ids = task["n_tokens"], ids_1N.shape[1]
    how = {"max_new_tokens": n_tokens, "do_sample": False}
    greedy = model.generate(ids_1N, **how)
    short = ids_1N[:, : task["cut"]]
    pads = torch.full((1, n_ids - task["cut"]), task["pad_id"])
    rows = torch.cat([torch.cat([pads, short], dim=1), ids_1N])
    mask = (rows != task["pad_id"]).long()
    beams = model.generate(
        ids_1N,
        max_new_tokens=n_tokens,
        num_beams=3,
        do_sample=False,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    again = Path(task["folder"] + "-again")
    model.save_pretrained(again)
    loaded = load(str(again))
    fresh = AutoModelForCausalLM.from_config(model.config, trust_remote_code=True)
    pairs = zip(model.state_dict().items(), loaded.state_dict().items(), strict=True)
    return {
        "greedy": greedy[0, n_ids:].tolist(),
        "short": model.generate(short, **how)[0, task["cut"] :].tolist(),
        "beside": model.generate(rows, attention_mask=mask, **how)[:, n_ids:].tolist(),
        "beams": beams.sequences[0, n_ids:].tolist(),
        "beams score": float(beams.sequences_scores[0]),
        "same names and values": all(a == b and torch.equal(p, q) for (a, p), (b, q) in pairs),
        "greedy again": loaded.generate(ids_1N, **how)[0, n_ids:].tolist(),
        "refusals": refusals(model, ids_1N),
        "fresh": {
            name: [float(p.detach().min()), float(p.detach().max())]
            for name, p in fresh.named_parameters()
        },
    }


def refusals(model: Any, ids_1N: Tensor) -> list[str]:
    """Return what is said of input that cannot be."""
    hole = torch.ones_like(ids_1N)
    hole[0, 2] = 0
    told = []
    for wrong in (
        lambda: model(ids_1N, attention_mask=hole),
        lambda: model(ids_1N, position_ids=ids_1N),
        lambda: model.generate(ids_1N, max_new_tokens=2, use_cache=False),
    ):
        try:
            wrong()
        except ValueError as error:
            told.append(str(error))
    return told


def tokenize(task: dict[str, Any]) -> dict[str, Any]:
    """Return ids of texts, and the texts of the ids."""
    tokenizer = AutoTokenizer.from_pretrained(task["folder"], trust_remote_code=True)
    ids = [tokenizer(text)["input_ids"] for text in task["texts"]]
    return {"ids": ids, "texts": [tokenizer.decode(row) for row in ids]}


def pipe(task: dict[str, Any]) -> dict[str, Any]:
    """Return a continuation by a pipeline."""
    generator = pipeline("text-generation", model=task["folder"], trust_remote_code=True)
    (made,) = generator(
        task["prompt"], max_new_tokens=task["n_tokens"], do_sample=False, return_full_text=False
    )
    return {"text": made["generated_text"]}


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Return what a piece of Python prints."""
    os.chdir(task["folder"])
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(task["code"], {})
    return {"out": out.getvalue()}


if __name__ == "__main__":
    file = Path(sys.argv[1])
    torch.set_num_threads(1)
    does = {function.__name__: function for function in (read, go_on, tokenize, pipe, run)}
    answers = [does[task["does"]](task) for task in json.loads(file.read_text())]
    file.with_name("answers.json").write_text(json.dumps(answers))
