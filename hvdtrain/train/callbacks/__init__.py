"""Keras callbacks that keep ranks together: one state at the start, global metrics, proof of sync, rank-0 files."""

from __future__ import annotations

from hvdtrain.train.callbacks.agree import AgreeStop, on_this_rank
from hvdtrain.train.callbacks.global_metrics import GlobalMetrics, global_results
from hvdtrain.train.callbacks.memory import Memory
from hvdtrain.train.callbacks.resume import Resume
from hvdtrain.train.callbacks.saver import Saver
from hvdtrain.train.callbacks.setup import Setup
from hvdtrain.train.callbacks.sync_proof import SyncProof

__all__ = [
    "AgreeStop",
    "GlobalMetrics",
    "Memory",
    "Resume",
    "Saver",
    "Setup",
    "SyncProof",
    "global_results",
    "on_this_rank",
]
