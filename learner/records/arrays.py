"""Named NumPy arrays in one file, without pickle: reading one executes nothing."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes `arrays` to `path`, an .npz. Raises ValueError if one holds Python objects."""
    if objects := [name for name, array in arrays.items() if np.asarray(array).dtype.hasobject]:
        raise ValueError(f"{path}: {', '.join(objects)} would have to be pickled")
    with path.open("wb") as file:
        np.savez(file, **{f"/{name}": array for name, array in arrays.items()})  # "file" would be an argument


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns what `write_arrays` wrote. Raises ValueError for Python objects, zipfile.BadZipFile for no archive."""
    with np.load(path, allow_pickle=False) as file:
        return {name.removeprefix("/"): file[name] for name in file.files}
