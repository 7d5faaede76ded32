"""The group of commands; each is imported when it is called."""

from __future__ import annotations

import importlib

import click

from aqdask.version import __version__

COMMANDS = {
    "run": "ingest",
    "ingest": "ingest",
    "verify": "ingest",
    "info": "info",
    "select": "model",
    "train": "model",
    "calibrate": "model",
    "score": "model",
    "compare": "products",
    "mask": "products",
    "export": "products",
    "simulate": "demo",
    "demo": "demo",
}


class LazyGroup(click.Group):
    """A group whose commands load on demand, in the order of a user's way through them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from its module."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"aqdask.cli.{COMMANDS[cmd_name]}")
        return getattr(module, cmd_name)


@click.group(
    name="aqdask",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="aqdask")
def aqdask() -> None:
    """Patch quality scores and masks for archives of large astronomical frames, on Dask.

    \b
    A first run:
      aqdask ingest night/ night.zarr
      aqdask calibrate night.zarr --model wide-field --out camera.safetensors
      aqdask score night.zarr --model camera.safetensors
      aqdask export night.zarr masks/ --alpha 0.01

    Exit codes: 0 every frame done; 1 finished, some frames quarantined; 2 usage; 3 could not finish
    (disk, cluster, archive); 130 interrupted. Every command that was cut short resumes when it is run again.
    Settings: Dask's configuration under `aqdask:`.
    """


def main() -> None:
    """Entry point of the ``aqdask`` script."""
    aqdask(prog_name="aqdask")
