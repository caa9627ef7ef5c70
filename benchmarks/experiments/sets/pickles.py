"""Pickles of arrays from the network, read without running code from them."""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from experiments.sets.files import read

# Old pickles name the modules of NumPy 1; those of Python 3 may write bytes by way of _codecs.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = np.empty(0).__reduce__()[0]
    _ALLOWED[f"{_core}.multiarray", "scalar"] = np.float64(0).__reduce__()[0]
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = np.empty(1).__reduce_ex__(5)[0]


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is no array, number, text or container"
            ) from None


def load_arrays(where: str, path: Path) -> Any:
    """Unpickle NumPy arrays, numbers, texts, lists, tuples and dicts; everything else is refused.

    A pickle is a program: `pickle.load` runs what it names, so a file of unknown hands must not go
    there. Arrays of Python objects cannot hide anything else either.

    Args:
        where: the caller, named in errors.
        path: of the file, gzipped if its name ends in .gz.

    Raises:
        ValueError: the pickle is damaged, or names anything but arrays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "arrays.pickle"
        >>> _ = path.write_bytes(pickle.dumps({"data": np.arange(3)}))
        >>> load_arrays("example", path)
        {'data': array([0, 1, 2])}
        >>> _ = path.write_bytes(pickle.dumps(print))
        >>> load_arrays("example", path)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: example: ...it asks for builtins.print, which is no array...
    """
    content = read(where, path)
    try:
        # Text of Python 2 comes as bytes of unknown encoding; latin-1 maps every byte.
        return _Arrays(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f"{where}: {path} is no pickle of arrays, or damaged: {error}; give the file as it was "
            "published"
        ) from error
