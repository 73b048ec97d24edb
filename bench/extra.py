"""More images to train on, such as a generative model's: one .npz file with `image` and `label`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, nearest
from bench.exam import Part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.exam import Shape


def extra_images(path: Path, shape: Shape) -> Part:
    """The images of a file, for a data set of this shape: `image` uint8 (N, H, W, C), `label` whole numbers (N,).

    Those of a file written by numpy.savez stay on the disk and are mapped into memory (20 million of 32x32 are 61 GB);
    a file that is compressed is read whole.
    """
    import numpy as np

    if not path.is_file():
        there = {file.name for file in path.parent.glob("*.npz")}
        raise UsageError(f"{path}: there is no such file{nearest(path.name, there)}")
    image, label = _read(path, "image"), np.asarray(_read(path, "label"))
    expected = (shape.size, shape.size, shape.channels)
    if image.dtype != np.uint8 or image.shape[1:] != expected or not len(image):
        raise UsageError(f"{path}: image is {image.dtype} {image.shape}; expected uint8 (N, {str(expected)[1:]}")
    if label.dtype.kind not in "iu" or label.shape != image.shape[:1]:
        raise UsageError(f"{path}: label is {label.dtype} {label.shape}; expected whole numbers ({len(image)},)")
    if label.min() < 0 or label.max() >= shape.classes:
        raise UsageError(f"{path}: label runs from {label.min()} to {label.max()}; expected 0 to {shape.classes - 1}")
    return Part(image.transpose(0, 3, 1, 2), label.astype(np.int64))


def _read(path: Path, key: str) -> NDArray[Any]:
    """An array of the file; no pickle is ever loaded."""
    import numpy as np

    try:
        with zipfile.ZipFile(path) as packed:
            names = [name.removesuffix(".npy") for name in packed.namelist()]
            if key not in names:
                raise UsageError(f"{path} has no {key!r}; it has {', '.join(names[:10]) or 'nothing'}")
            about = packed.getinfo(f"{key}.npy")
        if about.compress_type == zipfile.ZIP_STORED:
            return _mapped(path, about.header_offset)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            array: NDArray[Any] = file[key]
            if not isinstance(array, np.ndarray):
                raise UsageError(f"{path}: {key} is not an array; expected a file made by numpy.savez")
    except UsageError:
        raise
    except Exception as error:  # numpy and zipfile raise anything at a damaged header
        said = f"{type(error).__name__}: {str(error)[:200]!r}"
        raise UsageError(f"{path}: {key} cannot be read ({said}); expected a file made by numpy.savez") from error
    return array


def _mapped(path: Path, header: int) -> NDArray[Any]:
    """An array that lies in a zip file as it is: behind the zip's own header of 30 bytes, a name and an extra field."""
    import numpy as np

    with path.open("rb") as file:
        file.seek(header + 26)
        file.seek(header + 30 + sum(np.frombuffer(file.read(4), "<u2").tolist()))
        versions: dict[tuple[int, int], Any] = {
            (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0
        }  # fmt: skip
        shape, fortran, dtype = versions[np.lib.format.read_magic(file)](file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    order: Any = "F" if fortran else "C"
    mapped: np.memmap[Any, Any] = np.memmap(path, dtype, "r", start, shape, order)
    return mapped.view(np.ndarray)
