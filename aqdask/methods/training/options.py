"""Tables of training options, with a line of help for each name; nothing here loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ARCHITECTURES: dict[str, str] = {
    "plain": "encoder, bottleneck and decoder",
    "skip": "activations of the encoder are added to those of the decoder, past the bottleneck",
    "attention": "self-attention between the cells of a patch, before the bottleneck",
}
NORMS: dict[str, str] = {
    "batch": "batch normalisation, free when scoring",
    "group": "group normalisation of each patch by itself",
    "none": "no normalisation",
}
AUGMENTATIONS: dict[str, str] = {
    "flips": "flips",
    "rotations": "rotations",
    "background": "background of up to 1 sigma",
    "noise": "noise of up to 0.3 sigma",
    "flux": "flux of 0.7 to 1",
    "scale": "scale of 0.9 to 1.1",
}
DEPTHS = range(1, 6)  # halvings of the patch by convolutions
WIDTHS = range(4, 257, 4)  # channels at the first of them


@dataclass(frozen=True)
class NetworkOptions:
    """Options of an autoencoder, as a bundle records them.

    Parameters
    ----------
    architecture : str
        Name in `ARCHITECTURES`.
    depth : int
        In `DEPTHS`.
    width : int
        In `WIDTHS`; deeper layers have multiples of it.
    norm : str
        Name in `NORMS`.
    """

    architecture: str
    depth: int
    width: int
    norm: str

    def is_known(self) -> bool:
        """Return True if every option is in its table or range."""
        return (
            self.architecture in ARCHITECTURES
            and self.depth in DEPTHS
            and self.width in WIDTHS
            and self.norm in NORMS
        )

    def stored(self) -> dict[str, str | int]:
        """Return plain JSON, as a bundle records it."""
        return asdict(self)

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> NetworkOptions:
        """Restore what a bundle records; `ValueError` for sizes out of range and unknown names."""
        found = cls(**stored)
        if not found.is_known():
            raise ValueError(f"the network {dict(stored)} is not one that this release knows")
        return found


def augmentations(text: str) -> tuple[str, ...] | None:
    """Split names joined by '+', in the order of the table; 'none' for none of them, None for other words."""
    names = [] if text == "none" else text.split("+")
    if len(set(names)) < len(names) or not AUGMENTATIONS.keys() >= set(names):
        return None
    return tuple(name for name in AUGMENTATIONS if name in names)
