"""Features of many images, written to one file batch by batch; a stopped extraction continues.

Batches are written to a folder beside the file, `FILE.parts`, and joined at the end. The folder
records what it belongs to, so a repeated command continues it and another command cannot.

.npz      arrays `feature` [N, …], `label` int32 [N] and `name` [N] (text)
.parquet  columns `name`, `label` and `feature`, a list of values (of a dense feature: flattened),
          with the shape of one example in the metadata `shape`
"""

import io
import json
import pathlib
import shutil
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from cv_jax.errors import InputError
from cv_jax.paths import read_json
from cv_jax.run.json_files import write_json

SUFFIXES = (".npz", ".parquet")
IDENTITY = "identity.json"
Part = dict[str, np.ndarray]  # feature, label, name


class Parts:
    """The folder of finished batches of one extraction.

    Attributes:
      folder: the folder.
      done: number of finished batches.
    """

    def __init__(self, file: pathlib.Path, identity: dict[str, Any]):
        """Open or create the folder.

        Args:
          file: the file to write.
          identity: JSON values that decide the content of every part.

        Raises:
          InputError: the folder belongs to another extraction.
        """
        self.folder = file.with_name(file.name + ".parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.folder / IDENTITY
        if record.exists():
            found = read_json(record)
            if found != identity:
                changed = [key for key in identity if found.get(key) != identity[key]]
                raise InputError(
                    f"{self.folder} holds a part of another extraction ({', '.join(changed)} "
                    "differs); remove it, or choose another --out"
                )
        else:
            write_json(record, identity)
        self.done = 0
        while self._path(self.done).exists():
            self.done += 1

    def write(self, part: Part) -> None:
        """Write the next batch; it is there as a whole or not at all."""
        path = self._path(self.done)
        scratch = path.with_suffix(".writing")
        with open(scratch, "wb") as file:
            np.savez(file, **part)
        scratch.rename(path)
        self.done += 1

    def read(self) -> Iterator[Part]:
        """Yield all batches in order."""
        for i in range(self.done):
            with np.load(self._path(i), allow_pickle=False) as file:
                yield dict(file)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def _path(self, index: int) -> pathlib.Path:
        return self.folder / f"{index:06d}.npz"


def join(parts: Parts, file: pathlib.Path) -> int:
    """Write the file from all batches, one batch in memory at a time; return the number of rows."""
    scratch = file.with_name(file.name + ".writing")
    rows = sum(len(part["label"]) for part in parts.read())
    (_write_npz if file.suffix == ".npz" else _write_parquet)(parts, scratch, rows)
    scratch.rename(file)
    return rows


def _write_npz(parts: Parts, file: pathlib.Path, rows: int) -> None:
    longest = max(part["name"].dtype.itemsize for part in parts.read())
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for key in ("feature", "label", "name"):
            first = next(parts.read())[key]
            dtype = np.dtype(f"<U{longest // 4}") if key == "name" else first.dtype
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (rows, *first.shape[1:]),
            }
            with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                start = io.BytesIO()
                np.lib.format.write_array_header_2_0(start, header)
                entry.write(start.getvalue())
                for part in parts.read():
                    entry.write(np.ascontiguousarray(part[key].astype(dtype)).tobytes())


def _write_parquet(parts: Parts, file: pathlib.Path, rows: int) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    part = next(parts.read())
    first, one = part["feature"], part["label"].ndim == 1  # one class, or a sequence
    schema = arrow.schema(
        [
            ("name", arrow.string()),
            ("label", arrow.int32() if one else arrow.list_(arrow.int32())),
            ("feature", arrow.list_(arrow.float32())),
        ],
        metadata={"shape": json.dumps(first.shape[1:])},
    )
    with parquet.ParquetWriter(file, schema) as writer:
        for part in parts.read():
            feature = part["feature"].reshape(len(part["label"]), -1).astype(np.float32)
            # Names of files may not be valid UTF-8.
            names = [str(n).encode(errors="backslashreplace").decode() for n in part["name"]]
            columns = [names, list(part["label"]), list(feature)]
            writer.write_table(arrow.table(columns, schema=schema))
