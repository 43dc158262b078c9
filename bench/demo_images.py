"""Makes JPEG images from photographs: run by the tools' Python, which has pillow (the product needs none).

``python demo_images.py DATA_FOLDER OUT COUNT SEED``: reads the photographs of scikit-image's wheel, writes COUNT images
(random crops, scales, flips; about 110 KiB each, as ImageNet's are) into OUT, each behind its length (uint32, little
endian). The same seed makes the same images.
"""

import io
import random
import struct
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image  # type: ignore[import-not-found]  # lives in the tools' environment, where this file runs

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
SIZE = (500, 375)
QUALITY = 96
PROCESSES = 2


def variant(photograph: Image.Image, rng: random.Random) -> bytes:
    """One JPEG: a random part of the photograph, scaled to ``SIZE``, perhaps mirrored."""
    width, height = photograph.size
    share = rng.uniform(0.5, 1.0)
    w, h = int(width * share), int(height * share)
    left, top = rng.randrange(width - w + 1), rng.randrange(height - h + 1)
    image = photograph.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()


def variants(folder: str, name: str, count: int, seed: str) -> list[bytes]:
    """``count`` images of one photograph."""
    photograph = Image.open(Path(folder) / name).convert("RGB")
    rng = random.Random(seed)
    return [variant(photograph, rng) for _ in range(count)]


def main(folder: str, out: str, count: int, seed: int) -> None:
    """Write the images, photographs taking turns."""
    names = [name for name in PHOTOGRAPHS if (Path(folder) / name).is_file()]
    if not names:
        raise SystemExit(f"no photographs in {folder}")
    each = -(-count // len(names))
    with ProcessPoolExecutor(PROCESSES) as pool:
        jobs = [pool.submit(variants, folder, name, each, f"{seed} {name}") for name in names]
        made = [job.result() for job in jobs]
    with Path(out).open("wb") as file:
        for turn in range(each):
            for images in made:
                file.write(struct.pack("<I", len(images[turn])) + images[turn])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
