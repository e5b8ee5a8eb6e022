"""The same models in PyTorch, one process or DistributedDataParallel: what a user could take instead of Keras.

PyTorch is given a good hand: batches are drawn by number from tensors in memory, which beats a DataLoader, Adam is the
fused one, and losses stay tensors until the epoch ends.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hvdtrain.bench.task import Task
from hvdtrain.launch.rank import RankInfo
from hvdtrain.train.bench.stopwatch import Stopwatch
from hvdtrain.train.data import EpochBatches


def start(info: RankInfo, task: Task) -> None:
    """Use the cores this process is bound to, and join the other ranks over Gloo."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if info.size > 1:
        place = Path(task.directory, "torch_store")
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{place}", rank=info.rank, world_size=info.size
        )


def build(name: str) -> nn.Module:
    """Return the model of `hvdtrain.workshop.models`, with as many parameters."""
    torch.manual_seed(0)
    if name == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip
    width = int(name.removeprefix("fc"))
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def train(name: str, batches: EpochBatches, task: Task, stopwatch: Stopwatch, *, arrays: Any) -> None:
    """Train one model until the stopwatch has what it needs."""
    images = torch.from_numpy(np.moveaxis(np.asarray(arrays[0]), -1, 1).copy())
    labels = torch.from_numpy(np.asarray(arrays[1]).copy())
    model: nn.Module = build(name)
    if torch.distributed.is_initialized():
        model = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    compute_loss = nn.CrossEntropyLoss()
    epoch = 0
    while True:
        loss_sum, num_right = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for number, places in enumerate(torch.from_numpy(batches.order.batches(epoch).astype(np.int64)), start=1):
            x, y = images[places], labels[places]
            optimizer.zero_grad()
            predicted = model(x)
            loss = compute_loss(predicted, y)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            num_right += (predicted.detach().argmax(1) == y).sum()
            if number % task.steps_per_execution == 0 and stopwatch.execution_done():
                return
        loss_sum.item(), num_right.item()  # an epoch's log line would show them
        epoch += 1
