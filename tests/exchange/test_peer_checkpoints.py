"""Checkpoints of other trainers, imported, score as Hugging Face's class with the same weights."""

from pathlib import Path
from typing import Any

import foreign_files
import pytest
import torch
from builders import CPU, segment_of, tiny_model
from peer import ask, needs_peer
from safetensors.torch import load_file
from torch import Tensor

from trainer.exchange.exporting import export
from trainer.exchange.importing import import_checkpoint
from trainer.inference.loading import open_trained

pytestmark = needs_peer()

V, TGT_LEN, MEM_LEN = 20, 5, 6
WORDS = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, V))]
FAIRSEQ_WORDS = ["<s>", "<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(4, V))]
MODEL: dict[str, Any] = {"cutoffs": (5, 9, 14), "div_val": 2}
WRITERS = {
    "huggingface": foreign_files.write_huggingface,
    "kimiyoung": foreign_files.write_kimiyoung,
    "nvidia": foreign_files.write_nvidia,
    "fairseq": foreign_files.write_fairseq,
}
IDS = torch.randint(V, (2, 4 * TGT_LEN + 1), generator=torch.Generator().manual_seed(2))


def build(layout: str) -> Any:
    """Return the same model for all, but that fairseq's has biases in every layer."""
    biases = "per_layer" if layout == "fairseq" else "shared"
    return tiny_model(V, **MODEL, position_biases=biases)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return what the peer made of each model, by layout, and of what we export for it."""
    folder = tmp_path_factory.mktemp("peer")
    tasks = []
    for layout in WRITERS:
        path = foreign_files.write_huggingface(folder / f"{layout}-weights", build(layout), WORDS)
        tasks.append({"kind": "score", "folder": str(folder / layout), "path": str(path)})
        run = import_checkpoint(path, out=folder / f"{layout}-run").run_dir
        export(run, out=folder / f"{layout}-export", which="best", form="huggingface")
        where = {"folder": str(folder / f"{layout}-back"), "path": str(folder / f"{layout}-export")}
        tasks.append({"kind": "score", **where})
    plain = foreign_files.write_fairseq(folder / "plain", build("fairseq"), FAIRSEQ_WORDS)
    where = {"folder": str(folder / "omegaconf"), "path": str(plain / "checkpoint_best.pt")}
    tasks.append({"kind": "fairseq", **where})
    read = {"ids": IDS.tolist(), "tgt_len": TGT_LEN}
    ask(folder, [task | read for task in tasks])
    (folder / "omegaconf" / "dict.txt").write_bytes((plain / "dict.txt").read_bytes())
    return {path.name: path for path in folder.iterdir()}


def ours(run: Path) -> Tensor:
    """Return nats with the memory that the peer has: zeros that are attended."""
    trained = open_trained(run, which="best", precision=None, device=CPU)
    memory = trained.zero_memory(len(IDS), MEM_LEN)
    parts = []
    for begin in range(0, IDS.shape[1] - 1, TGT_LEN):
        segment = segment_of(
            IDS[:, begin : begin + TGT_LEN],
            IDS[:, begin + 1 : begin + TGT_LEN + 1],
            cutoffs=trained.experiment.model.cutoffs,
        )
        output = trained(segment, memory, clamp_len=None, same_length=False)
        memory = output.memory
        assert output.nll_BT is not None
        parts.append(output.nll_BT.detach())
    return torch.cat(parts, dim=1)


def equal(nats_BN: Tensor, answer: Path) -> None:
    theirs_BN = load_file(answer / "answer.safetensors")["nats"]
    print(
        f"\n{answer.name}: largest difference {float((nats_BN - theirs_BN).abs().max()):.1e} nats"
    )
    torch.testing.assert_close(nats_BN, theirs_BN, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", WRITERS)
def test_an_imported_checkpoint_scores_as_the_peer_with_its_weights(
    peers: dict[str, Path], tmp_path: Path, layout: str
) -> None:
    symbols = FAIRSEQ_WORDS if layout == "fairseq" else WORDS
    path = WRITERS[layout](tmp_path / "theirs", build(layout), symbols)
    run = import_checkpoint(path, out=tmp_path / "run").run_dir
    equal(ours(run), peers[layout])


def test_a_configuration_of_omegaconf_is_read(peers: dict[str, Path], tmp_path: Path) -> None:
    imported = import_checkpoint(peers["omegaconf"], out=tmp_path / "run")
    assert imported.foreign.config.tgt_len == 5
    equal(ours(imported.run_dir), peers["fairseq"])


@pytest.mark.parametrize("layout", ["huggingface", "fairseq"])
def test_what_is_exported_for_the_peer_is_loaded_whole_and_scores_the_same(
    peers: dict[str, Path], layout: str
) -> None:
    report = (peers[f"{layout}-back"] / "report.json").read_text()
    assert (
        report
        == '{"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}'
    )
    equal(ours(peers[f"{layout}-run"]), peers[f"{layout}-back"])
