"""--mode=extract from picture files and weights by torch's names, against the network in float64 loops."""

import io

import numpy as np
import pytest
from PIL import Image

from configs import regdb
from input_pipeline.index import DataError
from modes import folders
from modes.ranking import extract
from saai_jax import features
from tests import pth_files
from tests.input_pipeline.test_regdb import write_regdb
from tests.naive import slow_conv, slow_max_pool
from tests.tensors import tensor

HEIGHT, WIDTH, PARTS, IDENTITIES = 32, 16, 3, 5
EPS = 1e-5


def of_norm(name, channels):
    return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def of_block(name, before, after):
    shapes = {f"{name}.conv1.weight": (after, before, 3, 3), f"{name}.conv2.weight": (after, after, 3, 3)}
    return shapes | of_norm(f"{name}.bn1", after) | of_norm(f"{name}.bn2", after)


# A release's names, of one block of 16 channels, one of 32 with the stride, and modality attention after it.
SHAPES = {
    "backbone.conv1.weight": (16, 3, 7, 7),
    **of_norm("backbone.bn1", 16),
    **of_block("backbone.layer1.0", 16, 16),
    **of_block("backbone.layer2.0", 16, 32),
    "backbone.layer2.0.downsample.0.weight": (32, 16, 1, 1),
    **of_norm("backbone.layer2.0.downsample.1", 32),
    "backbone.MAM2.channel_attention.0.weight": (2, 32, 1, 1),
    "backbone.MAM2.channel_attention.2.weight": (32, 2, 1, 1),
    "attn_pool.part_tokens": (PARTS, 32),
    "attn_pool.pos_embeding": (4 * 2, 32),
    **of_norm("bn_neck.bn_neck_v", 32 * (PARTS + 1)),
    **of_norm("bn_neck.bn_neck_i", 32 * (PARTS + 1)),
    **{f"{name}classifier.weight": (IDENTITIES, 32 * (PARTS + 1)) for name in ("", "visible_", "infrared_")},
}
WEIGHTS = {name: tensor(name, shape).astype(np.float32) for name, shape in SHAPES.items()}
WEIGHTS |= {f"bn_neck.bn_neck_{m}.bias": np.zeros(32 * (PARTS + 1), np.float32) for m in "vi"}  # frozen


def slow_embedding(pixels, modality):
    """The released network in evaluation mode: u8[1 h w 3] and "v" or "i" to f64[d], of WEIGHTS."""
    w = {name: np.float64(value) for name, value in WEIGHTS.items()}

    def conv(x, name, stride=1):
        kernel = w[f"{name}.weight"].transpose(2, 3, 1, 0)
        return slow_conv(x, kernel, stride, len(kernel) // 2)

    def norm(x, name):
        mean, var, scale, bias = (w[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / np.sqrt(var + EPS) * scale + bias

    def block(x, name, stride):
        y = np.maximum(norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1"), 0)
        y = norm(conv(y, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in w:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return np.maximum(x + y, 0)

    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    x = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = slow_max_pool(np.maximum(norm(conv(x, "backbone.conv1", 2), "backbone.bn1"), 0), 3, 2, 1)
    x = block(block(x, "backbone.layer1.0", 1), "backbone.layer2.0", 2)
    squeeze, excite = (w[f"backbone.MAM2.channel_attention.{i}.weight"][:, :, 0, 0] for i in (0, 2))
    m = sigmoid(excite @ np.maximum(squeeze @ x.mean((0, 1, 2)), 0))
    x = m * x + (1 - m) * (x - x.mean((1, 2))) / np.sqrt(x.var((1, 2)) + EPS)
    positions = x.reshape(-1, x.shape[-1])
    attention = sigmoid(w["attn_pool.part_tokens"] @ (positions + w["attn_pool.pos_embeding"]).T)
    feature = np.concatenate([(attention @ positions / len(positions)).ravel(), positions.mean(0)])
    return norm(feature, f"bn_neck.bn_neck_{modality}")


def save_pth(file):
    """WEIGHTS as torch.save writes them, in one storage."""
    state, offset = {}, 0
    storage = pth_files.storage(length=sum(value.size for value in WEIGHTS.values()))
    for name, value in WEIGHTS.items():
        strides = tuple(step // value.itemsize for step in value.strides)
        state[name] = pth_files.tensor(value.shape, strides, offset, storage)
        offset += value.size
    pth_files.write_zip(file, pth_files.dumps(state), b"".join(value.tobytes() for value in WEIGHTS.values()))


def picture(path):
    """Noise, another for every path, in a format without loss."""
    pixels = np.random.default_rng(list(path.encode())).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "BMP")
    return stream.getvalue()


def test_ones_own_pictures_are_resized_as_configured(tmp_path, monkeypatch):
    (tmp_path / "a.bmp").write_bytes(picture("a"))
    whole = Image.open(tmp_path / "a.bmp").convert("RGB")
    c = regdb.get_config()
    c.data.height, c.data.width = 9, 5
    monkeypatch.setattr(folders, "embed_batches", lambda c, system, variables, batches, *_: next(batches)["image"])
    for name in ("bilinear", "lanczos"):
        c.data.resample = name
        found = folders.embed_pictures(c, None, None, folders.readable(c, str(tmp_path), "visible"))
        wanted = np.asarray(whole.resize((5, 9), Image.Resampling[name.upper()]))
        np.testing.assert_array_equal(found.embedding, [wanted])
    c.data.resample = "nearest"
    with pytest.raises(ValueError, match="data.resample is 'nearest'"):
        folders.embed_pictures(c, None, None, folders.readable(c, str(tmp_path), "visible"))


def test_processes_embed_a_part_each_and_the_first_joins_them(tmp_path, monkeypatch):
    """In turn here, the first one last: what it waits for is there."""
    pictures, c = tmp_path / "p", regdb.get_config()
    pictures.mkdir()
    for name in "abcde":
        (pictures / f"{name}.bmp").write_bytes(picture(name))
    monkeypatch.setattr(folders, "trained", lambda *_: (None, None))

    def pixels(config, system, variables, batches, *_):
        return np.concatenate([batch["image"].reshape(len(batch["image"]), -1) for batch in batches]).astype(np.float32)

    monkeypatch.setattr(folders, "embed_batches", pixels)
    folders.embed(c, str(tmp_path / "one"), pictures=str(pictures), modality="visible")
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(folders.parallel, "barrier", lambda name: None)
    for process in (1, 0):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        folders.embed(c, str(tmp_path / "two"), pictures=str(pictures), modality="visible")
        if process:
            assert [file.name for file in (tmp_path / "two").iterdir()] == ["pictures-p.part-2-of-2.npz"]
    one, two = (features.load(tmp_path / name / "pictures-p.npz") for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(two.path) == 5
    assert [file.name for file in (tmp_path / "two").iterdir()] == ["pictures-p.npz"]  # no part is left
    monkeypatch.setattr("jax.process_count", lambda: 6)
    with pytest.raises(DataError, match="5 pictures leave none for a process, expected fewer processes"):
        folders.embed(c, str(tmp_path / "six"), pictures=str(pictures), modality="visible")


def test_extracted_features_are_those_of_the_loops(tmp_path):
    """Pixels to normalised, the network, the neck of each picture's own modality, in the order of the release."""
    write_regdb(tmp_path / "data", {1: {"train": (1,), "test": (3, 11)}}, images=2, content=picture)
    save_pth(tmp_path / "saai.pth")
    c = regdb.get_config()
    c.data.root, c.data.published, c.data.height, c.data.width = str(tmp_path / "data"), False, HEIGHT, WIDTH
    c.model.weights, c.model.parts, c.model.mam = str(tmp_path / "saai.pth"), PARTS, (2,)
    c.model.stages, c.model.width, c.model.bottleneck = (1, 1), 16, False
    extract(c, str(tmp_path))
    found = features.load(tmp_path / "features-test.npz")
    assert found.modality.tolist() == [0] * 4 + [1] * 4
    for path, modality, embedding in zip(found.path, found.modality, found.embedding, strict=True):
        pixels = np.asarray(Image.open(tmp_path / "data" / path))[None]
        expected = slow_embedding(pixels, "vi"[modality])
        np.testing.assert_allclose(embedding, expected, atol=1e-4 * np.abs(expected).max(), err_msg=str(path))
