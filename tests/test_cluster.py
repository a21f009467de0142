"""The templates of cluster/ say what Prefect can read, and agree with one another."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

TOP = Path(__file__).resolve().parents[1]
TEMPLATE = json.loads((TOP / "cluster" / "kubernetes.json").read_text(encoding="utf-8"))
DEPLOYMENTS = {
    deployment["name"]: deployment
    for deployment in YAML(typ="safe").load(TOP / "cluster" / "prefect.yaml")["deployments"]
}
README = (TOP / "cluster" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_names_the_flow_and_a_pool_that_is_told_how_to_make(name: str) -> None:
    from prefect.flows import load_flow_from_entrypoint

    deployment = DEPLOYMENTS[name]
    file, _, function = deployment["entrypoint"].partition(":")
    assert load_flow_from_entrypoint(f"{TOP / file}:{function}").name == "techloop"
    pool = deployment["work_pool"]["name"]
    assert f"prefect work-pool create {pool} --type {name}" in README
    assert f"--prefect-file cluster/prefect.yaml --name {name}\n" in README
    assert f"prefect worker start --pool {pool}" in README
    assert f"prefect deployment run techloop/{name}" in README


def test_prefect_takes_the_template_and_each_of_its_variables_does_something() -> None:
    from prefect.server.schemas.actions import WorkPoolCreate
    from prefect.utilities.schema_tools.validation import is_valid, is_valid_schema

    # Refuses a template whose manifest has a variable that is not declared.
    WorkPoolCreate(name="pool", type="kubernetes", base_job_template=TEMPLATE)
    variables = TEMPLATE["variables"]
    is_valid_schema(variables)
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(TEMPLATE["job_configuration"])))
    assert used == set(variables["properties"])
    told = DEPLOYMENTS["kubernetes"]["work_pool"]["job_variables"]
    assert set(told) <= used
    assert is_valid(told, variables)
    assert not is_valid(told | {"gpus": "many"}, variables)


def test_a_job_has_its_gpus_and_what_is_mounted_where_the_image_looks() -> None:
    from prefect.utilities.templating import apply_values

    defaults = {
        name: value["default"]
        for name, value in TEMPLATE["variables"]["properties"].items()
        if "default" in value
    }
    job = apply_values(TEMPLATE["job_configuration"], defaults | {"image": "some", "gpus": 4})
    pod = job["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert "serviceAccountName" not in pod
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}

    image = (TOP / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    assert f"WORKDIR {mounts['checkout']}\n" in image
    assert f"PYTHONPATH={mounts['checkout']} " in image
    assert "--require-hashes" in image
    for name in ("docker", "kubernetes"):
        (step,) = DEPLOYMENTS[name]["pull"]
        assert {"directory": mounts["checkout"]} in step.values()
    docker = DEPLOYMENTS["docker"]["work_pool"]["job_variables"]
    assert docker["volumes"][0].endswith(f":{mounts['checkout']}")
    assert f"dvc cache dir --local {mounts['cache']}" in README
