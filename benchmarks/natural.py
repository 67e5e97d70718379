"""What weights do to natural haze and to clear pictures, where there is no ground truth: figures beside the eye.

    python benchmarks/natural.py FOLDER [--clear FOLDER] [--models student ...] [--scales 1 auto] [--save FOLDER]

For each hazy picture of FOLDER: the share of pixels that fall to BLACK or below from above GREY; and of its even grey sky
(where the picture hardly varies within SIDE pixels, is bright and has no colour) how far the mean chroma moves, and how far
a pixel deviates at most from the mean around it. For --clear, PSNR of output against input: what has no haze is to stay.
--save writes the results, to be looked at.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from famkern import Dehazer
from famkern.training import evaluation
from famkern.training.data import find_photos

BLACK, GREY = 2, 20  # of 255
SIDE = 33  # of the windows in which a sky is even, in pixels
EVEN, CHROMA, BRIGHT = 2.0, 10.0, 110.0  # standard deviation and chroma below, mean above, of 255
LEAST = 0.01  # of the picture: a smaller sky is none


def means(image: Tensor) -> Tensor:
    """Of the window around each pixel, (C, H, W)."""
    for side, pad in (((SIDE, 1), (SIDE // 2, 0)), ((1, SIDE), (0, SIDE // 2))):
        image = F.avg_pool2d(image, side, 1, pad, count_include_pad=False)
    return image


def chroma(image: Tensor) -> Tensor:
    """Difference of the greatest and the least colour, (H, W)."""
    return image.amax(0) - image.amin(0)


def even_sky(hazy: Tensor) -> Tensor:
    """Which pixels are of an even grey sky: (3, H, W) of 0 to 255 -> (H, W) of bool."""
    around = means(hazy)
    deviation = (means(hazy.square()) - around.square()).clamp(min=0).sqrt().amax(0)
    return (deviation < EVEN) & (chroma(around) < CHROMA) & (around.mean(0) > BRIGHT)


def judge(hazy: Tensor, output: Tensor) -> dict[str, float]:
    """Both (3, H, W) of 0 to 255."""
    fallen = (output.mean(0) <= BLACK) & (hazy.mean(0) > GREY)
    found = {"black %": 100 * float(fallen.float().mean())}
    sky = even_sky(hazy)
    if float(sky.float().mean()) >= LEAST:
        colour = [(picture * sky).sum((1, 2)) / sky.sum() for picture in (hazy, output)]
        moved = [float(c.amax() - c.amin()) for c in colour]
        found["sky chroma"] = moved[1] - moved[0]
        found["sky deviation"] = float(((output - means(output)).abs().amax(0) * sky).amax())
    return found


def main() -> None:
    pictures = find_photos(arguments.folder)
    for model in arguments.models:
        for scale in arguments.scales:
            dehazer = Dehazer(model, device="cpu", scale=scale if scale == "auto" else int(scale))
            print(f"\n{model}, scale {scale}\n")
            for path in pictures:
                hazy = evaluation.read(path)
                output = dehazer(hazy)
                found = judge(hazy * 255, (output * 255).round())
                print(f"{path.name:40}", ", ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
                if arguments.save:
                    arguments.save.mkdir(parents=True, exist_ok=True)
                    name = f"{path.stem}-{Path(model).stem}-{scale}.png"
                    pixels = (output * 255).round().byte().permute(1, 2, 0)
                    Image.fromarray(pixels.numpy()).save(arguments.save / name)
            if arguments.clear:
                inputs = [evaluation.read(path) for path in find_photos(arguments.clear)]
                psnrs = [evaluation.measure(dehazer(image), image)[0] for image in inputs]
                print(
                    f"{len(psnrs)} clear pictures stay to {statistics.mean(psnrs):.2f} dB, the least {min(psnrs):.2f} dB"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clear", type=Path, help="clear photographs that no weights were trained on")
    parser.add_argument("--models", nargs="*", default=["student"])
    parser.add_argument("--scales", nargs="*", default=["1", "auto"])
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    main()
