"""What a checkpoint says of itself is believed as far as it has the form of it."""

import json
from pathlib import Path

import pytest
from saved_checkpoints import save

from trainer.checkpoint import folder as checkpoints
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
