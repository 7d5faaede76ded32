"""Specification of each quality group, from a bundle, the ledger or its arrays; and software versions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import zarr

from aqdask.errors import ModelError, UsageError
from aqdask.execution import config
from aqdask.execution.model_cache import default_precision
from aqdask.execution.versions import versions
from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import variables
from aqdask.specs import ArchiveSpec, PatchGrid
from aqdask.store import layout, quality_store
from aqdask.store.ledger import Ledger
from aqdask.store.quality_store import QualitySpec, QualityStore

# Variables that earlier releases gave, with the value for a frame that is scored now: "plain".
RETIRED: dict[str, Any] = {"centred": 0}
PRECISION = "precision"  # attribute of a quality group: of the network's numbers; fp32 where there is none
VERSIONS = "versions"  # attribute of a quality group: list of {package: version}, one for each that scored


def group_name(bundle: Bundle) -> str:
    """Return the name of the quality group of a model: ``<name>-<digest8>``."""
    return f"{bundle.name}-{bundle.digest[:8]}"


def spec_of(bundle: Bundle, archive: ArchiveSpec, precision: str = "") -> QualitySpec:
    """Describe the quality group of a bundle in an archive; earlier releases stated no precision."""
    attributes = {
        "model": bundle.name, "method": bundle.method, "model_sha256": bundle.digest,
        "patch": bundle.patch, "frame_shape": list(archive.shape),
    }  # fmt: skip
    if precision:
        attributes[PRECISION] = precision
    grid = PatchGrid(*archive.shape, bundle.patch)
    return QualitySpec(group_name(bundle), grid, archive.frames_per_shard, variables(bundle), attributes)


def precision_of(made: QualitySpec, bundle: Bundle) -> str:
    """Return the precision in which a quality group is scored: that of its first frames.

    Raises
    ------
    UsageError
        If ``aqdask.precision`` asks for another one.
    """
    found = str(made.attributes.get(PRECISION, "fp32"))
    wanted = config.get("precision")
    if wanted not in ("auto", found):
        default_precision(bundle)  # an unknown one has its own error
        raise UsageError(
            f"the setting aqdask.precision is {wanted!r}, but the maps of {made.name} are made in {found!r}",
            expected="one precision in a quality group, so that its maps are comparable",
            consequence="Nothing was scored",
            remedy="leave the setting out, or score into a new archive",
        )
    return found


def known(root: zarr.Group, ledger: Ledger) -> dict[str, QualitySpec]:
    """Describe all quality groups by name: those of the ledger, and those found in the archive.

    A group that the ledger does not list (layout 1, or a killed client) is described by the model stored in
    it, or without a model by its arrays.
    """
    found = {name: QualitySpec.of_record(record) for name, record in ledger.qualities.items()}
    archive = layout.read_spec(root)
    for name in quality_store.names(root):
        if name not in found:
            store = QualityStore(layout.group(root, f"quality/{name}"))
            made = _from_model(store, archive)
            found[name] = made if made and made.name == name else _as_found(store, name, archive)
    return found


def _from_model(store: QualityStore, archive: ArchiveSpec) -> QualitySpec | None:
    """Describe a group by the model stored in it, with variables that only earlier releases gave."""
    try:
        made = spec_of(Bundle.from_bytes(store.bundle()), archive)
    except ModelError:
        return None
    there = (name for name in RETIRED if layout.has_metadata(store.group.store_path / name, "array"))
    retired = tuple(store.describe(name) for name in there)
    return replace(made, variables=(*made.variables, *retired))


def _as_found(store: QualityStore, name: str, archive: ArchiveSpec) -> QualitySpec:
    attributes: dict[str, Any] = store.group.attrs.asdict()
    facts = {PRECISION: attributes[PRECISION]} if PRECISION in attributes else {}
    facts |= {n: attributes[n] for n in ("model", "method", "model_sha256", "patch", "frame_shape")}
    grid = PatchGrid(*archive.shape, facts["patch"])
    return QualitySpec(name, grid, archive.frames_per_shard, store.described(), facts)


def record_versions(group: zarr.Group) -> None:
    """Add the versions of this process to the list of those that made the maps of a group."""
    made: Any = group.attrs.get(VERSIONS, [])
    if versions() not in made:
        group.attrs[VERSIONS] = [*made, versions()]
