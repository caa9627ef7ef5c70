"""Pickles of arrays from the network, read without running code from them."""

from __future__ import annotations

import codecs
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Old pickles name the modules of NumPy 1; those of Python 3 may write bytes by way of _codecs.
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "_reconstruct"] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
    _ALLOWED[_module, "scalar"] = np.float64(0).__reduce__()[0]


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is no array, number, text or container"
            ) from None


def load_arrays(where: str, path: Path, content: bytes | None = None) -> Any:
    """Unpickle NumPy arrays, numbers, texts, lists, tuples and dicts; everything else is refused.

    A pickle is a program: `pickle.load` runs what it names, so a file of unknown hands must not go
    there. Arrays of Python objects cannot hide anything else either.

    Args:
        where: the caller, named in errors.
        path: of the file, named in errors.
        content: of the file, if it has been read.

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
    content = path.read_bytes() if content is None else content
    try:
        # Text of Python 2 comes as bytes of unknown encoding; latin-1 maps every byte.
        return _Arrays(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f"{where}: {path} is no pickle of arrays, or damaged: {error}; give the file as it was "
            "published"
        ) from error
