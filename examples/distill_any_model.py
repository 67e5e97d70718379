"""Distil a frozen teacher into a network of your own with the Feature Affinity Module.

Nothing here knows famkern's networks: affinities relate positions to positions, so that the two feature maps need the
same pooled grid and nothing else; channel counts and resolutions may differ.

    python examples/distill_any_model.py [steps]
"""

import sys

import torch
from torch import Tensor, nn

from famkern.ops.affinity import FeatureAffinityLoss


class UNet(nn.Module):
    """A small U: one level down and up again; returns its output and its hidden features at half resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.GELU())
        self.hidden = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU())
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.out = nn.Conv2d(width + 3, 3, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> [B, 3, H, W], [B, width, H / 2, W / 2]."""
        features = self.hidden(self.down(image))
        return self.out(torch.cat([self.up(features), image], 1)), features


def main(steps: int) -> None:
    """Train on a few random images under synthetic haze; print what the losses do."""
    torch.manual_seed(0)
    teacher, student = UNet(width=48).eval().requires_grad_(False), UNet(width=12)
    affinity = FeatureAffinityLoss(teacher_pool=4, student_pool=4, scale="rms", normalize=True)
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    clear = nn.functional.interpolate(torch.rand(4, 3, 8, 8), size=(48, 48), mode="bilinear")
    transmission = torch.rand(4, 1, 1, 1) * 0.6 + 0.3
    hazy = clear * transmission + 0.9 * (1 - transmission)
    _, wanted = teacher(clear)
    for step in range(steps):
        restored, features = student(hazy)
        mse, fam = (restored - clear).square().mean(), affinity(wanted, features)
        optimizer.zero_grad()
        (mse + 0.25 * fam).backward()
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step:4}   mse {mse.item():.4f}   affinity {fam.item():.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
