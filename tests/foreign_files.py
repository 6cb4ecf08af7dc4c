"""Features files as MATLAB, h5py and numpy users write them, for the tests that read them."""

import csv

import h5py
import numpy as np
import scipy.io


def mat5(file, arrays, **how):
    """A .mat of MATLAB 5 to 7: vectors [1 n], strings in cells, whole numbers as doubles."""
    values = {
        key: a.astype(object)[None] if a.dtype.kind == "U" else np.atleast_2d(a.astype("f8") if a.ndim == 1 else a)
        for key, a in arrays.items()
    }
    scipy.io.savemat(file, values, **how)


def mat73(file, arrays):
    """A .mat of MATLAB 7.3: HDF5 behind 512 bytes, axes reversed, references to strings of UTF-16."""
    with h5py.File(file, "w", userblock_size=512) as stream:
        for key, a in arrays.items():
            if a.dtype.kind == "U":
                cells = []
                for i, text in enumerate(a):
                    code = np.frombuffer(text.encode("utf-16-le"), "<u2")[:, None]
                    cell = stream.create_dataset(f"#refs#/{key}{i}", data=code if text else np.zeros(2, "u8"))
                    cell.attrs["MATLAB_class"] = np.bytes_("char")
                    if not text:
                        cell.attrs["MATLAB_empty"] = np.uint8(1)
                    cells.append(cell.ref)
                data = stream.create_dataset(key, data=np.array([cells], h5py.ref_dtype).T)
                data.attrs["MATLAB_class"] = np.bytes_("cell")
            else:
                data = stream.create_dataset(key, data=(np.atleast_2d(a.astype("f8") if a.ndim == 1 else a)).T)
                data.attrs["MATLAB_class"] = np.bytes_("double" if a.ndim == 1 else "single")


def h5(file, arrays, **how):
    """A .h5 as h5py writes it, with strings of any length."""
    with h5py.File(file, "w", **how) as stream:
        for key, a in arrays.items():
            stream[key] = a.astype(h5py.string_dtype()) if a.dtype.kind == "U" else a


def npy(file, arrays):
    """A .npy of the embedding, with the rest in a table beside it."""
    arrays = dict(arrays)
    np.save(file, arrays.pop("embedding"))
    with open(file.with_suffix(".csv"), "w", newline="") as stream:
        csv.writer(stream).writerows([list(arrays), *zip(*(a.tolist() for a in arrays.values()), strict=True)])


def npz(file, arrays):
    """A .npz under any names."""
    np.savez(file, **arrays)
