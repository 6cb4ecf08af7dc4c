"""Files of every kind that is read, for fuzzing: each written, and read with assertions that it is sound."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import scipy.io

from input_pipeline import custom, images, pictures, records, sysu
from input_pipeline.index import Index
from saai_jax import checkpoint, foreign, log
from saai_jax.affinity import storage
from saai_jax.features import read as feature_files
from saai_jax.features.store import Features, load, save
from saai_jax.ranking import results
from saai_jax.weights.pth import read_pth
from tests import pth_files
from tests.input_pipeline.test_images import noise
from tests.input_pipeline.test_llcm import write_llcm
from tests.input_pipeline.test_regdb import write_regdb
from tests.input_pipeline.test_sysu import SMALL, write_sysu

SIZE = images.Size(8, 4)
GOLDEN = Path(__file__).parent / "golden"


def images_of(n: int = 7, d: int = 4) -> dict[str, np.ndarray]:
    number = np.arange(n)
    embedding = np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)
    path = np.array([f"cam1/{i:04d}/{i:04d}.jpg" for i in number])
    return dict(embedding=embedding, identity=number // 2 + 1, camera=number % 3 + 1, modality=number % 2, path=path)


def sound_index(index: Index) -> None:
    assert len(index) == len(index.identity) == len(index.camera) == len(index.modality) > 0
    assert np.isin(index.modality, (0, 1)).all()
    for path in index.path.tolist():
        images.refuse_outside(path, "index")


def sound_features(found: Features) -> None:
    assert found.embedding.dtype == np.float32
    assert np.isfinite(found.embedding).all()
    assert {len(array) for array in found} == {len(found.path)}
    "\n".join(found.path.tolist()).encode()


def sound_tensors(arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        assert isinstance(name, str)
        array.copy()


def copied(name: str) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        (folder / "a.pth").write_bytes((GOLDEN / name).read_bytes())
        return [folder / "a.pth"]

    return write


def write_pickle(folder: Path) -> list[Path]:
    """A zip's pickle, which is zipped again once it is damaged: no checksum stands before the unpickler."""
    with zipfile.ZipFile(GOLDEN / "torch_2_13.pth") as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        (folder / "data.pkl").write_bytes(archive.read(name))
    return [folder / "data.pkl"]


def read_pickle(folder: Path) -> None:
    with zipfile.ZipFile(GOLDEN / "torch_2_13.pth") as archive, zipfile.ZipFile(folder / "a.pth", "w") as made:
        for name in archive.namelist():
            changed = name.endswith("data.pkl")
            made.writestr(name, (folder / "data.pkl").read_bytes() if changed else archive.read(name))
    sound_tensors(read_pth(folder / "a.pth"))


def write_tar(folder: Path) -> list[Path]:
    return [pth_files.write_tar(folder / "a.pth", {"a": ("pid", "7")})]


def write_features(folder: Path) -> list[Path]:
    save(folder / "a.npz", Features(**images_of()))
    return [folder / "a.npz"]


def foreign_of(name: str, write: Callable) -> Callable[[Path], list[Path]]:
    def written(folder: Path) -> list[Path]:
        write(folder / name, images_of())
        return sorted(folder.iterdir())

    return written


def write_members(folder: Path) -> list[Path]:
    """The arrays of a .npz, as for write_pickle."""
    for name, array in images_of().items():
        np.save(folder / f"{name}.npy", array)
    return sorted(folder.iterdir())


def read_members(folder: Path) -> None:
    with zipfile.ZipFile(folder.parent / "a.npz", "w") as made:
        for file in folder.iterdir():
            made.write(file, file.name)
    sound_features(load(folder.parent / "a.npz"))
    sound_features(feature_files.read(folder.parent / "a.npz", infrared_cameras=()))


def write_results(folder: Path) -> list[Path]:
    per_query = {"query": np.arange(3), "rank1": [1, 0, 1], "ap": [1.0, 0.2, 0.5], "inp": [1.0, 0.2, 0.5]}
    scores = dict.fromkeys(results.METRICS, 60.0) | {"queries": 3, "gallery": 9, "cmc": [60.0, 90.0]}
    labels = dict(dataset="sysu", protocol="all", direction="d", shots="single", inference="aim", parameters={"k1": 4})
    of = {"path": ["a.jpg", "b.jpg", "c.jpg"], "identity": [7, 8, 8], "per_trial": [scores | {"per_query": per_query}]}
    results.write(folder / "results.json", [results.row(**labels, **of)], command=["a"], config={"seed": 1})
    return [folder / "results.json"]


def read_results(folder: Path) -> None:
    rows = results.read(folder / "results.json")["rows"]
    results.table(rows).encode()
    assert all(np.isfinite([row[key] for key in results.METRICS]).all() for row in rows)


def write_config(folder: Path) -> list[Path]:
    checkpoint.write_config(str(folder / "config.json"), {"seed": 1, "data": {"root": "a", "rates": [0.1, 2]}})
    return [folder / "config.json"]


def write_metrics(folder: Path) -> list[Path]:
    with log.MetricsLog(folder / "metrics.jsonl", 0) as metrics:
        for step in range(1, 9):
            metrics.write(step, "train", loss=1 / step, note="a")
    return [folder / "metrics.jsonl"]


def read_metrics(folder: Path) -> None:
    for entry in log.read_metrics(folder / "metrics.jsonl"):
        json.dumps(entry, allow_nan=False, ensure_ascii=False).encode()
        assert isinstance(entry["step"], int)
        assert isinstance(entry["kind"], str)


def write_gallery(folder: Path) -> list[Path]:
    n = 6
    embedding = np.random.default_rng(0).standard_normal((n, 3))
    lists = {"value": np.tile([1.0, 0.5], (n, 1)), "index": np.stack([np.arange(n), np.roll(np.arange(n), 1)], 1)}
    factor = {"begin": np.arange(n + 1) * 2, "column": np.arange(2 * n) % n, "weight": np.full(2 * n, 0.5)}
    about = {"k1": 2, "k2": 1, "variant": "released", "precision": "highest"}
    storage.save(folder / "gallery", about, {"embedding": embedding} | lists | factor)
    return sorted((folder / "gallery").iterdir())


def read_gallery(folder: Path) -> None:
    about, arrays = storage.load(folder / "gallery")
    assert set(about) == {"k1", "k2", "variant", "precision"}
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert arrays["begin"][-1] == len(arrays["column"]) == len(arrays["weight"])


def read_gallery_unchecked(folder: Path) -> None:
    """With the checksums of whatever is there, as who meant harm would write them."""
    manifest = folder / "gallery" / storage.MANIFEST
    found = json.loads(manifest.read_bytes())
    for entry in found["arrays"].values():
        entry["crc32"] = storage.checksum(folder / "gallery" / entry["file"])
    manifest.write_text(json.dumps(found))
    read_gallery(folder)


def write_arrays_of_gallery(folder: Path) -> list[Path]:
    return [file for file in write_gallery(folder) if file.name != storage.MANIFEST]


def some_bytes(path: str) -> bytes:
    return noise(list(path.encode()), path[-3:])


def sysu_lists(folder: Path) -> list[Path]:
    write_sysu(folder, SMALL)
    return [folder / "exp/train_id.txt", folder / "exp/test_id.txt"]


def sysu_permutation(folder: Path, compressed: bool = False) -> list[Path]:
    write_sysu(folder, SMALL)
    file = folder / "exp/rand_perm_cam.mat"
    if compressed:
        scipy.io.savemat(file, {"rand_perm_cam": scipy.io.loadmat(file)["rand_perm_cam"]}, do_compression=True)
    return [file]


def sysu_mat_lists(folder: Path) -> list[Path]:
    write_sysu(folder, SMALL)
    (folder / "exp/train_id.txt").unlink()
    scipy.io.savemat(folder / "exp/train_id.mat", {"id": np.array([[1, 2]], np.uint16)})
    return [folder / "exp/train_id.mat"]


def read_sysu(folder: Path) -> None:
    for split in ("train", "test"):
        sound_index(index := sysu.read_index(folder, split, published=False))
        if split == "test":
            for setting in sysu.settings(index, folder / "exp", published=False):
                assert all((trial.gallery < len(index)).all() for trial in setting.trials)
                assert all((trial.gallery >= 0).all() for trial in setting.trials)


def read_sysu_lists(folder: Path) -> None:
    """The permutation is not damaged: it needs no process of its own."""
    with mock.patch.object(foreign, "read_arrays", foreign.read_here):
        read_sysu(folder)


def regdb_lists(folder: Path) -> list[Path]:
    write_regdb(folder)
    return sorted((folder / "idx").glob("*_1.txt"))


def llcm_lists(folder: Path) -> list[Path]:
    write_llcm(folder)
    return sorted((folder / "idx").iterdir())


def custom_lists(folder: Path) -> list[Path]:
    path = images_of()["path"].tolist()
    (folder / "query.txt").write_text("# one of\n" + "\n".join(path[:3]))
    (folder / "gallery.txt").write_text("\n".join(path[3:]) + "\n")
    return [folder / "query.txt", folder / "gallery.txt"]


def read_custom(folder: Path) -> None:
    of = images_of()
    index = Index(of["path"], np.ones(7), of["camera"], of["modality"])
    (setting,) = custom.settings(index, folder / "query.txt", folder / "gallery.txt", "sysu")
    assert all(0 <= rows.min() <= rows.max() < 7 for rows in setting.trials[0])


def pictures_of(folder: Path) -> list[Path]:
    exif = images.Image.Exif()
    exif[0x0112] = 6
    for name, kind in (("1/a.jpg", "JPEG"), ("1/b.png", "PNG"), ("2/c.bmp", "BMP"), ("2/d.png", "TIFF")):
        (folder / name).parent.mkdir(exist_ok=True)
        picture = images.decode(noise(0, height=24, width=12), "a")
        picture.save(folder / name, kind, **({"exif": exif} if kind == "JPEG" else {}))
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def read_images(folder: Path) -> None:
    for file in folder.rglob("*.*"):
        picture = images.decode(file.read_bytes(), file.name)
        assert picture.mode == "RGB"
        assert images.resize(picture, SIZE).shape == (8, 4, 3)


def read_pictures(folder: Path) -> None:
    index = pictures.read_folder(folder, "visible", identities=True)
    sound_index(index)
    assert pictures.decoded(folder, index, np.arange(len(index)), SIZE).shape == (4, 8, 4, 3)


PACKED = Index(np.array([f"a/{i}.jpg" for i in range(5)]), np.arange(5), np.ones(5), np.zeros(5))


def write_pack(folder: Path) -> list[Path]:
    (folder / "set/a").mkdir(parents=True)
    for path in PACKED.path.tolist():
        (folder / "set" / path).write_bytes(some_bytes(path))
    whole = images.Folder(folder / "set", PACKED)
    return sorted(Path(records.pack(whole, PACKED, folder / "packs", "sysu", "test")).iterdir())


def read_pack(folder: Path) -> None:
    packed = records.Packed(folder / "packs", "sysu", "test", PACKED, folder / "set")
    assert len(packed) == 5
    for i, path in enumerate(PACKED.path.tolist()):
        assert packed[i] == some_bytes(path)


def write_resized(folder: Path) -> list[Path]:
    (folder / "set/a").mkdir(parents=True)
    for path in PACKED.path.tolist():
        (folder / "set" / path).write_bytes(some_bytes(path))
    whole = images.Folder(folder / "set", PACKED)
    return sorted(Path(records.store_resized(whole, PACKED, folder / "ready", "sysu", "test", SIZE)).iterdir())


def read_resized(folder: Path) -> None:
    ready = records.Resized(folder / "ready", "sysu", "test", PACKED, folder / "set", SIZE)
    assert np.stack([ready[i] for i in range(5)]).shape == (5, 8, 4, 3)
    assert ready[0].dtype == np.uint8


def of_split(module: Any) -> Callable[[Path], None]:
    return lambda folder: [sound_index(module.read_index(folder, s, published=False)) for s in ("train", "test")]


def of_features(name: str) -> Callable[[Path], None]:
    return lambda folder: sound_features(feature_files.read(folder / name))


def of_pth(folder: Path) -> None:
    sound_tensors(read_pth(folder / "a.pth"))
