"""Files below cluster/ that cannot be run here: a manifest for Kubernetes, settings for PBS."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import dask
import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "tests/data/kubernetes/daskcluster.json").read_text())
MANIFEST = yaml.safe_load((ROOT / "cluster/kubernetes.yaml").read_text())


def test_the_manifest_is_what_the_operator_takes():
    jsonschema.validate(MANIFEST, SCHEMA)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("kind",), "DaskJob"),
        (("spec", "worker", "replica"), 4),
        (("spec", "worker", "replicas"), "four"),
        (("spec", "scheduler", "spec", "containers", 0, "arg"), []),
        (("spec", "worker", "spec", "containers", 0, "resources", "limits"), "2Gi"),
        (("spec", "scheduler", "service", "ports", 0, "port"), "8786/tcp"),
    ],
)
def test_the_schema_refuses_what_the_operator_would_not_understand(place, value):
    wrong = copy.deepcopy(MANIFEST)
    part = wrong
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError, match=re.escape(str(place[-1]))):
        jsonschema.validate(wrong, SCHEMA)


def test_the_service_finds_the_scheduler_and_ports_have_their_names():
    spec = MANIFEST["spec"]
    named = {port["name"] for port in spec["scheduler"]["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in spec["scheduler"]["service"]["ports"]} == named
    assert spec["scheduler"]["service"]["selector"]["dask.org/cluster-name"] == MANIFEST["metadata"]["name"]


def test_pbs_settings_are_those_of_dask_jobqueue_and_give_a_job_script():
    core = pytest.importorskip("dask_jobqueue")
    loaded = yaml.safe_load((ROOT / "cluster/pbs.yaml").read_text())
    known = yaml.safe_load((Path(core.__file__).parent / "jobqueue.yaml").read_text())["jobqueue"]["pbs"]
    given = loaded["jobqueue"]["pbs"]
    assert given.keys() <= known.keys()
    merged = dask.config.merge({"jobqueue": {"pbs": known}}, loaded)
    with dask.config.set(merged):
        job = core.pbs.PBSJob("tcp://10.0.0.1:8786", "aqdask-0", queue=given["queue"])
        script = job.job_script()
    for line in (
        "#PBS -q workq",
        "#PBS -l select=1:ncpus=8:mem=16gb",
        "#PBS -l walltime=04:00:00",
        "#PBS -r y",
    ):
        assert line in script
    assert "--nthreads 1 --memory-limit 2.00GiB --nworkers 8" in script
    assert "--lifetime 230m --lifetime-stagger 5m --dashboard-address 127.0.0.1:0" in script
    assert "MEMORY__SPILL=False" in script
