"""The cluster file and the KubeRay example: by Ray's own checks, and by what the repository pins."""

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from curate import __version__
from curate.jobs.files import read_job

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "ray_cluster.yaml").read_text()
CLUSTER = yaml.safe_load(TEXT)
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Keys of AWS and the hub, private keys, variables with a secret's value, and anything as random.
SECRET = re.compile(
    r"AKIA\w{16}|hf_\w{20}|-----BEGIN|(TOKEN|KEY|SECRET|PASSWORD)=\w|\b(?=[a-zA-Z]*\d)[a-zA-Z0-9]{24,}\b"
)


def locked(package: str) -> str:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M))[package]


def check(config: dict[str, Any]) -> None:
    jsonschema.validate(config, SCHEMA)
    validate_config(prepare_config(copy.deepcopy(config)))


def test_ray_takes_the_cluster_file():
    check(CLUSTER)


@pytest.mark.parametrize("place", [(), ("auth",), ("docker",), ("available_node_types", "gpu")])
def test_ray_refuses_a_misspelled_key(place):
    config = copy.deepcopy(CLUSTER)
    section = config
    for name in place:
        section = section[name]
    key = next(iter(section))
    section[f"{key}x"] = section.pop(key)
    with pytest.raises(jsonschema.ValidationError, match=f"{key}x"):
        check(config)


def test_the_image_has_the_locked_ray_and_a_python_that_curate_takes():
    version, major, minor = re.fullmatch(r"\S+:([\d.]+)-py(\d)(\d+)\S*", CLUSTER["docker"]["image"]).groups()
    assert version == locked("ray")
    assert f"{major}.{minor}" in SpecifierSet(PROJECT["requires-python"])


def test_work_goes_to_workers_that_come_when_asked_for():
    head, gpu, cpu = (CLUSTER["available_node_types"][name] for name in (CLUSTER["head_node_type"], "gpu", "cpu"))
    assert head["resources"] == {"CPU": 0}
    assert gpu["resources"]["GPU"] >= 1
    assert "cpu_node" not in gpu["resources"]
    assert cpu["resources"]["cpu_node"] >= 1
    assert "GPU" not in cpu["resources"]
    assert gpu["min_workers"] == cpu["min_workers"] == 0
    assert gpu["max_workers"] + cpu["max_workers"] <= CLUSTER["max_workers"]


def test_file_mounts_are_there_and_enough_to_build_the_package():
    mounts = {local: remote for remote, local in CLUSTER["file_mounts"].items() if not local.startswith("~")}
    links = {link.resolve().relative_to(ROOT).parts[0] for link in (ROOT / "curate").rglob("*") if link.is_symlink()}
    needed = {"requirements.lock", "pyproject.toml", "curate", PROJECT["readme"], *PROJECT["license-files"], *links}
    assert needed <= set(mounts)
    for local, remote in mounts.items():
        assert (ROOT / local).exists(), local
        assert remote == f"/home/ray/curate/{local}"  # as here, for the links


def test_nodes_want_the_token_and_find_it_in_a_mount_from_outside_the_repository():
    environment = dict(re.findall(r"-e (\w+)=(\S+)", "\n".join(CLUSTER["docker"]["run_options"])))
    assert environment["RAY_AUTH_MODE"] == "token"
    assert CLUSTER["file_mounts"][environment["RAY_AUTH_TOKEN_PATH"]].startswith("~/")


@pytest.mark.parametrize(
    "text", ["-e HF_TOKEN=x", "key: AKIAIOSFODNN7EXAMPLE", "token: hf_abcdefghijklmnopqrstuvwx", f"token: {'0f' * 16}"]
)
def test_a_secret_would_be_found(text):
    assert SECRET.search(text)


def test_the_cluster_file_holds_no_secret():
    assert not SECRET.search(TEXT)


@pytest.fixture
def example() -> str:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.S)
    return next(block for block in blocks if "kind: RayJob" in block)


@pytest.fixture
def manifests(example) -> dict[str, Any]:
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(example)}


@pytest.fixture
def pods(manifests) -> list[dict[str, Any]]:
    """The head's, then the GPU workers'."""
    cluster = manifests["RayJob"]["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_the_rayjob_runs_a_job_file_on_the_locked_ray_and_the_same_image(manifests, pods, tmp_path):
    job = manifests["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == locked("ray")
    assert {pod["containers"][0]["image"] for pod in pods} == {CLUSTER["docker"]["image"]}
    assert f"/curate-{__version__}-" in job["spec"]["runtimeEnvYAML"]
    command, _, file = job["spec"]["entrypoint"].rpartition(" /jobs/")
    assert command == "python -m curate run"
    (tmp_path / file).write_text(manifests["ConfigMap"]["data"][file])
    [workers] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert read_job(tmp_path / file).resources.actors == workers["maxReplicas"]


def test_gpus_are_of_the_workers(manifests, pods):
    head, gpu = (pod["containers"][0]["resources"]["limits"] for pod in pods)
    assert "nvidia.com/gpu" not in head
    assert gpu["nvidia.com/gpu"] >= 1
    assert manifests["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_every_pod_has_job_file_shared_storage_and_memory(manifests, pods):
    claim = manifests["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted["/shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert mounted["/jobs"]["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
        assert mounted["/dev/shm"]["emptyDir"]["medium"] == "Memory"


def test_tokens_of_the_rayjob_come_from_secrets(example, manifests, pods):
    assert not SECRET.search(example)
    # With it the operator makes the Secret of RAY_AUTH_TOKEN and hands it to every container.
    assert manifests["RayJob"]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for pod in pods:
        environment = {variable["name"]: variable for variable in pod["containers"][0]["env"]}
        assert "RAY_AUTH_TOKEN" not in environment
        assert set(environment["HF_TOKEN"]) == {"name", "valueFrom"}
        assert environment["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["key"] == "token"
