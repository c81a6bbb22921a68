"""The Kubernetes manifest, by the schemas of KubeRay's own resource definitions."""

from __future__ import annotations

import copy
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "cluster/kuberay.yaml"


def definitions() -> Path | None:
    """The folder of KubeRay's definitions: ABLATE_KUBERAY, or shared/data/kuberay beside or above the checkout."""
    if named := os.environ.get("ABLATE_KUBERAY"):
        return Path(named)
    folders = (folder / "shared/data/kuberay" for folder in ROOT.parents)
    return next((folder for folder in folders if folder.is_dir()), None)


def strict(schema: Any, root: bool = True) -> Any:
    """The schema with every unknown field an error, as Kubernetes' own strict validation has it."""
    if isinstance(schema, list):
        return [strict(part, False) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        name: {field: strict(part, False) for field, part in value.items()}
        if name == "properties"
        else strict(value, False)
        for name, value in schema.items()
    }
    if closed.get("type") == "object" and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if root:
        # The resource's own metadata is described elsewhere.
        closed["properties"]["metadata"] = {"type": "object"}
    return closed


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft7Validator:
    folder = definitions()
    if folder is None or not (folder / "ray.io_rayjobs.yaml").is_file():
        pytest.skip("KubeRay's resource definitions are not here: set ABLATE_KUBERAY to their folder")
    # The C loader reads 1.4 MB in half a second, the other one in ten.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load((folder / "ray.io_rayjobs.yaml").read_text(), loader)
    (version,) = (version for version in definition["spec"]["versions"] if version["storage"])
    assert version["name"] == "v1"
    return jsonschema.Draft7Validator(strict(version["schema"]["openAPIV3Schema"]))


@pytest.fixture
def manifests() -> dict[str, dict[str, Any]]:
    return {part["kind"]: part for part in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.fixture
def job(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return copy.deepcopy(manifests["RayJob"])


def test_the_job_is_what_kuberay_takes(job: dict[str, Any], schema: jsonschema.Draft7Validator) -> None:
    assert job["apiVersion"] == "ray.io/v1"
    schema.validate(job)


@pytest.mark.parametrize(
    "place",
    [
        ("spec",),
        ("spec", "rayClusterSpec"),
        ("spec", "rayClusterSpec", "authOptions"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "lifecycle"),
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volumes", 0),
    ],
)
def test_a_field_that_kuberay_does_not_know_is_found(
    job: dict[str, Any], schema: jsonschema.Draft7Validator, place: tuple[str | int, ...]
) -> None:
    part: Any = job
    for step in place:
        part = part[step]
    part["terminationGraceSeconds"] = 5
    with pytest.raises(jsonschema.ValidationError, match="terminationGraceSeconds"):
        schema.validate(job)


def test_a_value_of_another_type_is_found(job: dict[str, Any], schema: jsonschema.Draft7Validator) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(jsonschema.ValidationError, match="is not of type 'string'"):
        schema.validate(job)


def test_all_pods_see_one_volume_that_many_nodes_write(
    manifests: dict[str, dict[str, Any]], job: dict[str, Any]
) -> None:
    claim = manifests["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert claims == {"shared": claim["metadata"]["name"]}
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_study_is_one_command_and_its_folders_are_the_volumes(job: dict[str, Any]) -> None:
    """KubeRay's job submits by a shell line of which the entrypoint is a part: a shell sees all of it."""
    line = f"if true ; then ray job submit -- {job['spec']['entrypoint']} ; fi"
    tools = 'ray() { shift 3; echo "submitted: $*"; }; ablate() { echo "outside: $*"; }; cd() { ablate "$@"; }'
    done = subprocess.run(["bash", "-c", f"{tools}; {line}"], capture_output=True, text=True, check=True)
    (submitted,) = done.stdout.splitlines()
    assert submitted.startswith("submitted: ablate run paper --address auto ")
    words = submitted.split()
    for name in ("runs", "data"):
        assert words[words.index(f"--{name}") + 1] == f"/shared/{name}"


def test_a_worker_that_ends_drains_its_cells_in_time(job: dict[str, Any]) -> None:
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["ablate", "drain", "--runs", "/shared/runs"]
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_ray_is_the_locked_one(job: dict[str, Any]) -> None:
    locked = (ROOT / "requirements.lock").read_text().splitlines()
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}" in locked
