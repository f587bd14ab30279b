"""`txl import`: every tensor arrives bit by bit, and whatever is wrong with a file is said."""

import json
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import foreign_files
import pytest
import torch
from builders import CPU, tiny_model, write_corpus
from foreign_files import Attack
from foreign_models import FAIRSEQ_WORDS, WORDS, WRITERS, V, source
from safetensors.torch import load_file, save_file
from saved_checkpoints import contents

from trainer.checkpoint.contents.tensors import read_weights
from trainer.checkpoint.folder import resolve
from trainer.checkpoint.hashing import fingerprints
from trainer.config.recipe import load_recipe, parse_experiment
from trainer.data.vocabulary.files import load_vocabulary, save_vocabulary
from trainer.errors import InputError
from trainer.exchange.importing import import_checkpoint
from trainer.inference.loading import open_trained
from trainer.training.opening import rundir

MODELS: dict[str, dict[str, Any]] = {
    "one table": {},
    "clusters": {"cutoffs": (5, 9, 14)},
    "clusters, narrow embedding": {"cutoffs": (5, 9), "d_embed": 6},
    "halved": {"cutoffs": (5, 9), "div_val": 2},
    "quartered, wide, pre-norm": {"cutoffs": (5, 9), "div_val": 4, "d_embed": 16, "norm": "pre"},
}


#: fairseq has neither a narrower embedding nor pre-norm.
CASES = [
    (layout, kind)
    for layout in WRITERS
    for kind, model in MODELS.items()
    if not (layout.startswith("fairseq") and {"d_embed", "norm"} & set(model))
]


@pytest.mark.parametrize(("layout", "kind"), CASES)
def test_every_tensor_of_every_layout_arrives_unchanged(
    tmp_path: Path, layout: str, kind: str
) -> None:
    path, model = source(tmp_path / "theirs", layout, **MODELS[kind])
    run = import_checkpoint(path, out=tmp_path / "run").run_dir
    trained = open_trained(run, which="best", precision=None, device=CPU)
    wanted = {name: p.detach().float() for name, p in model.named_parameters()}
    found = {name: p.detach() for name, p in trained.module.named_parameters()}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    config = trained.experiment.model
    same = ("cutoffs", "div_val", "norm", "position_biases", "n_layer", "d_inner", "n_head")
    assert {k: getattr(config, k) for k in same} == {k: getattr(model.config, k) for k in same}
    assert (config.dropout, config.attn_dropout) == (0.1, 0.2)


@pytest.mark.parametrize("layout", WRITERS)
def test_lengths_and_vocabulary_come_over(tmp_path: Path, layout: str) -> None:
    path, _ = source(tmp_path / "theirs", layout, cutoffs=(5, 9))
    run = import_checkpoint(path, out=tmp_path / "run").run_dir
    train = parse_experiment((run / "config.json").read_bytes(), where="run").train
    said = train.mem_len, train.clamp_len, train.same_length
    keys = 7 if layout == "nvidia" else 6  # theirs sees one more under same_length
    assert said == ((6, None, False) if "huggingface" in layout else (keys, 3, True))
    if "huggingface" not in layout:
        assert train.tgt_len == 5
    symbols = FAIRSEQ_WORDS if "fairseq" in layout else WORDS
    assert load_vocabulary(run).to_json()["words"] == symbols


def test_only_one_of_shared_tensors_need_be_there(tmp_path: Path) -> None:
    path, model = source(tmp_path / "theirs", "huggingface", cutoffs=(5, 9), div_val=2)
    file = path / "model.safetensors"
    tensors = load_file(file)
    for c in range(3):
        del tensors[f"transformer.word_emb.emb_layers.{c}.weight"]
    save_file(tensors, file)
    run = import_checkpoint(path, out=tmp_path / "run").run_dir
    weights = read_weights(resolve(run, "best"))
    assert torch.equal(weights["embedding.tables.1"], model.embedding.tables[1].detach().float())


def test_untied_and_wholly_tied_weights_are_seen_from_the_tensors(tmp_path: Path) -> None:
    for kind, ties in {
        "untied": {"tie_embedding": False, "tie_projections": "none"},
        "tied": {"tie_embedding": True, "tie_projections": "all"},
    }.items():
        path, _ = source(tmp_path / kind, "kimiyoung", cutoffs=(5, 9), div_val=2, **ties)
        imported = import_checkpoint(path, out=tmp_path / f"{kind}-run")
        model = imported.foreign.config.model
        assert {
            "tie_embedding": model.tie_embedding,
            "tie_projections": model.tie_projections,
        } == ties


def test_a_model_of_a_recipes_sizes_gets_that_recipes_evaluation(tmp_path: Path) -> None:
    recipe = load_recipe("wt103-base")
    sizes = {name: getattr(recipe.model, name) for name in ("n_layer", "d_model", "d_inner")}
    path, _ = source(tmp_path / "theirs", "kimiyoung", **{**sizes, "d_inner": 3})
    imported = import_checkpoint(path, out=tmp_path / "run")
    experiment = parse_experiment((tmp_path / "run/config.json").read_bytes(), where="run")
    assert imported.recipe == "wt103-base"
    assert experiment.eval == recipe.eval


# Poison


@pytest.mark.parametrize("layout", ["huggingface, pickled", "kimiyoung", "nvidia", "fairseq"])
def test_an_attack_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path, layout: str) -> None:
    marker, folder = tmp_path / "attacked", tmp_path / "theirs"
    attack = Attack(marker)
    model = tiny_model(V)
    if layout == "huggingface, pickled":
        source(folder, layout)
        state = torch.load(folder / "pytorch_model.bin")
        torch.save(state | {"poison": attack}, folder / "pytorch_model.bin")
    elif layout == "kimiyoung":
        foreign_files.write_kimiyoung(folder, model, WORDS, poison=attack)
    elif layout == "nvidia":
        foreign_files.write_nvidia(folder, model, WORDS, args=attack)
    else:
        foreign_files.write_fairseq(folder, model, FAIRSEQ_WORDS, task_state=attack)
    with pytest.raises(InputError, match=r"refused: it asks for posix\.mkdir.*nothing of it was"):
        import_checkpoint(folder, out=tmp_path / "run")
    assert not marker.exists()
    assert not (tmp_path / "run").exists()
    pickle.loads(pickle.dumps(attack))
    assert marker.exists(), "it is poison where nothing keeps it from running"


# Wrong files


def test_missing_unknown_and_misshapen_tensors_are_all_listed(tmp_path: Path) -> None:
    path, _ = source(tmp_path / "theirs", "huggingface", cutoffs=(5, 9))
    file = path / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.extra"] = torch.ones(2, 3)
    del tensors["crit.cluster_bias"]
    del tensors["transformer.layers.1.dec_attn.o_net.weight"]
    tensors["transformer.layers.0.dec_attn.o_net.weight"] = torch.ones(8, 7)
    tensors["transformer.layers.0.dec_attn.r_w_bias"] += 1
    save_file(tensors, file)
    with pytest.raises(InputError) as caught:
        import_checkpoint(path, out=tmp_path / "run")
    for said in (
        "crit.cluster_bias is missing (should be 2)",
        "transformer.layers.1.dec_attn.o_net.weight is missing (should be 8×6)",
        "transformer.layers.0.dec_attn.o_net.weight is 8×7, by its configuration 8×6",
        "transformer.extra (2×3) has no place in the model",
        "transformer.layers.0.dec_attn.r_w_bias differs from transformer.r_w_bias",
    ):
        assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("n_layer", 3), ("d_inner", 13), ("vocab_size", 21)])
def test_sizes_that_disagree_with_the_configuration_name_the_tensor(
    tmp_path: Path, name: str, value: int
) -> None:
    path, _ = source(tmp_path / "theirs", "huggingface")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {name: value}))
    vocab = tmp_path / "vocab.txt"
    vocab.write_text(
        "".join(f"{word}\n" for word in [*WORDS, "w20"][: max(V, config["vocab_size"])])
    )
    if name == "vocab_size":
        vocab.write_text("".join(f"{word}\n" for word in [*WORDS, "w20"]))
    tensor = {
        "n_layer": "transformer.layers.2.dec_attn.qkv_net.weight is missing",
        "d_inner": r"pos_ff.CoreNet.0.weight is 12×8, by its configuration 13×8",
        "vocab_size": r"word_emb.emb_layers.0.weight is 20×8, by its configuration 21×8",
    }[name]
    with pytest.raises(InputError, match=tensor):
        import_checkpoint(path, out=tmp_path / "run", vocab=vocab)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    path, _ = source(tmp_path / "theirs", "huggingface")
    tensors = load_file(path / "model.safetensors")
    tensors["crit.out_layers.0.bias"][3] = value
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(InputError, match=r"out_layers\.0\.bias .* something else than finite"):
        import_checkpoint(path, out=tmp_path / "run")


def test_an_unknown_layout_says_what_was_found(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    for content, found in (
        ({"epoch": 3, "weights": [1.0]}, "a dict of 2 keys: epoch, weights"),
        ([1, 2], "a list"),
        (torch.ones(2), "a Tensor"),
    ):
        torch.save(content, file)
        with pytest.raises(InputError, match=f"unknown layout, found {found}"):
            import_checkpoint(file, out=tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").touch()
    with pytest.raises(InputError, match=r"no checkpoint here, found notes\.md; looked for"):
        import_checkpoint(tmp_path / "empty", out=tmp_path / "run")
    with pytest.raises(InputError, match="no such file or folder"):
        import_checkpoint(tmp_path / "none", out=tmp_path / "run")


@pytest.mark.parametrize("layout", WRITERS)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, layout: str) -> None:
    path, _ = source(tmp_path / "theirs", layout)
    file = next(
        p
        for p in path.iterdir()
        if p.suffix in (".safetensors", ".bin", ".pt") and p.name != "cache.pt"
    )
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:10], b"", b"\x80\x02garbage"):
        file.write_bytes(damaged)
        with pytest.raises(InputError) as caught:
            import_checkpoint(path, out=tmp_path / "run")
        assert file.name in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"attn_type": 1}, "attn_type 1 is not supported"),
        ({"clamp_len": "3"}, "clamp_len: input should be a valid integer, got '3'"),
        ({"sample_softmax": 100}, "sample_softmax 100 is not supported"),
        ({"n_head": None}, "n_head: input should be a valid integer, got None"),
    ],
)
def test_models_that_are_not_the_papers_are_refused(
    tmp_path: Path, attributes: dict[str, Any], said: str
) -> None:
    path = foreign_files.write_kimiyoung(tmp_path / "theirs", tiny_model(V), WORDS, **attributes)
    with pytest.raises(InputError, match=said):
        import_checkpoint(path, out=tmp_path / "run")


def test_what_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    path, _ = source(tmp_path / "theirs", "nvidia")
    out = tmp_path / "run"
    import_checkpoint(path, out=out)
    before = contents(out)
    with pytest.raises(InputError, match="exists: give another"):
        import_checkpoint(path, out=out)
    assert contents(out) == before
    with pytest.raises(InputError, match=r"--out .*vocabulary\.json/run cannot be written: "):
        import_checkpoint(path, out=out / "vocabulary.json" / "run")


# What an imported run is good for


def test_an_imported_run_gives_its_weights_but_is_not_resumed(tmp_path: Path) -> None:
    path, model = source(tmp_path / "theirs", "nvidia")
    run = import_checkpoint(path, out=tmp_path / "run").run_dir
    shutil.rmtree(path)  # the run stands alone
    corpus = write_corpus(tmp_path / "corpus", vocabulary_size=V, train=[range(V)])
    save_vocabulary(load_vocabulary(run), corpus.path / "vocabulary.json")
    found = rundir.find_weights(run, corpus, model=model, hashed=fingerprints)
    assert found.parent.parent == run
    experiment = parse_experiment((run / "config.json").read_bytes(), where="run")
    with pytest.raises(InputError, match="was imported, weights alone: begin a new run with"):
        rundir.find_origin(
            run,
            experiment,
            corpus,
            resume="auto",
            resume_from=None,
            allowed=(),
            hashed=fingerprints,
        )
