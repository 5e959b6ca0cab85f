"""torch's elastic launcher."""

from swift.api import LauncherSpec, hookimpl


@hookimpl
def swift_launchers():
    return [
        LauncherSpec(
            name="torchrun",
            impl="swift_launcher_torchrun.launcher:Torchrun",
            settings="swift_launcher_torchrun.settings:TorchrunSettings",
            summary="Processes on this machine (and its peers) through torch's elastic multiprocessing.",
            aliases=("elastic",),
        )
    ]
