"""Features that other programs wrote: the same rows from every kind of file, and every fault named."""

import signal
import subprocess
import warnings
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io
from absl import logging
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saai_jax import foreign
from saai_jax.features.read import columns, join, read
from saai_jax.features.store import Features, FeaturesError, load, save
from tests import foreign_files as write

WRITERS = {
    "a.npz": write.npz,
    "a.npy": write.npy,
    "a.mat": write.mat5,
    "packed.mat": lambda file, arrays: write.mat5(file, arrays, do_compression=True),
    "new.mat": write.mat73,
    "a.h5": write.h5,
    "latest.hdf5": lambda file, arrays: write.h5(file, arrays, libver="latest"),
}
every_format = pytest.mark.parametrize("name", WRITERS)


def arrays(n=7, d=4):
    numbers = np.arange(n)
    return {
        "embedding": np.random.default_rng(0).standard_normal((n, d)).astype(np.float32),
        "identity": numbers // 2 + 1,
        "camera": numbers % 3 + 1,
        "modality": numbers % 2,
        "path": np.array([f"cam1/{i:04d}/é 1.jpg" for i in range(n)], np.str_),
    }


def assert_same(found, expected):
    for key, array in expected.items():
        np.testing.assert_array_equal(getattr(found, key), array, err_msg=key)
    assert [array.dtype.str[1:] for array in found[:4]] == ["f4", "i4", "i4", "i4"]
    assert found.path.dtype.kind == "U"


@pytest.fixture(autouse=True)
def together(request):
    """Without a process for each file, but for tests that ask for `in_subprocess`."""
    if "in_subprocess" not in request.fixturenames:
        request.getfixturevalue("in_this_process")


@pytest.fixture
def in_subprocess():
    """Asked for by tests of the process that reads .mat and .h5."""


@pytest.fixture
def warned(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    return lines


@every_format
def test_every_kind_of_file_under_our_names_and_theirs(tmp_path, name, warned):
    file = tmp_path / name
    WRITERS[name](file, arrays())
    assert_same(read(file), arrays())
    theirs = dict(zip(Features._fields, ("embedding", "label", "cam", "modal", "name"), strict=True))
    WRITERS[name](file, {theirs[key]: array for key, array in arrays().items()} | {"extra": np.ones(7)})
    assert_same(read(file, columns("identity=label, camera=cam,modality=modal,path=name")), arrays())
    assert warned == []
    with pytest.raises(FeaturesError, match=r"has no 'identity' \(for identity\), 'camera' \(for camera\), 'modality'"):
        read(file)


@every_format
def test_one_image(tmp_path, name):
    one = {key: array[:1] for key, array in arrays().items()}
    WRITERS[name](tmp_path / name, one)
    assert_same(read(tmp_path / name), one)


def test_our_own_file_reads_as_load_reads_it(tmp_path):
    save(tmp_path / "a.npz", Features(**arrays()))
    for one, two in zip(read(tmp_path / "a.npz"), load(tmp_path / "a.npz"), strict=True):
        np.testing.assert_array_equal(one, two)


def test_columns():
    text = "embedding=feat , identity=a/label,,path=x=y"
    assert columns(text) == {"embedding": "feat", "identity": "a/label", "path": "x=y"}
    assert columns("") == {}
    assert columns("embedding={split}_f", "query") == {"embedding": "query_f"}
    for text, message in (
        ("embeding=feat", "'embeding' is none of embedding, .* did you mean 'embedding'"),
        ("embedding", "'embedding' is not field=name"),
        ("embedding=", "'embedding=' is not field=name"),
        ("camera=a,camera=b", "camera is named twice"),
        ("embedding={split}_f", "of query and gallery"),
        ("feat=embedding", "the other way round: embedding=feat$"),
    ):
        with pytest.raises(FeaturesError, match=message):
            columns(text)


@pytest.mark.parametrize("name", ["a.npz", "a.h5", "a.mat", "new.mat"])
def test_matlabs_shapes(tmp_path, name, warned):
    """Vectors either way round, and embeddings [d n] where only that fits."""
    turned = arrays() | {"embedding": np.ascontiguousarray(arrays()["embedding"].T)}
    for key in ("identity", "camera", "modality"):
        turned[key] = turned[key].astype(np.float64)[:, None]
    if name.endswith("mat"):
        write.mat5(tmp_path / name, turned) if name == "a.mat" else write.mat73(tmp_path / name, turned)
    else:
        WRITERS[name](tmp_path / name, turned)
    assert_same(read(tmp_path / name), arrays())
    assert warned == [f"{tmp_path / name}: embedding has shape (4, 7) for 7 images: taken as [d n]"]


def test_a_square_embedding_is_not_turned(tmp_path, warned):
    for name in ("a.mat", "new.mat"):
        WRITERS[name](tmp_path / name, arrays(4, 4))
        assert_same(read(tmp_path / name), arrays(4, 4))
    assert warned == []


def test_strings_as_a_matrix_of_characters(tmp_path):
    path = np.array(["a.jpg", "bcd.jpg"] * 3 + ["e.jpg"])
    scipy.io.savemat(tmp_path / "a.mat", {k: v for k, v in arrays().items() if k != "path"} | {"path": path})
    np.testing.assert_array_equal(read(tmp_path / "a.mat").path, path)
    write.mat73(tmp_path / "new.mat", {k: v for k, v in arrays().items() if k != "path"})
    with h5py.File(tmp_path / "new.mat", "r+") as stream:
        padded = np.array([[ord(c) for c in text.ljust(7)] for text in path], np.uint16)
        stream.create_dataset("path", data=padded.T).attrs["MATLAB_class"] = np.bytes_("char")
    np.testing.assert_array_equal(read(tmp_path / "new.mat").path, path)


@every_format
def test_without_path_and_modality(tmp_path, name, warned):
    few = {key: array for key, array in arrays().items() if key not in ("path", "modality")}
    WRITERS[name](tmp_path / name, few)
    found = read(tmp_path / name, infrared_cameras=(3, 6))
    assert_same(found, few | {"modality": [0, 0, 1, 0, 0, 1, 0], "path": [f"row-{i:06d}" for i in range(7)]})
    assert warned == [f"{tmp_path / name}: no path: protocols that need the names of files cannot be used"]
    with pytest.raises(FeaturesError, match=r"has no 'modality' \(for modality\); without it, name the infrared cam"):
        read(tmp_path / name)
    with pytest.raises(FeaturesError, match=r"has no 'm' \(for modality\), 'p' \(for path\)\nit has "):
        read(tmp_path / name, {"modality": "m", "path": "p"}, infrared_cameras=(3,))


@pytest.mark.parametrize(
    ("name", "keys", "fits"),
    [
        ("a.npz", ("feat", "pid", "camid", "img_path"), "embedding=feat,identity=pid,camera=camid,path=img_path"),
        ("a.npy", ("embedding", "label", "cam"), "identity=label,camera=cam"),
        ("a.h5", ("features", "Labels", "cam"), "embedding=features,identity=Labels,camera=cam"),
        ("a.mat", ("query_f", "query_label"), "embedding={split}_f,identity={split}_label"),
        ("new.mat", ("feature", "pids", "x"), "embedding=feature,identity=pids"),
    ],
)
def test_a_file_of_other_names_is_listed_with_the_columns_that_fit(tmp_path, name, keys, fits):
    WRITERS[name](tmp_path / name, dict(zip(keys, arrays().values(), strict=False)))
    with pytest.raises(FeaturesError, match="has no ") as error:
        read(tmp_path / name, {"embedding": "e"} if name != "a.npy" else None)
    said = str(error.value).splitlines()[1]
    assert said.endswith(f"; try --columns={fits}")
    assert all(key in said for key in keys[1:])


def test_what_another_program_saved_as_objects_or_by_pytorch_is_told_how_to_save_it(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays() | {"path": arrays()["path"].astype(object)})
    with pytest.raises(FeaturesError, match=r"path is an array of Python objects; save np\.array\(path, str\)"):
        read(tmp_path / "a.npz")
    with pytest.raises(FeaturesError, match=r"torch\.load\('a\.pth', .*np\.savez\('a', "):
        read(tmp_path / "a.pth")


def test_cameras(tmp_path):
    file = tmp_path / "a.npz"
    write.npz(file, arrays())
    assert_same(read(file, cameras=(1, 2, 3)), arrays())
    with pytest.raises(
        FeaturesError, match=r"camera of row 2 \(cam1/0002/é 1.jpg\) is 3, none of 1, 2, 6; 2 such rows"
    ):
        read(file, cameras=(6, 1, 2))
    with pytest.raises(FeaturesError, match="modality of row 1 .* is 1, not as infrared cameras 3 say; 3 such rows"):
        read(file, infrared_cameras=[3])


def with_value(key, row, value):
    array = arrays()[key].astype(np.asarray(value).dtype if key == "identity" else arrays()[key].dtype)
    array[row] = value
    return {key: array}


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.mat", "new.mat", "a.h5"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_value("embedding", (3, 1), np.nan), "embedding of row 3 .cam1/0003/é 1.jpg. is not finite; 1 such rows"),
        (with_value("embedding", (2, 0), -np.inf), "embedding of row 2 .* is not finite"),
        (with_value("embedding", [1, 4], 0), "embedding of row 1 .* is zero everywhere; 2 such rows"),
        (with_value("modality", 4, 2), "modality of row 4 .* is neither 0"),
        (with_value("identity", 5, 1.5), "identity of row 5 is '?1.5'?, not a whole number"),
        (with_value("identity", 5, np.nan), "identity of row 5 is '?nan'?, not a whole number"),
        (with_value("identity", 5, 2.0**40), "identity of row 5 .* does not fit 32 bits"),
    ],
)
def test_faults_name_the_file_and_the_row(tmp_path, name, changes, message):
    WRITERS[name](tmp_path / name, arrays() | changes)
    with pytest.raises(FeaturesError, match=message) as error:
        read(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize("name", ["a.npz", "a.mat", "new.mat", "a.h5"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": np.arange(6)}, "camera has 6 rows, embedding has 7"),
        ({"embedding": np.ones((6, 4), np.float32)}, "identity has 7 rows, embedding has 6"),
        ({"identity": np.ones((7, 2), int)}, r"identity has shape \(7, 2\), not \[n\]"),
        ({"path": np.arange(7)}, "path is .*, not strings"),
    ],
)
def test_wrong_lengths_and_kinds(tmp_path, name, changes, message):
    WRITERS[name](tmp_path / name, arrays() | changes)
    with pytest.raises(FeaturesError, match=message):
        read(tmp_path / name)


def test_an_empty_split_is_refused(tmp_path):
    for name in ("a.npz", "a.npy", "a.h5"):
        WRITERS[name](tmp_path / name, arrays(0))
        with pytest.raises(FeaturesError, match="embedding has no rows"):
            read(tmp_path / name)
    for name in ("a.mat", "new.mat"):
        WRITERS[name](tmp_path / name, arrays(0))
        with pytest.raises(FeaturesError, match=name):
            read(tmp_path / name)


def test_tables_beside_an_array(tmp_path):
    def refuse(text, message, error=FeaturesError, **how):
        (tmp_path / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(error, match=message):
            read(tmp_path / "a.npy", **how)

    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    with pytest.raises(FeaturesError, match="a.csv: no such file; a .npy needs a table"):
        read(tmp_path / "a.npy")
    head = "identity,camera,modality,path\n"
    (tmp_path / "a.csv").write_text("\ufeff" + head + '0006, 1.0 ,0,"a,b.jpg"\r\n7,2,1,0002\n', encoding="utf-8")
    found = read(tmp_path / "a.npy")
    assert (found.identity.tolist(), found.path.tolist()) == ([6, 7], ["a,b.jpg", "0002"])
    refuse(head + "1,1,0,a\n1,x,0,b\n", "camera of row 1 is 'x', not a whole number")
    refuse(head + "1,1,0,a\n1,,0,b\n", "camera of row 1 is '', not")
    refuse(head + "1,1,0,a\n1,1,0\n", "a.csv: row 1 has 3 cells, the header has 4")
    refuse(head + "1,1,0,a\n", "identity has 1 rows, embedding has 2")
    refuse("camera," + head, "two columns are called 'camera'")
    refuse(head.encode() + b"\xff", "not a table of UTF-8 text")
    refuse(head + '1,1,0,"a\n', "not a table of UTF-8 text: unexpected end")
    refuse("", r"has no 'camera' \(for camera\)|has no 'identity'")
    refuse(head, "one array, the embedding; it has no column 'feat'", columns={"embedding": "feat"})


@pytest.mark.parametrize("name", ["a.npy", "a.mat", "packed.mat", "new.mat", "a.h5"])
def test_a_long_text_does_not_make_all_texts_long(tmp_path, name):
    WRITERS[name](tmp_path / name, arrays() | {"path": np.array(["a", "b" * 5000, *"cdefg"])})
    with pytest.raises(FeaturesError, match="row 1 has a cell of more than 4096 characters .5000."):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.h5", "packed.mat"])
def test_small_files_of_large_arrays_are_refused_before_they_are_read(tmp_path, name, monkeypatch):
    many = arrays(400) | {"path": np.array(["a" * 4000] + ["b"] * 399)}
    if name == "a.npz":
        np.savez_compressed(tmp_path / name, **many)
    else:
        WRITERS[name](tmp_path / name, many)
    read(tmp_path / name)
    monkeypatch.setenv("SAAI_JAX_ROOM", "0")
    with pytest.raises(FeaturesError, match="holds 6[0-9]{6} bytes, expected at most [0-9]{6}; SAAI_JAX_ROOM=64"):
        read(tmp_path / name)


def test_nothing_is_unpickled_and_no_other_file_is_read(tmp_path):
    for name, key in (("a.npz", "path"), ("a.npy", "embedding")):
        np.save(tmp_path / name, arrays()[key].astype(object), allow_pickle=True)
        np.savez(tmp_path / "a.npz", **arrays() | {"path": arrays()["path"].astype(object)})
        write.npz(tmp_path / "b.npz", arrays())
        with pytest.raises(FeaturesError, match="damaged, or not a .np. of plain arrays"):
            read(tmp_path / name)
    write.h5(tmp_path / "other.h5", arrays())

    def refuse(message, make):
        write.h5(tmp_path / "a.h5", arrays())
        with h5py.File(tmp_path / "a.h5", "r+") as stream:
            del stream["identity"]
            make(stream)
        with pytest.raises(FeaturesError, match=message):
            read(tmp_path / "a.h5")

    def virtual(stream):
        layout = h5py.VirtualLayout((7,), "i8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "identity", (7,))
        stream.create_virtual_dataset("identity", layout)

    (tmp_path / "raw").write_bytes(bytes(56))
    raw = dict(shape=(7,), dtype="i8", external=[(str(tmp_path / "raw"), 0, 56)])
    link = h5py.ExternalLink(str(tmp_path / "other.h5"), "identity")
    refuse("identity is kept in another file", lambda s: s.__setitem__("identity", link))
    refuse("identity is kept in another file", virtual)
    refuse("identity is kept in another file", lambda s: s.create_dataset("identity", **raw))
    refuse("identity is not an array", lambda s: s.create_group("identity"))
    refuse("identity is not an array", lambda s: s.__setitem__("identity", h5py.Empty("i8")))
    refuse("claims shape .*, more than the file", lambda s: s.create_dataset("identity", (2**40,), "i8", chunks=(9,)))


def test_strings_in_cells_keep_their_blanks(tmp_path):
    path = np.array(["a.jpg ", "", " b.jpg"])
    write.mat5(tmp_path / "a.mat", arrays(3) | {"path": path})
    np.testing.assert_array_equal(read(tmp_path / "a.mat").path, path)


def test_cells_that_are_not_strings(tmp_path):
    cells = np.array([np.ones(2), "a"], object)[None]
    scipy.io.savemat(tmp_path / "a.mat", arrays(2) | {"path": cells})
    with pytest.raises(FeaturesError, match="cell 0 of path is not one string"):
        read(tmp_path / "a.mat")
    scipy.io.savemat(tmp_path / "a.mat", arrays(2) | {"identity": scipy.sparse.eye_array(2)})
    with pytest.raises(FeaturesError, match="identity is sparse"):
        read(tmp_path / "a.mat")
    write.mat73(tmp_path / "new.mat", arrays(2))
    with h5py.File(tmp_path / "new.mat", "r+") as stream:
        stream["path"][0, 0] = stream["identity"].ref
    with pytest.raises(FeaturesError, match="cell 0 of path is not one string"):
        read(tmp_path / "new.mat")


def test_other_files(tmp_path):
    for name in WRITERS:
        with pytest.raises(FeaturesError, match=f"{name}: no such file"):
            read(tmp_path / name)
        (tmp_path / name).write_text("no such thing")
        with pytest.raises(FeaturesError, match=f"{name}: damaged"):
            read(tmp_path / name)
    with pytest.raises(FeaturesError, match="a.pkl: no known kind of features file; known are .npz, .mat, .h5"):
        read(tmp_path / "a.pkl")


def test_query_and_gallery(tmp_path):
    """From one file, by {split}, as from two."""
    parts = {"query": {k: v[:3] for k, v in arrays().items()}, "gallery": {k: v[3:] for k, v in arrays().items()}}
    write.mat5(tmp_path / "a.mat", {f"{split}_{k[:3]}": v for split, part in parts.items() for k, v in part.items()})
    text = ",".join(f"{key}={{split}}_{key[:3]}" for key in arrays())
    query, gallery = (read(tmp_path / "a.mat", columns(text, split)) for split in parts)
    both, *rows = join(query, gallery)
    assert_same(both, arrays())
    assert [r.tolist() for r in rows] == [[0, 1, 2], [3, 4, 5, 6]]
    with pytest.raises(FeaturesError, match="query embeddings have length 4, those of the gallery 3"):
        join(query, gallery._replace(embedding=gallery.embedding[:, :3]))


@pytest.mark.usefixtures("in_subprocess")
def test_a_process_of_its_own_reads_and_says_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("new.mat", "a.h5"):
        WRITERS[name](tmp_path / name, arrays())
        assert_same(read(name), arrays())
    with h5py.File("a.h5", "r+") as stream:
        del stream["identity"]
        stream.create_dataset("identity", (7,), h5py.ref_dtype)
    with pytest.raises(FeaturesError, match="^a.h5: identity: not a plain array of numbers or strings$"):
        read("a.h5")
    (tmp_path / "é.mat").write_bytes(b"no such thing")
    with pytest.raises(FeaturesError, match="^é.mat: damaged, or not a .mat of plain arrays"):
        read("é.mat")


@pytest.mark.usefixtures("in_subprocess")
def test_a_reader_that_crashes_or_hangs_is_an_error(tmp_path, monkeypatch):
    write.mat5(tmp_path / "a.mat", arrays())
    damaged = bytearray((tmp_path / "a.mat").read_bytes())
    # The first variable's numbers get a type that MATLAB does not have, for which scipy 1.17 looks behind its table.
    at = damaged.index(b"embedding") + 16
    damaged[at : at + 4] = (60000).to_bytes(4, "little")
    (tmp_path / "a.mat").write_bytes(damaged)
    with pytest.raises(FeaturesError, match="a.mat: damaged"):
        read(tmp_path / "a.mat")
    with monkeypatch.context() as patch:  # what that makes of it depends on the memory
        crashed = subprocess.CompletedProcess([], -signal.SIGSEGV, "", "")
        patch.setattr(subprocess, "run", lambda *_, **__: crashed)
        with pytest.raises(FeaturesError, match="a.mat: damaged: its reader ended with status -11"):
            read(tmp_path / "a.mat")
    write.h5(tmp_path / "a.h5", arrays())
    monkeypatch.setattr(foreign, "SECONDS", 0.01)
    with pytest.raises(FeaturesError, match="a.h5: damaged: not read after 0 s"):
        read(tmp_path / "a.h5")


def judged(file, exact):
    """Damage is refused, or hit what nobody reads; formats without a checksum may give other, valid, numbers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of odd but readable headers
            found = read(file)
    except FeaturesError:
        return
    assert np.isfinite(found.embedding).all()
    assert found.embedding.any(axis=1).all()
    assert {len(array) for array in found} == {len(found.path)}
    assert np.isin(found.modality, (0, 1)).all()
    if exact:
        for key in ("embedding", "identity", "camera", "modality"):
            np.testing.assert_array_equal(getattr(found, key), arrays()[key])


def damage(data, whole):
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
    return whole[: data.draw(st.sampled_from([len(whole)] * 3 + [data.draw(st.integers(0, len(whole)))]))]


FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.csv"])
@settings(max_examples=60, **FUZZ)
@given(data=st.data())
def test_damaged_files_are_errors_or_whole(tmp_path, name, data):
    write.npz(tmp_path / "a.npz", arrays())
    write.npy(tmp_path / "a.npy", arrays())
    (tmp_path / name).write_bytes(damage(data, bytearray((tmp_path / name).read_bytes())))
    judged(tmp_path / name.replace("csv", "npy"), exact=name == "a.npz")  # a .npz has checksums


@pytest.mark.usefixtures("in_subprocess")
@pytest.mark.parametrize("name", ["a.mat", "packed.mat", "new.mat", "a.h5"])
@settings(max_examples=3, **FUZZ)
@given(data=st.data())
def test_damaged_files_of_c_libraries_are_errors_or_whole(tmp_path, name, data):
    WRITERS[name](tmp_path / name, arrays())
    (tmp_path / name).write_bytes(damage(data, bytearray((tmp_path / name).read_bytes())))
    foreign.SECONDS, seconds = 5, foreign.SECONDS
    try:
        judged(tmp_path / name, exact=False)
    finally:
        foreign.SECONDS = seconds


@pytest.mark.parametrize("kind", ["M8[s]", "m8[s]", "S3", "V3", "c16"])
def test_cameras_of_odd_types_are_refused(tmp_path, kind):
    write.npz(
        tmp_path / "a.npz", {k: v for k, v in arrays().items() if k != "modality"} | {"camera": np.zeros(7, kind)}
    )
    with pytest.raises(FeaturesError, match="a.npz: camera is .*, not whole numbers"):
        read(tmp_path / "a.npz", infrared_cameras=(3,))


def test_text_that_cannot_be_written_is_refused(tmp_path):
    """Half a character, or a number that is none: numpy stores both, and no file or screen takes them."""
    for code in (0xD800, 0x110000):
        odd = np.array([97] * 6 + [code], np.uint32).view("<U1")
        for key, row in (("path", 6), ("identity", 6)):
            write.npz(tmp_path / "a.npz", arrays() | {key: odd if key == "path" else np.where(odd == "a", "1", odd)})
            with pytest.raises(FeaturesError, match=f"a.npz: {key} of row {row} is no text"):
                read(tmp_path / "a.npz")
        np.savez(tmp_path / "a.npz", **arrays() | {"path": odd})
        with pytest.raises(FeaturesError, match="a.npz: path of row 6 is no text"):
            load(tmp_path / "a.npz")


def test_files_that_would_fill_the_memory_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    (tmp_path / "a.csv").write_text(f"identity,camera,modality,path\n1,1,0,a\n1,1,0,{'a' * 5000}\n")
    with pytest.raises(FeaturesError, match="a.csv: row 1 has a cell of more than 4096 characters"):
        read(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        for key, array in arrays().items():
            with archive.open(f"{key}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)
    for reader in (read, load):
        with pytest.raises(FeaturesError, match="embedding.npy is packed as numpy packs no array"):
            reader(tmp_path / "a.npz")
    write.npz(tmp_path / "a.npz", arrays())
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    at = whole.index(b"PK\x01\x02")
    whole[at + 24 : at + 28] = (2**32 - 2).to_bytes(4, "little")  # the size that the directory gives the first array
    (tmp_path / "a.npz").write_bytes(whole)
    for reader in (read, load):
        with pytest.raises(FeaturesError, match="a.npz: .*holds 4294968450 bytes, expected at most 671[0-9]{5};"):
            reader(tmp_path / "a.npz")


def test_a_member_that_is_no_array_is_refused(tmp_path):
    write.npz(tmp_path / "a.npz", {key: array for key, array in arrays().items() if key != "path"})
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("path.npy", b"no array")
    for reader in (read, load):
        with pytest.raises(FeaturesError, match="path is damaged, or no array"):
            reader(tmp_path / "a.npz")
