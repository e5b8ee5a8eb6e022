"""How ranks start: one file per dialect, looked up by name. Rendering only; nothing here probes the machine."""

from __future__ import annotations

from hvdtrain.launch.direct import DirectLauncher
from hvdtrain.launch.horovodrun import HorovodrunLauncher
from hvdtrain.launch.hydra import IntelMpiLauncher, MpichLauncher
from hvdtrain.launch.openmpi import OpenMpi4Launcher, OpenMpi5Launcher
from hvdtrain.launch.request import Launcher, LaunchRequest
from hvdtrain.launch.srun import NativeLauncher, SrunLauncher

LAUNCHERS: dict[str, Launcher] = {
    launcher.name: launcher
    for launcher in (
        OpenMpi5Launcher(),
        OpenMpi4Launcher(),
        MpichLauncher(),
        IntelMpiLauncher(),
        SrunLauncher(),
        NativeLauncher(),
        HorovodrunLauncher(),
        DirectLauncher(),
    )
}

__all__ = ["LAUNCHERS", "LaunchRequest", "Launcher"]
