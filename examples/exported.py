"""Plan an exported program whose batch size varies: each size is planned when it is first seen.

python examples/exported.py
"""

from __future__ import annotations

import torch
from torch import nn

import lowtide


def main() -> None:
    """Compare with the exported module itself over a few batch sizes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 8)).eval()
    batch = torch.export.Dim("batch", min=2, max=512)
    program = torch.export.export(model, (torch.randn(4, 64),), dynamic_shapes=({0: batch},))
    planned = lowtide.compile_exported(program)
    for size in (4, 32, 7):
        x = torch.randn(size, 64)
        torch.testing.assert_close(planned(x), model(x))
    print(lowtide.memory_analysis())


if __name__ == "__main__":
    main()
