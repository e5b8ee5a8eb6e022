"""Starting the one process without a launcher."""

from __future__ import annotations

from hvdtrain.launch.request import LaunchRequest, Setting


class DirectLauncher:
    """No launcher: the worker is started as it is. One process only."""

    name = "none"
    title = "no launcher"

    def tokens(self, request: LaunchRequest) -> list[Setting]:
        """Return nothing: the worker's own command is the whole command line."""
        return []

    def environment(self, request: LaunchRequest) -> list[Setting]:
        """Return nothing."""
        return []
