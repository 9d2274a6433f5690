"""Drawn sets of images without copies among them, most with structure alike, as medical images and documents have."""

from collections.abc import Callable, Iterator
from functools import partial

import cv2
import numpy as np
from numpy.random import Generator

SMALLEST = 60  # images of the smallest set
BLACK, INK = 0, 20  # grey of lines and of letters


def as_uint8(image: np.ndarray) -> np.ndarray:
    """Round and clip to uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def smooth_noise(generator: Generator, height: int, width: int, cell: int) -> np.ndarray:
    """float32 (height, width): noise of about 0 to 1, interpolated between points `cell` pixels apart."""
    coarse = generator.random((max(2, height // cell + 2), max(2, width // cell + 2)), np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """y and x of the pixels of a square, float32 (side, side), from 0 to 1."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    return y, x


def write(image: np.ndarray, text: str, x: int, y: int, scale: float, grey: int) -> None:
    """Draw a line of text in place."""
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (grey,) * 3, 1, cv2.LINE_AA)


def half_ellipse(generator: Generator, noise: float) -> Iterator[np.ndarray]:
    """One bright outline, a little elsewhere in each image, under noise of this standard deviation."""
    y, x = grid(128)
    for _ in range(SMALLEST):
        (centre_x, centre_y), width, height = generator.normal(0.5, 0.02, 2), *generator.normal((0.3, 0.38), 0.02)
        inside = (((x - centre_x) / width) ** 2 + ((y - centre_y) / height) ** 2 < 1) & (y < centre_y + 0.1)
        image = 20 + 150 * inside * generator.normal(1, 0.05)
        yield as_uint8(image + generator.normal(0, noise, image.shape))


def x_ray(generator: Generator) -> Iterator[np.ndarray]:
    """Chests: a spine, two lungs, ribs, and the same marker in a corner."""
    side = 256
    row, column = grid(side)
    for _ in range(200):
        shift_x, shift_y, zoom = generator.normal(0, 0.01, 3)
        x, y = (column - 0.5 - shift_x) * (1 + zoom), (row - 0.5 - shift_y) * (1 + zoom)
        image = 60 + 120 * np.exp(-((x / 0.12) ** 2) * 2)
        for centre in (-0.22, 0.22):
            width, height = generator.normal((0.15, 0.33), (0.004, 0.006))
            image -= 50 * (((x - centre) / width) ** 2 + (y / height) ** 2 < 1)
        image += 18 * (np.sin((y + 0.6 * np.abs(x) ** 1.5) * 55 + generator.normal(0, 0.2)) > 0.3)
        image = cv2.GaussianBlur(image, (0, 0), 2.5) + 20 * (smooth_noise(generator, side, side, 40) - 0.5)
        image[8:24, 8:20] = 240
        yield as_uint8(image + generator.normal(0, 4, image.shape))


def letterhead() -> np.ndarray:
    """A white page, float32 (320, 240), with a heading and a line."""
    page = np.full((320, 240), 245, np.float32)
    write(page, "University Hospital", 20, 25, 0.6, 30)
    cv2.line(page, (15, 35), (225, 35), BLACK, 1)
    return page


def document(generator: Generator) -> Iterator[np.ndarray]:
    """Letters: one heading, and each its own text."""
    for _ in range(200):
        page = letterhead()
        for line in range(generator.integers(14, 20)):
            words = ("".join(generator.choice(list("etaoinshrdlu"), generator.integers(2, 9))) for _ in range(5))
            write(page, " ".join(words)[: generator.integers(20, 34)], 15, 52 + 13 * line, 0.33, INK)
        yield as_uint8(page)


def form(generator: Generator) -> Iterator[np.ndarray]:
    """Filled forms: nothing differs but the code in each box."""
    labels = ("Name", "Date", "Ward", "Dose", "Unit", "Code", "Sex", "Age", "Sum")
    for _ in range(200):
        page = letterhead()
        for line, label in enumerate(labels):
            top = 50 + 29 * line
            cv2.rectangle(page, (15, top), (225, top + 25), 120, 1)
            write(page, label, 18, top + 18, 0.4, 60)
            write(page, "".join(generator.choice(list("0123456789ABCDEF"), 9)), 90, top + 18, 0.45, INK)
        yield as_uint8(page)


def satellite(generator: Generator) -> Iterator[np.ndarray]:
    """Textures with the same statistics everywhere."""
    side = 128
    for _ in range(200):
        fine, coarse = (smooth_noise(generator, side, side, cell) - 0.5 for cell in (4, 16))
        yield as_uint8(90 + 60 * fine + 40 * coarse + generator.normal(0, 3, fine.shape))


def vignette(generator: Generator) -> Iterator[np.ndarray]:
    """Fundi: a disc on black, darker at its rim, with a few vessels."""
    side = 192
    y, x = grid(side)
    radius = (x - 0.5) ** 2 + (y - 0.5) ** 2
    shade, disc = np.clip(1.15 - 3.2 * radius, 0, 1), radius < 0.235
    for _ in range(200):
        image = 140 + 12 * smooth_noise(generator, side, side, 30)
        for _ in range(8):
            steps = generator.normal(0, 6, (25, 2)) + generator.normal(0, 4, 2)
            vessel = np.cumsum(np.concatenate([[[0.6 * side, 0.5 * side]], steps]), axis=0)
            cv2.polylines(image, [vessel.astype(np.int32)], False, 95, 2, cv2.LINE_AA)
        yield as_uint8((image * shade + generator.normal(0, 2, image.shape)) * disc)


def microscopy(generator: Generator) -> Iterator[np.ndarray]:
    """A few round cells on a dark ground."""
    side = 128
    for _ in range(200):
        image = np.full((side, side), 30, np.float32)
        for _ in range(generator.integers(3, 7)):
            centre = generator.integers(15, side - 15, 2).tolist()
            cv2.circle(image, centre, int(generator.integers(6, 10)), 150, cv2.FILLED, cv2.LINE_AA)
        yield as_uint8(cv2.GaussianBlur(image, (0, 0), 1.5) + generator.normal(0, 5, image.shape))


def natural(generator: Generator) -> Iterator[np.ndarray]:
    """Varied scenes in colour: discs and boxes of all sizes over each other (dead leaves)."""
    for _ in range(200):
        height, width = generator.integers(160, 330, 2).tolist()
        light = 160 * (smooth_noise(generator, height, width, max(8, height // 3)) - 0.5)
        image = (255 * generator.random(3) + light[..., None]).astype(np.float32)
        for _ in range(generator.integers(20, 120)):
            radius, (x, y) = min(90.0, 3 + 5 * generator.pareto(1.3)), (generator.random(2) * (width, height)).tolist()
            colour, turn = (255 * generator.random(3)).tolist(), 180 * generator.random()
            if generator.random() < 0.5:
                cv2.circle(image, (int(x), int(y)), int(radius), colour, cv2.FILLED, cv2.LINE_AA)
            else:
                corners = cv2.boxPoints(((x, y), (2 * radius, radius), turn)).astype(np.int32)
                cv2.fillPoly(image, [corners], colour, cv2.LINE_AA)
        image += 40 * generator.random() * (smooth_noise(generator, height, width, 3) - 0.5)[..., None]
        image = cv2.GaussianBlur(image, (0, 0), 0.7 + generator.random())
        yield as_uint8(image + generator.normal(0, 2, image.shape))


def digits(generator: Generator) -> Iterator[np.ndarray]:
    """Written digits of 8 x 8 pixels, enlarged to varied shapes: no detail is finer than a stroke."""
    from sklearn.datasets import load_digits

    for digit in load_digits().images[:300].astype(np.float32):
        size = generator.integers(100, 160, 2).tolist()
        yield as_uint8(cv2.resize(digit * (255 / 16), size, interpolation=cv2.INTER_CUBIC))


SETS: dict[str, Callable[[Generator], Iterator[np.ndarray]]] = {
    "half-ellipse-clean": partial(half_ellipse, noise=0),
    **{f"half-ellipse-{noise}": partial(half_ellipse, noise=noise) for noise in (3, 8, 20)},
    "x-ray": x_ray,
    "document": document,
    "form": form,
    "satellite": satellite,
    "vignette": vignette,
    "microscopy": microscopy,
    "natural": natural,
    "digits": digits,
}
