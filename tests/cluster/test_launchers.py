"""The cluster launcher's files, by Ray's own schema and by what must hold for a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.resource_demand_scheduler import _fits
from ray.autoscaler._private.util import prepare_config, validate_config

from suite import estimate, plan
from suite.config import Placement
from suite.room import need

ROOT = Path(__file__).parents[2]
LAUNCHERS = ("on_premises", "aws", "gcp")
CLOUDS = ("aws", "gcp")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


def test_ray_takes_it(launcher: dict[str, Any]) -> None:
    validate_config(prepare_config(launcher))


def test_rays_schema_finds_a_wrong_field(launcher: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="idle_minutes"):
        validate_config(prepare_config(launcher | {"idle_minutes": 5}))


def test_head_and_workers_start_ray_and_meet(launcher: dict[str, Any]) -> None:
    head, worker = launcher["head_start_ray_commands"], launcher["worker_start_ray_commands"]
    assert head[0] == worker[0] == "ray stop"
    assert "ray start --head --port=6379" in head[1]
    # Without it nothing scales; the launcher writes the file.
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head[1]
    assert "ray start --address=$RAY_HEAD_IP:6379" in worker[1]
    # The dashboard runs what anybody asks it to.
    assert "--dashboard-host" not in " ".join(head)


def test_nodes_get_the_code_and_the_token_and_nothing_large(launcher: dict[str, Any]) -> None:
    mounts = launcher["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    for there, here in mounts.items():
        assert there == f"~/ablate/{here}"
        assert (ROOT / here).exists()
    needed = {"suite", "ablations", "reports", "cluster", "pyproject.toml", "requirements.lock", "README.md"}
    assert needed <= set(mounts.values())
    assert not {".venv", "runs", "data", "."} & set(mounts.values())


def test_nodes_share_a_folder_and_install_what_is_locked(launcher: dict[str, Any]) -> None:
    (command,) = launcher["setup_commands"]
    assert command.startswith("~/ablate/cluster/setup_node.sh /")
    if launcher["provider"]["type"] != "local":
        _, shared, export = command.split()[:3]
        assert shared == "/mnt/ablate"
        assert ":/" in export


@pytest.mark.parametrize("cloud", CLOUDS)
def test_gpu_workers_are_spot_machines_around_a_head_that_stays(cloud: str) -> None:
    config = read(cloud)
    kinds = config["available_node_types"]
    head = kinds.pop(config["head_node_type"])
    (worker,) = kinds.values()
    assert head["resources"] == {"CPU": 0}
    assert worker["resources"]["GPU"] == 1
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    if cloud == "aws":
        assert "InstanceMarketOptions" not in head["node_config"]
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    else:
        assert "scheduling" not in head["node_config"]
        assert worker["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
        assert worker["node_config"]["scheduling"]["onHostMaintenance"] == "TERMINATE"
    assert f"on_preemption.sh {cloud} " in config["worker_start_ray_commands"][-1]
    assert config["idle_timeout_minutes"] <= 10


def test_the_autoscaler_knows_that_a_cell_fits_on_a_gcp_worker() -> None:
    """Ray fills in the memory of AWS's instance types by itself and of no others; cells ask for theirs."""
    worker = prepare_config(read("gcp"))["available_node_types"]["spot_gpu"]
    vqa2 = {"answers": 3129, "vocabulary": 30522, "features": 2048}
    for cell in plan.load_study("paper", {}).cells:
        needed = need(Placement(gpus=1.0), estimate.memory(cell, vqa2, gpus=1.0))
        assert needed["memory"] > 0
        assert _fits(worker["resources"], needed)


def test_on_premises_all_machines_are_used() -> None:
    config = read("on_premises")
    machines = len(config["provider"]["worker_ips"])
    assert (config["min_workers"], config["max_workers"]) == (machines, machines)


def test_what_ray_needs_beyond_the_lock_is_pinned_once() -> None:
    def names(file: Path) -> set[str]:
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        assert all("==" in line for line in lines)
        return {line.split("==")[0].lower().replace("_", "-") for line in lines}

    ours, more = names(ROOT / "requirements.lock"), names(ROOT / "cluster/requirements.lock")
    assert {"aiohttp", "grpcio", "boto3", "google-api-python-client"} <= more
    assert not ours & more
