"""Train a small convolutional network under a memory budget, and see what was promised and what was taken.

python examples/train.py
"""

from __future__ import annotations

import torch
from torch import nn

import lowtide


def main(steps: int = 10) -> None:
    """Print the loss of every step and the memory table at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = torch.randn(16, 3, 64, 64), torch.randint(0, 10, (16,))

    @torch.compile(backend="lowtide", options={"budget": "256MiB"})
    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(x), y)

    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(images, labels)
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4f}")
    optimizer.zero_grad()
    print(lowtide.memory_analysis(lambda: loss_of(images, labels).backward()))


if __name__ == "__main__":
    main()
