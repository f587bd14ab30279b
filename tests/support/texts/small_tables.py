"""A folder of small tables of every form."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_tables(folder: Path) -> None:
    """Write a data set of three tables and its `state.json`."""
    folder.mkdir()
    table = pa.table({"text": ["w2 w3", "w4\nw5", "w6"], "id": [1, 2, 3]})
    pq.write_table(table, folder / "a.parquet")
    with pa.ipc.new_file(folder / "b.arrow", table.schema) as file:
        file.write_table(table)
    with pa.ipc.new_stream(folder / "c.arrow", table.schema) as file:
        file.write_table(table)
    files = [{"filename": name} for name in ("a.parquet", "b.arrow", "c.arrow")]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
