"""The tables of a folder that Hugging Face `datasets` saved, in its order."""

from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.outside import printable, read_json

_OF_SPLITS, _OF_ONE = "dataset_dict.json", "state.json"


def tables_of(folder: Path) -> tuple[str, ...] | None:
    """Return the names of the tables of a saved data set; None if the folder is none.

    Beside the tables there may be others, which `datasets` keeps for itself.

    Raises:
        InputError: the folder has several splits, or lacks a table.
    """
    where = printable(folder)
    if (folder / _OF_SPLITS).is_file():
        names = sorted(path.parent.name for path in folder.glob(f"*/{_OF_ONE}"))
        given = f"{folder}/{names[0]}" if names else f"{folder}/SPLIT"
        raise InputError(
            f"{where}: a data set of the splits {printable(', '.join(names) or 'none')}: name each "
            f"where it belongs, such as --train {printable(given)}"
        )
    if not (folder / _OF_ONE).is_file():
        return None
    listed = _listed(folder / _OF_ONE)
    if listed is None:
        return None
    names = [str(file.get("filename")) if isinstance(file, dict) else "" for file in listed]
    odd = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if odd or not names:
        which = printable(odd[0] if odd else "any", most=100)
        raise InputError(f"{where}: a data set that lacks its table {which}: save it again")
    return tuple(names)


def _listed(path: Path) -> list[Any] | None:
    """Return the files that a `state.json` lists; None if it is another program's."""
    try:
        state = read_json(path)
    except InputError:
        return None
    listed = state.get("_data_files") if isinstance(state, dict) else None
    return listed if isinstance(listed, list) else None
