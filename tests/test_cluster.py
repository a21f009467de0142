"""The templates of cluster/ are valid for Prefect, agree with one another, and the image works."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
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
def test_a_deployment_names_the_flow_and_a_pool_that_the_readme_creates(name: str) -> None:
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
    given = DEPLOYMENTS["kubernetes"]["work_pool"]["job_variables"]
    assert set(given) <= used
    assert is_valid(given, variables)
    assert not is_valid(given | {"gpus": "many"}, variables)


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

    image = dockerfile()
    assert image["WORKDIR"] == [mounts["checkout"]]
    assert f"PYTHONPATH={mounts['checkout']}" in image["ENV"][0].split()
    for name in ("docker", "kubernetes"):
        (step,) = DEPLOYMENTS[name]["pull"]
        assert {"directory": mounts["checkout"]} in step.values()
    docker = DEPLOYMENTS["docker"]["work_pool"]["job_variables"]
    assert docker["volumes"][0].endswith(f":{mounts['checkout']}")
    assert f"dvc cache dir --local {mounts['cache']}" in README


def dockerfile() -> dict[str, list[str]]:
    """The Dockerfile's instructions, each with its arguments in order."""
    text = (TOP / "cluster" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    instructions: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, arguments = line.partition(" ")
            instructions.setdefault(name, []).append(arguments)
    return instructions


def test_the_image_installs_the_lock_and_checks_its_hashes() -> None:
    image = dockerfile()
    [install] = [command for command in image["RUN"] if "pip install" in command]
    [source, target] = image["COPY"][0].split()
    assert (TOP / source).is_file()
    assert install.split()[-2:] == ["--requirement", f"{target}{source}"]
    assert "--require-hashes" in install.split()


@pytest.fixture
def image(tmp_path: Path) -> dict[str, str]:
    """The environment of the image: the locked packages and a mounted checkout, not installed."""
    packages, checkout = tmp_path / "packages", tmp_path / "techloop"
    packages.mkdir()
    checkout.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        # An installed techloop, and `.pth` files, which only site-packages would obey.
        if "techloop" not in path.name and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    for name in ("techloop", "stages", "cluster", "dvc.yaml", "params.yaml"):
        (checkout / name).symlink_to(TOP / name)
    variables = dict(pair.split("=") for pair in dockerfile()["ENV"][0].split())
    mounted = {"/techloop": str(checkout)}
    python_path = [mounted[variables.pop("PYTHONPATH")], str(packages)]
    path = {"PYTHONPATH": os.pathsep.join(python_path), "PATH": os.environ["PATH"]}
    return variables | path | {"HOME": str(tmp_path), "CHECKOUT": str(checkout)}


def test_techloop_and_its_stages_run_in_the_image(image: dict[str, str]) -> None:
    script = textwrap.dedent("""
        import importlib, importlib.metadata, pathlib
        try:
            importlib.metadata.version("techloop")
            raise SystemExit("techloop is installed, so this tests nothing")
        except importlib.metadata.PackageNotFoundError:
            pass
        import techloop
        assert pathlib.Path(techloop.__file__).parent == pathlib.Path.cwd() / "techloop"
        assert techloop.__version__
        for file in sorted(pathlib.Path("stages").glob("*.py")):
            importlib.import_module(f"stages.{file.stem}".removesuffix(".__init__"))
        from techloop.tracking.provenance import versions
        assert versions()["techloop"] == techloop.__version__
        from prefect.flows import load_flow_from_entrypoint
        import sys
        print(load_flow_from_entrypoint(sys.argv[1]).name)
    """)
    entrypoint = DEPLOYMENTS["docker"]["entrypoint"]
    # -S: without site-packages, where techloop is installed for the tests.
    ran = subprocess.run(
        [sys.executable, "-S", "-c", script, entrypoint],
        cwd=image["CHECKOUT"],
        env=image,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "techloop\n"
