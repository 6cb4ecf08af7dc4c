"""A small run with hostile names, and the report of it: what the tests of the page look at."""

import functools

import numpy as np

from saai_jax import affinity
from saai_jax.features.store import Features
from saai_jax.ranking import results
from saai_jax.report import lists, page, projection
from saai_jax.report.correspondence import Aligned

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>$\\frac{"
AIM = {"k1": 4, "k2": 2, "variant": "released"}
METHODS = {
    "cosine": (affinity.cosine, {}),
    "sim": (functools.partial(affinity.sim, kq=5, kg=5), {"kq": 5, "kg": 5}),
    "k_reciprocal": (functools.partial(affinity.k_reciprocal, k1=5, k2=2), {"k1": 5, "k2": 2}),
    "aim": (functools.partial(affinity.aim, **AIM), AIM),
}


def images(identities=6, each=5):
    """Infrared images are of camera 3, visible ones of cameras 1 and 2; images of one identity are somewhat alike."""
    random = np.random.default_rng(0)
    identity = np.repeat(np.arange(1, identities + 1), 2 * each).astype(np.int32)
    modality = np.tile(np.repeat([0, 1], each), identities).astype(np.int32)
    camera = np.where(modality == 1, 3, 1 + np.arange(len(identity)) % 2).astype(np.int32)
    embedding = random.standard_normal((identities + 1, 16))[identity] + random.standard_normal((len(identity), 16))
    path = np.array([f"cam{c}/{i:04d}/{HOSTILE}{n}.jpg" for n, (c, i) in enumerate(zip(camera, identity, strict=True))])
    return Features(embedding.astype(np.float32), identity, camera, modality, path)


def trial(features):
    """All infrared images against all visible ones; camera 2 is skipped for the first half of the queries."""
    query, gallery = (np.flatnonzero(features.modality == m) for m in (1, 0))
    valid = np.ones((len(query), len(gallery)), bool)
    valid[: len(query) // 2, features.camera[gallery] == 2] = False
    return (query, gallery), valid


def pictures(rows):
    """Another plain colour for every row."""
    made = np.zeros((*rows.shape, 48, 24, 3), np.uint8)
    made[...] = (rows[..., None] * np.array([37, 71, 113]) % 256)[..., None, None, :]
    return made


def aligned(random):
    """Two images of a map of 6 x 3 cells, whose rows sum to one."""
    probability = random.random((2, 18, 18)).astype(np.float32)
    mask, coattention = random.random((2, 2, 6, 3)).astype(np.float32)
    return Aligned(probability / probability.sum(2, keepdims=True), mask, coattention)


def document(**extra):
    """Two settings of three rows; `extra` goes into every row."""
    random = np.random.default_rng(2)
    each = {"query": np.arange(30)} | {key: random.random(30) for key in ("rank1", "ap", "inp")}
    more = {"queries": 30, "gallery": 30, "cmc": np.linspace(30, 99, 30).tolist(), "per_query": each}
    scores = [dict.fromkeys(results.METRICS, 50.0 + t) | more for t in range(2)]
    of = {"path": images().path, "identity": images().identity, "per_trial": scores}
    rows = [
        results.row(dataset=HOSTILE, protocol=f"p{p}", direction="", shots="single", inference=i, parameters=k, **of)
        | extra
        for p in range(2)
        for i, k in (("cosine", {}), ("aim", AIM), (HOSTILE, {HOSTILE: HOSTILE}))
    ]
    return {"rows": rows, "command": ["launch.py", HOSTILE], "commit": None, "versions": {"jax": "1"}}


def write(file, *, full=True):
    """The page, with everything, or as it is for a features file and results without curves and intervals."""
    features = images()
    (query, gallery), valid = trial(features)
    options = {}
    if full:
        shown = lists.examples(features.identity, query, gallery, 3)
        attention = np.random.default_rng(1).random((len(shown), 2, 6, 3)).astype(np.float32)
        mapped = projection.people(features.identity, features.modality)
        before = features.embedding[mapped] + 1
        options = dict(pictures=pictures, shown=shown, attention=attention, mapped=mapped, feature=before)
        couples = lists.matched(features, (query, gallery), valid, shown, 2)
        random = np.random.default_rng(3)
        options |= dict(couples=couples, aligned=[aligned(random) for _ in couples])
    options |= {"title": f"Report of {HOSTILE}", "setting": f"first trial of {HOSTILE}", "unique_identities": False}
    missing = {} if full else dict.fromkeys(("cmc", "interval", "identity_interval"))
    page.write_page(file, document(**missing), features, (query, gallery), valid, METHODS, **options)
    return file
