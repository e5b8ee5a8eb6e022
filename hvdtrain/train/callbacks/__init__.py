"""Keras callbacks that keep ranks together: one state at the start, global metrics, proof of sync, rank-0 files."""

from __future__ import annotations

from hvdtrain.train.callbacks.agree import AgreeStop
from hvdtrain.train.callbacks.finite import Finite
from hvdtrain.train.callbacks.global_metrics import GlobalMetrics, global_results
from hvdtrain.train.callbacks.memory import Memory
from hvdtrain.train.callbacks.resume import Resume
from hvdtrain.train.callbacks.saver import Saver
from hvdtrain.train.callbacks.setup import Setup
from hvdtrain.train.callbacks.sync_proof import SyncProof
from hvdtrain.train.callbacks.tell_epoch import TellEpoch, WeighUneven
from hvdtrain.train.callbacks.users_own import check_callbacks, flat, on_this_rank

__all__ = [
    "AgreeStop",
    "Finite",
    "GlobalMetrics",
    "Memory",
    "Resume",
    "Saver",
    "Setup",
    "SyncProof",
    "TellEpoch",
    "WeighUneven",
    "check_callbacks",
    "flat",
    "global_results",
    "on_this_rank",
]
