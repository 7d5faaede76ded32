"""TLS between client, scheduler and workers: certificates of the user, or temporary ones for one run."""

from __future__ import annotations

from pathlib import Path

from distributed.security import Security

from aqdask.errors import ClusterError, UsageError
from aqdask.execution import config

TEMPORARY = "temporary"
FILES = {"tls_ca_file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}  # of a folder of certificates
ROLES = ("client", "scheduler", "worker")


def security(*, starts_scheduler: bool = True) -> Security | None:
    """Return the certificates that ``aqdask.tls`` names; None for what Dask's configuration says.

    Raises
    ------
    UsageError
        For a folder without the three files, or temporary certificates for a scheduler that runs already.
    ClusterError
        If temporary certificates cannot be made.
    """
    given = config.get("tls")
    if not given:
        return None
    if given != TEMPORARY:
        return _of_folder(Path(str(given)).expanduser().absolute())
    if not starts_scheduler:
        raise UsageError(
            "--tls temporary with the address of a scheduler",
            expected="--tls FOLDER with the certificates of that scheduler",
            consequence="Nothing was done",
            remedy="name their folder, or set distributed.comm.tls in Dask's configuration",
        )
    try:
        return Security.temporary()
    except ImportError as error:
        raise ClusterError(
            "--tls temporary needs the package cryptography",
            expected="that package, for certificates of one run",
            consequence="Nothing was done",
            remedy="pip install cryptography (the extra `tls` of aqdask), or name a folder of certificates",
        ) from error


def _of_folder(folder: Path) -> Security:
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"--tls {folder} holds no {', '.join(missing)}",
            expected=f"'{TEMPORARY}', or a folder with {', '.join(FILES.values())}",
            consequence="Nothing was done",
            remedy="check the folder; README.md in cluster/ shows how the files are made",
        )
    paths = {"tls_ca_file": str(folder / FILES["tls_ca_file"])}
    paths |= {f"tls_{role}_{what}": str(folder / FILES[what]) for role in ROLES for what in ("cert", "key")}
    return Security(require_encryption=True, **paths)
