"""Every augmentation by what it may do to a picture, how often it does it, and by its key alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax import augment

SEEDS = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=20)
N = 2000  # draws of a distribution
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in a quarter
KINDS = pytest.mark.parametrize("kind", ["channel", "luminance"])


def keys(seed, n=N):
    return jax.random.split(jax.random.key(seed), n)


def picture(seed, h=6, w=5):
    """Floats in [0, 1], no two equal."""
    x = np.random.default_rng(seed).permutation(h * w * 3).reshape(h, w, 3)
    return (x / x.size).astype(np.float32)


def bytes_of(seed, b, h, w):
    return np.random.default_rng(seed).integers(0, 256, (b, h, w, 3)).astype(np.uint8)


def assert_share(happened, probability):
    """Within 5 standard deviations of a binomial; the keys are fixed, so this passes always or never."""
    n = len(happened)
    assert abs(np.mean(happened) - probability) < 5 * np.sqrt(probability * (1 - probability) / n)


def many(function, seed, image, **options):
    every = jit(jax.vmap(lambda key, image: function(key, image, **options), (0, None)))
    return np.asarray(every(keys(seed), image))


@functools.partial(jit, static_argnames=("tries", "area"))  # probability and aspect may vary in one program
def erase_many(keys, image, tries=10, **options):
    return jax.vmap(lambda key: augment.erase(key, image, tries=tries, **options))(keys)


def slow_normalise(image):
    """torchvision's transforms.Normalize with the statistics of ImageNet."""
    out = np.zeros(image.shape)
    for c, (mean, std) in enumerate(zip([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], strict=True)):
        out[..., c] = (np.float64(image[..., c]) - mean) / std
    return out


def without_colour(image, kind):
    """The pictures that grayscale may give in place of a coloured one."""
    if kind == "luminance":
        return [np.repeat(image @ np.array([0.299, 0.587, 0.114])[:, None], 3, 2)]
    return [np.repeat(image[..., c : c + 1], 3, 2) for c in range(3)]


def which(results, choices):
    """For each result the number of the only choice it equals."""
    equal = np.array([[np.allclose(r, c, atol=1e-6) for c in choices] for r in results])
    np.testing.assert_array_equal(equal.sum(1), 1)
    return equal.argmax(1)


def test_normalise():
    image = np.stack([picture(i) for i in range(2)])
    np.testing.assert_allclose(augment.normalise(image), slow_normalise(image), rtol=1e-4, atol=1e-6)


def test_flip_mirrors_every_second_picture():
    image = picture(0)
    choice = which(many(augment.flip, 0, image), [image, np.flip(image, 1)])
    assert_share(choice == 1, 0.5)


@pytest.mark.parametrize(("h", "w", "pad"), [(6, 5, 2), (3, 2, 4)])  # the second mirrors more than once
def test_pad_crop_cuts_evenly_anywhere_from_numpys_symmetric_padding(h, w, pad):
    image, size = picture(1, h, w), 2 * pad + 1
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    results = many(augment.pad_crop, 1, image, pad=pad)
    windows = np.array([padded[y : y + h, x : x + w] for y in range(size) for x in range(size)])
    equal = (results[:, None] == windows).all((2, 3, 4))
    assert equal.any(1).all()
    assert equal.any(0).all()  # every window is cut now and then
    if pad == 2:  # no two windows are the same
        np.testing.assert_array_equal(equal.sum(1), 1)
        for place in range(size * size):
            assert_share(equal[:, place], 1 / size**2)


@quick
@given(SEEDS)
def test_pad_crop_by_nothing_is_the_identity(seed):
    image = picture(seed)
    np.testing.assert_array_equal(augment.pad_crop(jax.random.key(seed), image, 0), image)


def test_resized_crop_of_the_whole_is_the_identity():
    image = picture(0)
    np.testing.assert_allclose(many(augment.resized_crop, 0, image, area=(1, 1), aspect=(1, 1))[0], image, atol=1e-6)


def test_resized_crop_has_the_area_aspect_and_place_that_are_drawn():
    """Of an image whose channels are the row and the column, each output says where it is from."""
    h, w = 40, 24
    ramp = np.stack([*np.meshgrid(np.arange(h) + 0.5, np.arange(w) + 0.5, indexing="ij"), np.ones((h, w))], -1)
    found = many(augment.resized_crop, 1, np.float32(ramp), area=(0.3, 0.6), aspect=(0.7, 1.3))
    np.testing.assert_allclose(found[..., 2], 1, atol=1e-5)  # nothing is black
    inner = found[:, h // 4 : -h // 4, w // 4 : -w // 4]  # the edge's pixels are not a ramp
    np.testing.assert_allclose(np.diff(inner[..., 0], 2, 1), 0, atol=1e-3)
    step = np.stack([inner[:, 1, 0, 0] - inner[:, 0, 0, 0], inner[:, 0, 1, 1] - inner[:, 0, 0, 1]], 1)  # side / whole
    area, aspect = step.prod(1), step[:, 0] / step[:, 1]
    assert 0.3 - 1e-3 < area.min() < 0.31
    assert 0.59 < area.max() < 0.6 + 1e-3
    np.testing.assert_allclose(area.mean(), 0.45, atol=0.01)  # uniform
    assert 0.7 - 1e-3 < aspect.min() < 0.71
    assert 1.29 < aspect.max() < 1.3 + 1e-3
    np.testing.assert_allclose(np.log(aspect).mean(), np.log(0.7 * 1.3) / 2, atol=0.02)
    first = np.stack([inner[:, 0, 0, 0], inner[:, 0, 0, 1]], 1) - step * (np.array([h // 4, w // 4]) + 0.5)
    free = (1 - step) * [h, w]
    place = first / free  # of the corner, between the first and the last possible one
    assert -1e-2 < place.min() < 0.01
    assert 0.99 < place.max() < 1.01
    np.testing.assert_allclose(place.mean(0), 0.5, atol=0.03)
    assert abs(np.corrcoef(place.T)[0, 1]) < 0.1


def test_resized_crop_longer_than_the_image_is_cut():
    """Of twice the aspect and the whole area, all rows are left and the share 1 / sqrt(2) of the columns."""
    h, w = 8, 16
    ramp = np.stack([*np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), np.ones((h, w))], -1)
    found = many(augment.resized_crop, 0, np.float32(ramp), area=(1, 1), aspect=(2, 2))
    np.testing.assert_allclose(found[..., 0], np.broadcast_to(ramp[..., 0], found.shape[:3]), atol=1e-5)
    np.testing.assert_allclose(np.diff(found[:, :, 2:-2, 1], axis=2), 2**-0.5, atol=1e-4)


def test_grayscale_takes_each_channel_once_in_eleven():
    image = picture(2)
    choice = which(many(augment.grayscale, 2, image), [*without_colour(image, "channel"), image])
    for channel in range(3):
        assert_share(choice == channel, 1 / 11)
    assert_share(choice == 3, 8 / 11)


def test_grayscale_by_luminance_as_often():
    image = picture(3)
    choice = which(many(augment.grayscale, 3, image, kind="luminance"), [*without_colour(image, "luminance"), image])
    assert_share(choice == 0, 3 / 11)
    alike = np.repeat(image[..., :1], 3, 2)
    np.testing.assert_allclose(many(augment.grayscale, 3, alike, kind="luminance"), [alike] * N, atol=1e-6)


@KINDS
def test_grayscale_is_for_three_draws_of_eleven(kind):
    """A single red pixel, so often that 3 of 10 or of 12 would be 35 standard deviations away."""
    red = jnp.array([[[1.0, 0, 0]]])
    found = jit(jax.vmap(lambda key: augment.grayscale(key, red, kind=kind)))(keys(4, 500_000))
    assert_share(np.asarray(found[:, 0, 0, 0] == found[:, 0, 0, 1]), 3 / 11)


def rectangles(results, value):
    """(top, left, height, width) of what is no longer value, which must fill a rectangle."""
    changed = (results != value).any(3)
    found = []
    for one in changed:
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        found.append((rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1) if len(rows) else (0, 0, 0, 0))
        assert one.sum() == found[-1][2] * found[-1][3]
    return np.array(found)


def test_erased_rectangles_have_the_published_sizes_places_and_share():
    side, value = 40, 9.0
    results = many(augment.erase, 4, np.full((side, side, 1), value, np.float32))
    found = rectangles(results, value)
    erased = found[:, 2] > 0
    assert_share(erased, 0.5)
    top, left, h, w = found[erased].T
    # Height and width are rounded to whole pixels.
    assert ((h + 0.5) * (w + 0.5) >= 0.02 * side**2).all()
    assert ((h - 0.5) * (w - 0.5) <= 0.33 * side**2).all()
    assert ((h + 0.5) / (w - 0.5) >= 0.3).all()
    assert ((h - 0.5) / (w + 0.5) <= 3.3).all()
    # Uniform area: mean .175, deviation .09; log-uniform aspect: mean 0, deviation .69; some 1,000 rectangles.
    np.testing.assert_allclose([(h * w / side**2).mean(), (h * w / side**2).std()], [0.175, 0.0895], atol=0.015)
    np.testing.assert_allclose([np.log(h / w).mean(), np.log(h / w).std()], [0, 0.692], atol=0.08)
    for start, size in ((top, h), (left, w)):
        assert (start + size <= side).all()
        assert start.min() == 0
        assert (start + size).max() == side
        np.testing.assert_allclose(np.mean(start / (side - size)), 0.5, atol=0.05)


@pytest.mark.parametrize("fill", [0.0, 127 / 255])
def test_pad_crop_can_fill_with_a_colour(fill):
    image = picture(1) + 1  # nothing of it is the fill
    results = many(augment.pad_crop, 1, image, pad=2, fill=fill)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), constant_values=fill)
    windows = np.array([padded[y : y + 6, x : x + 5] for y in range(5) for x in range(5)], np.float32)
    equal = (results[:, None] == windows).all((2, 3, 4))
    np.testing.assert_array_equal(equal.sum(1), 1)
    for place in range(25):
        assert_share(equal[:, place], 1 / 25)


@pytest.mark.parametrize(("law", "mean", "deviation"), [("uniform", 1.8, 0.866), ("log-uniform", 1.25, 0.81)])
def test_erasing_fills_with_a_colour_and_draws_the_aspect_by_a_law(law, mean, deviation):
    """Uniform in (0.3, 3.3): mean 1.8, deviation 3 / sqrt(12); log-uniform: mean 3 / ln 11."""
    side, fill = 100, (1.0, -2.0, 0.5)
    image, how = np.zeros((side, side, 3), np.float32), {"probability": 1.0, "area": (0.1, 0.1), "law": law}
    results = np.asarray(jax.lax.map(lambda key: augment.erase(key, image, fill=fill, **how), keys(8, 600)))
    changed = results != 0
    np.testing.assert_array_equal(results[changed.all(3)], np.broadcast_to(fill, (changed.all(3).sum(), 3)))
    _, _, h, w = rectangles(results, 0).T
    aspect = h / w
    np.testing.assert_allclose([aspect.mean(), aspect.std()], [mean, deviation], atol=0.12)
    assert 0.29 < aspect.min() < 0.45
    assert 3.0 < aspect.max() < 3.4


PLAIN = np.full((12, 8, 3), 50.0, np.float32)


def erased(seed, *, probability=1.0, area=(0.02, 0.33), aspect=(0.3, 3.3), tries=10):
    return np.asarray(erase_many(keys(seed), PLAIN, tries, probability=probability, area=area, aspect=aspect))


def test_erasing_fills_with_standard_normal_noise():
    results = erased(5)
    noise = results[(results != 50).all(3)]  # [pixels 3]
    assert len(noise) > 20_000
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(3), atol=0.04)  # the channels are drawn one by one
    assert abs(np.mean(noise**4) - 3) < 0.1
    one = np.float64([(x[0] - x[1]) for x in (r[(r != 50).all(2)] for r in results) if len(x) > 1])
    np.testing.assert_allclose(one.std(0), np.sqrt(2), atol=0.1)  # and the pixels too


def test_erasing_probability_sizes_and_tries():
    np.testing.assert_array_equal(erased(6, probability=0.0), [PLAIN] * N)
    assert (rectangles(erased(6), 50)[:, 2] > 0).all()
    np.testing.assert_array_equal(erased(6, area=(2.0, 3.0)), [PLAIN] * N)  # nothing fits
    np.testing.assert_array_equal(erased(6, area=(0.25, 0.25), aspect=(6.0, 6.0)), [PLAIN] * N)  # as high as the image
    exact = rectangles(erased(6, area=(0.25, 0.25), aspect=(1.5, 1.5)), 50)
    np.testing.assert_array_equal(exact[:, 2:], [(6, 4)] * N)  # aspect is height over width
    often, once = (rectangles(erased(7, area=(0.25, 0.25), aspect=(1 / 6, 6.0), tries=n), 50)[:, 2] for n in (10, 1))
    assert 0.3 < (once > 0).mean() < 0.9  # many do not fit
    assert (often > 0).mean() > 0.99


jitted = jit(augment.augment, static_argnames=("pad", "kind"))
BATCH, HEIGHT, WIDTH, PAD = 60, 7, 5, 1


def augmented(seed, image, *, erasing=0.5, kind="channel"):
    return np.asarray(jitted(jax.random.key(seed), image, pad=PAD, erasing=erasing, kind=kind))


@KINDS
def test_augment_is_a_window_of_the_mirrored_or_not_coloured_or_not_normalised_picture(kind):
    image = bytes_of(0, BATCH, HEIGHT, WIDTH)
    results = augmented(0, image, erasing=0.0, kind=kind)
    assert results.dtype == np.float32
    seen = set()
    for one, result in zip(image / 255, results, strict=True):
        choices = []
        for side in (one, np.flip(one, 1)):
            padded = np.pad(side, ((PAD, PAD), (PAD, PAD), (0, 0)), mode="symmetric")
            cuts = [padded[y : y + HEIGHT, x : x + WIDTH] for y in range(3) for x in range(3)]
            choices += [slow_normalise(x) for cut in cuts for x in (cut, *without_colour(cut, kind))]
        equal = [i for i, choice in enumerate(choices) if np.allclose(choice, result, atol=1e-4)]
        assert len(equal) == 1
        seen.update(equal)
    assert len(seen) > 20  # every image is drawn for by itself


def test_augment_erases_after_normalising():
    results = np.concatenate([augmented(seed, np.zeros((BATCH, HEIGHT, WIDTH, 3), np.uint8)) for seed in range(20)])
    noise = ~np.isclose(results, slow_normalise(np.zeros((1, 1, 1, 3))), atol=1e-6)
    np.testing.assert_allclose([results[noise].mean(), results[noise].std()], [0, 1], atol=0.05)
    assert_share(noise.any((1, 2, 3)), 0.5)


@quick
@given(SEEDS)
def test_augment_is_a_function_of_the_key_and_of_each_image_alone(seed):
    image, other = (bytes_of(seed + i, BATCH, HEIGHT, WIDTH) for i in (0, 1))
    plain = augmented(seed, image)
    np.testing.assert_array_equal(augmented(seed, image), plain)
    assert (augmented(seed + 1, image) != plain).any()
    for i in (0, 7, BATCH - 1):
        mixed = other.copy()
        mixed[i] = image[i]
        np.testing.assert_array_equal(augmented(seed, mixed)[i], plain[i])


def test_equal_images_of_a_batch_get_different_draws():
    results = augmented(3, np.repeat(bytes_of(0, 1, HEIGHT, WIDTH), BATCH, 0))
    assert len(np.unique(results.reshape(BATCH, -1), axis=0)) > BATCH // 2  # few of 2 x 9 x 4 choices repeat


def test_half_precision_stays():
    image = jnp.asarray(picture(4), jnp.bfloat16)
    assert jax.eval_shape(augment.grayscale, jax.random.key(0), image).dtype == jnp.bfloat16
    assert jax.eval_shape(augment.erase, jax.random.key(0), image).dtype == jnp.bfloat16
