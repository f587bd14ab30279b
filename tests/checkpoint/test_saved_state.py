"""What a checkpoint says of itself is believed as far as it has the form of it."""

import json
import math
from pathlib import Path

import pytest
import torch
from saved_checkpoints import save

from trainer.checkpoint import folder as checkpoints
from trainer.checkpoint.saved_state import read_train
from trainer.checkpoint.state import TrainState
from trainer.errors import InputError


@pytest.mark.parametrize("name", ["../../outside", "n" * 300, "", ".", "a/b", "a\0", "é"])
def test_a_manifest_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    manifest = path / "manifest.json"
    values = json.loads(manifest.read_text())
    values["files"][name] = values["files"]["state.json"]
    manifest.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"manifest\.json is corrupt"):
        checkpoints.verify(path)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 2.5])
def test_a_run_is_saved_and_read_whatever_its_loss_was(loss: float) -> None:
    state = TrainState(step=7, last_loss=loss)
    state.window_loss_sum = torch.tensor(loss, dtype=torch.float64)
    written = json.loads(json.dumps(state.to_json(), allow_nan=False))
    again = TrainState()
    again.load_json(read_train(written, where="here"))
    assert math.isfinite(float(again.window_loss_sum)) == math.isfinite(loss)
    assert again.last_loss == (loss if math.isfinite(loss) else None)


def test_a_state_that_forgets_its_best_is_as_one_that_never_validated() -> None:
    validated = {"best_loss": 1.0, "best_step": 5, "best_of": "valid", "evals_since_best": 2}
    state = TrainState(step=7, **validated, validated_step=6)
    state.forget_best()
    assert state.to_json() == TrainState(step=7).to_json()
