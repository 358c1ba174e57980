"""Codecs: how a pose becomes numbers that a network is asked for, and how its answer becomes a pose again.

A codec has `encode`, `loss` and `decode`; the training loop knows nothing else about a task. `decode(encode(pose))`
is the pose, to float precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from posebook.skeleton import ABSENT


@dataclass(frozen=True)
class Coordinates:
    """The regression target of paper A: joint coordinates over the side of the crop, (x, y) / size.

    Attributes:
        joints: number of joints J; the network's head has 2 J outputs, x and y of each joint in turn.
        size: side of the network's input in pixels.
    """

    joints: int
    size: int

    @property
    def outputs(self) -> int:
        return 2 * self.joints

    def encode(self, joints: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pose to target.

        Joints outside the picture are left out, as in the authors' code: the network cannot see them.

        Args:
            joints: (N, J, 2) in input pixels; state: (N, J).

        Returns:
            target (N, 2 J) float32, and mask (N, 2 J) float32, 1 where the number counts.
        """
        inside = ((joints > -0.5) & (joints < self.size - 0.5)).all(dim=-1)
        mask = (inside & (state != ABSENT)).float().repeat_interleave(2, dim=1)
        return joints.flatten(1) / self.size, mask

    def loss(self, output: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the numbers that count; zero if none does. Computed in float32."""
        return ((output.float() - target) ** 2 * mask).sum() / mask.sum().clamp(min=1)

    def decode(self, output: torch.Tensor) -> torch.Tensor:
        """Network output (N, 2 J) to joints (N, J, 2) in input pixels."""
        return output.float().reshape(len(output), self.joints, 2) * self.size
