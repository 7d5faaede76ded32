"""The benchmark of the methods runs from one command and finds what it should in a small setting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).resolve().parent.parent / "benchmarks" / "science"
PARTS = ("conditions", "false", "sizes", "experiments", "photometry", "gwac", "ablation", "cost", "real")
ALONE = ("references", "strata", "nights", "photutils", "lines", "calibrate", "training")


@pytest.mark.slow
def test_a_quick_run_fills_every_table(tmp_path, data_dir):
    environment = os.environ | {"AQDASK_TEST_DATA": str(data_dir), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(COMMAND), "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {row["condition"]: row for row in results["conditions"]}
    loud = rows["read noise 20 e-"]["methods"]["aqdask"]
    assert loud["auroc"]["value"] > 0.9
    assert rows["read noise 20 e-"]["methods"]["paper"]["auroc"]["value"] < 0.9
    assert {row["frames"] for row in results["false"]} >= {"exchangeable", "sky x 2"}
    assert {row["region"] for row in results["sizes"]} == {"64 px", "128 px", "256 px", "frame"}
    assert results["cost"]["gmac"]["encoder"] > 0
    assert (tmp_path / "tables.md").read_text().count("###") >= 8
    kept = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert {len(row["runs"]) for name, row in kept.items() if name == "cost"} == {2}
    assert "without the sky gradient" in (tmp_path / "training.md").read_text()
    for part in (*PARTS, *ALONE):
        assert f"\n{part}: " in ended.stdout
