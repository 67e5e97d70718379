"""Training of the teacher, DSC-FSRCNN x2, one network for each colour channel; and how good it is.

    L = loss(teacher(small), sharp)        small: sharp at half its size, as 8-bit pictures are

Also its quick ways for training, with the same parameters: `upscale`, and `pooled`, all that distillation needs of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from famkern.models.teacher import DSCFSRCNN, DepthwiseSeparableConv, Teacher

from . import data, evaluation
from .recipe import TeacherRecipe
from .task import Task, evenly, restoration_loss

RULES = "mean of PSNR on luma (ITU-R BT.601, 16 to 235) after rounding to 8 bits, borders of 2 pixels left out"
PSNR_BORDER = 2
POOL = 8  # of the teacher's output in distillation, 2 per pixel of the input


class SuperResolution(Task):
    """Trains `teacher`, its three networks at once, on crops of sharp photographs.

    Args:
        recipe: what to do; sizes of crops are those of the sharp ones, even.
        pictures: for validation.
    """

    name = "teacher"
    metrics = ("psnr_y",)
    recipe: TeacherRecipe

    def __init__(self, recipe: TeacherRecipe, pictures: Sequence[Picture] = ()) -> None:
        super().__init__(recipe)
        self.pictures = pictures
        self.teacher = Teacher()
        if recipe.start == "bicubic":
            for network in networks(self.teacher):
                start_as_bicubic(network)
        self.average_of(self.teacher)

    def training_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss for sharp crops (B, 3, H, W) in [0, 1]."""
        sharp = batch["clear"]
        return {"loss": restoration_loss(self.recipe.loss, upscale(self.teacher, halved(sharp)).to(sharp.dtype), sharp)}

    def validate(self, part: slice) -> list[dict[str, float]]:
        """PSNR by RULES of this part of the pictures."""
        return [{"psnr_y": score.psnr} for score in evaluate(self._averaged(), self.pictures[part])]

    def samples(self, count: int) -> list[tuple[Tensor, ...]]:
        """Triplets bicubic, output, sharp, each (3, H, W) in [0, 1]: from the pictures for validation, else the data."""
        if self.pictures:
            pairs = [picture.read() for picture in evenly(self.pictures, count)]
        else:
            size, step = self.recipe.phases[-1].size, self.recipe.steps  # a step that no training takes
            crops = [self.dataset[data.Draw(step, sample, size)]["clear"] for sample in range(count)]
            pairs = [(halved(crop[None])[0], crop) for crop in crops]
        return [(bicubic(small), run_teacher(self._averaged(), small), sharp) for small, sharp in pairs]

    def to_check(self) -> Sequence[data.Checked]:
        """What the recipe draws from, and the pictures."""
        assert isinstance(self.dataset, data.SharpCrops)
        return [*self.dataset.to_check(), *self.pictures]

    def make_dataset(self) -> data.SharpCrops:
        """What the recipe draws from."""
        odd = [phase.size for phase in self.recipe.phases if phase.size % 2]
        if odd:
            raise ValueError(f"crops of {odd[0]} pixels cannot be halved; choose an even number")
        return data.SharpCrops([folder.path for folder in self.recipe.folders], seed=self.recipe.seed)

    def _averaged(self) -> Teacher:
        assert isinstance(self.averaged, Teacher)
        return self.averaged


def networks(teacher: Teacher) -> tuple[DSCFSRCNN, ...]:
    """Of red, green and blue."""
    return teacher.red, teacher.green, teacher.blue


def halved(sharp: Tensor) -> Tensor:
    """(B, 3, 2H, 2W) -> (B, 3, H, W): bicubic with antialiasing (a = -0.5), rounded to 8 bits as small pictures come."""
    small = F.interpolate(sharp, scale_factor=0.5, mode="bicubic", antialias=True)
    return small.mul(255).round().clamp(0, 255).div(255)


def bicubic(small: Tensor) -> Tensor:
    """(3, H, W) -> (3, 2H, 2W): what the teacher is compared with, and starts as."""
    return F.interpolate(small[None], scale_factor=2, mode="bicubic", antialias=True)[0].clamp(0, 1)


@torch.no_grad()
def start_as_bicubic(network: DSCFSRCNN) -> None:
    """Make the first channel of all maps carry the picture unchanged, and the last layer enlarge it bicubically.

    The other channels add little at first. Started at random the network must learn the picture itself before detail.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight[0] = 0
            layer.weight[0, 0, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1
            layer.bias[0] = 0  # type: ignore[index]
    last = network.last_part
    nn.init.normal_(last.weight, std=0.001)
    distance = (2.25 - torch.arange(9) / 2).abs()  # of the taps from the output pixel, in pixels of the input
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = torch.where(distance < 1, near, far) * (distance < 2)  # Keys, a = -0.5
    last.weight[0, 0] = taps[:, None] * taps
    last.bias[:] = 0  # type: ignore[index]


def upscale(teacher: Teacher, image: Tensor) -> Tensor:
    """teacher(image), about twice as fast on a CPU: (B, 3, H, W) -> (B, 3, 2H, 2W).

    The transposed convolution is a convolution to four channels, one for each pixel of a 2 x 2 square.
    """

    def enlarge(network: DSCFSRCNN, maps: Tensor) -> Tensor:
        # Row 2 y + p of the output takes row y + d of the input times row p + 4 - 2 d of the kernel, d from -2 to 2.
        kernel = F.pad(network.last_part.weight[:, 0], (0, 1, 0, 1))  # (56, 10, 10)
        kernel = kernel.unflatten(1, (5, 2)).unflatten(3, (5, 2)).flip(1, 3)  # (56, d, p, d, p)
        kernel = kernel.permute(2, 4, 0, 1, 3).flatten(0, 1)  # (4, 56, 5, 5)
        bias = network.last_part.bias
        return F.pixel_shuffle(F.conv2d(maps, kernel, bias.expand(4), padding=2), 2)  # type: ignore[union-attr]

    return _by_channel(teacher, image, enlarge)


def pooled(teacher: Teacher, image: Tensor) -> Tensor:
    """avg_pool2d(teacher(image), POOL), in a third of the time: (B, 3, H, W) -> (B, 3, H // 4, W // 4).

    Enlarging and averaging are linear, so both together are one convolution with a stride of 4. Sides of 4 or more.
    """

    def enlarge(network: DSCFSRCNN, maps: Tensor) -> Tensor:
        # Row b of the result takes row 4 b - 2 + j of the input times the mean of rows 8 - 2 j to 15 - 2 j of the kernel.
        kernel = F.avg_pool2d(F.pad(network.last_part.weight, (6, 7, 6, 7)), POOL, stride=2)  # (56, 1, 8, 8)
        return F.conv2d(maps, kernel.flip(2, 3).transpose(0, 1), network.last_part.bias, stride=4, padding=2)

    return _by_channel(teacher, image, enlarge)


def _by_channel(teacher: Teacher, image: Tensor, enlarge: Callable[[DSCFSRCNN, Tensor], Tensor]) -> Tensor:
    """The three networks up to their last layer, which `enlarge` computes."""
    if teacher.scale != 2:
        raise ValueError(f"a x2 teacher expected, not x{teacher.scale}")
    results = []
    for network, channel in zip(networks(teacher), image.split(1, dim=1), strict=True):
        maps = network.first_part(channel.contiguous(memory_format=torch.channels_last))
        for layer in network.mid_part:
            maps = _at_once(layer, maps) if isinstance(layer, DepthwiseSeparableConv) else layer(maps)
        results.append(enlarge(network, maps))
    return torch.cat(results, dim=1)


def _at_once(layer: DepthwiseSeparableConv, maps: Tensor) -> Tensor:
    """Both convolutions of the layer as their product: for 12 channels more work, but one pass over the maps."""
    across = layer.pointwise.weight  # (outputs, inputs, 1, 1)
    kernel = across * layer.depthwise.weight.transpose(0, 1)  # (outputs, inputs, k, k)
    bias = across[:, :, 0, 0] @ layer.depthwise.bias + layer.pointwise.bias  # type: ignore[operator]
    return F.conv2d(maps, kernel, bias, padding=layer.depthwise.padding)


# ---- how good it is --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A sharp picture, and the small one, half its size, if there is a file of it."""

    sharp: Path
    small: Path | None

    @property
    def files(self) -> Sequence[data.File]:
        """Both, or the one that there is."""
        return [data.File(path) for path in (self.sharp, self.small) if path]

    def check(self, size: data.Sizes) -> None:
        """Raise ValueError if the small one is not half the size, but for an odd last row or column."""
        if self.small is None:
            return
        height, width = size(self.sharp)
        if size(self.small) != (height // 2, width // 2):
            small = size(self.small)
            raise ValueError(
                f"{self.small}: {small[1]} x {small[0]} pixels, but {self.sharp} has {width} x {height}; half of that "
                "expected"
            )

    def read(self) -> tuple[Tensor, Tensor]:
        """The small one (3, H, W) and the sharp one (3, 2H, 2W) in [0, 1]; an odd last row or column is left out.

        Raises:
            ValueError: if the small one is not half the size.
        """
        sharp = evaluation.read(self.sharp)
        even = sharp[:, : sharp.shape[1] // 2 * 2, : sharp.shape[2] // 2 * 2]
        if self.small is None:
            return halved(even[None])[0], even
        small = evaluation.read(self.small)
        self.check(lambda path: tuple((small if path == self.small else sharp).shape[1:]))  # type: ignore[arg-type,return-value]
        return small, even


@dataclass(frozen=True)
class Score:
    """PSNR in dB, by RULES, of bicubic enlargement and of the teacher."""

    sharp: Path
    bicubic_psnr: float
    psnr: float


def find_pictures(folder: Path) -> list[Picture]:
    """Pictures in FOLDER/HR with their small ones, of the same name, in FOLDER/LRx2; or just FOLDER's, to be halved.

    Raises:
        ValueError: if there are none, or a sharp one has no small one.
    """
    sharp_folder, small_folder = folder / "HR", folder / "LRx2"
    if not sharp_folder.is_dir():
        return [Picture(path, None) for path in data.find_photos(folder)]
    found = data.find_photos(sharp_folder)
    if not small_folder.is_dir():
        return [Picture(path, None) for path in found]
    small = {path.stem: path for path in data.pictures(small_folder)}
    for path in found:
        if path.stem not in small:
            raise ValueError(f"{path}: no picture of the same name in {small_folder}")
    return [Picture(path, small[path.stem]) for path in found]


def evaluate(teacher: Teacher, pictures: Iterable[Picture]) -> Iterator[Score]:
    """Score the teacher on each picture."""
    for picture in pictures:
        small, sharp = picture.read()
        yield Score(picture.sharp, psnr_y(bicubic(small), sharp), psnr_y(run_teacher(teacher, small), sharp))


def run_teacher(teacher: Teacher, small: Tensor) -> Tensor:
    """(3, H, W) -> (3, 2H, 2W), both in [0, 1]."""
    parameter = next(teacher.parameters())
    with torch.inference_mode():
        return upscale(teacher, small[None].to(parameter))[0].clamp(0, 1).to(small)


def psnr_y(image: Tensor, sharp: Tensor) -> float:
    """PSNR in dB between two pictures (3, H, W) in [0, 1], by RULES; sides of at least 5 pixels."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64)
    lumas = [
        16
        + torch.tensordot(weights, picture.double().mul(255).round().div(255), 1)[
            PSNR_BORDER:-PSNR_BORDER, PSNR_BORDER:-PSNR_BORDER
        ]
        for picture in (image, sharp)
    ]
    return float(peak_signal_noise_ratio(lumas[0], lumas[1], data_range=255.0))
