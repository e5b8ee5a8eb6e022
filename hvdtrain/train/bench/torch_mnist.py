"""PyTorch's basic MNIST example as one process: `python -m hvdtrain.train.bench.torch_mnist SEED EPOCHS RESULT`.

Its network, optimizer, schedule and batch. PyTorch is given a good hand: batches are drawn by number from tensors in
memory, which beats the example's DataLoader. The same network in Keras is `hvdtrain.workshop.models:torch_example`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hvdtrain.fetch import fetch

BATCH_SIZE, TEST_BATCH_SIZE = 64, 1000
GAMMA = 0.7  # the learning rate's factor after each epoch
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels, as the example has them


def main() -> None:
    """Train and test, and write accuracy and seconds."""
    seed, epochs, result = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(seed)
    train, test = load()
    model = network()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=GAMMA)
    began = time.monotonic()
    for _ in range(epochs):
        train_epoch(model, optimizer, *train)
        accuracy = evaluate(model, *test)
        schedule.step()
    result.write_text(json.dumps({"accuracy": accuracy, "seconds": time.monotonic() - began}), encoding="utf-8")


Tensors = tuple[torch.Tensor, torch.Tensor]


def load() -> tuple[Tensors, Tensors]:
    """Return images (n, 1, 28, 28), normalised, and class numbers, for training and for testing."""
    with np.load(fetch("mnist", os.environ)) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}

    def part(name: str) -> Tensors:
        images = (arrays[f"x_{name}"].float() / 255 - MEAN) / DEVIATION
        return images[:, None], arrays[f"y_{name}"].long()

    return part("train"), part("test")


def network() -> nn.Module:
    """Return the example's network."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.LogSoftmax(1),
    )  # fmt: skip


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Use each example once, in a new order."""
    model.train()
    for places in torch.randperm(len(images)).split(BATCH_SIZE):
        optimizer.zero_grad()
        nn.functional.nll_loss(model(images[places]), labels[places]).backward()
        optimizer.step()


def evaluate(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of right answers."""
    model.eval()
    with torch.no_grad():
        seen = [model(batch).argmax(1) for batch in images.split(TEST_BATCH_SIZE)]
    return (torch.cat(seen) == labels).float().mean().item()


if __name__ == "__main__":
    main()
