"""The files of ``deploy/`` are what their readers take: compose's schema, Dagster's instance, Caddy, Dagster+."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from emotion_assets_tests.conftest import PROJECT
from emotion_assets_tests.deploy.services import DEPLOY, MODULES, compose, instance_yaml
from emotion_assets_tests.docs.pages import blocks

SERVICES = compose()["services"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_obey_the_compose_specification(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_code_server_and_the_proxy_mount_the_home_and_the_proxy_reads_it() -> None:
    mounted = {
        name: volume
        for name, service in SERVICES.items()
        for volume in service["volumes"]
        if volume.startswith("home:")
    }
    assert mounted == {"code": "home:/var/lib/emotion_assets", "proxy": "home:/srv/home:ro"}
    assert "replicas" not in str(SERVICES["code"])
    assert "EMOTION_HOME=/var/lib/emotion_assets" in DOCKERFILE


def test_only_the_proxy_can_be_reached_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]


def test_every_variable_without_a_default_stands_in_the_example(tmp_path: Path) -> None:
    lines = (DEPLOY / "env.example").read_text(encoding="utf-8").splitlines()
    named = {line.partition("=")[0] for line in lines if not line.startswith("#")}
    used = set(re.findall(r"\$\{(\w+)[:}]", (DEPLOY / "compose.yaml").read_text(encoding="utf-8")))
    assert named == used


def test_what_the_image_copies_and_runs_is_there() -> None:
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (PROJECT / source).exists(), source
    (joined,) = re.findall(r"cat (\S+ \S+) >", DOCKERFILE)
    assert joined == "dagster.yaml deploy/dagster.storage.yaml"
    ignored = (PROJECT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {"deploy/.env", "deploy/secrets", "data/*", "!data/sample"} <= set(ignored)
    extras = re.search(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert extras and re.search(rf"^{extras[1]} = \[", (PROJECT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)


def read_instance(text: str, folder: Path) -> dict[str, Any]:
    """The settings of an instance, checked by Dagster's own schema."""
    from dagster._core.instance.config import dagster_instance_config

    (folder / "dagster.yaml").write_text(text, encoding="utf-8")
    config, _ = dagster_instance_config(str(folder))
    return dict(config)


def test_the_instance_is_the_projects_own_with_its_history_in_postgres(tmp_path: Path) -> None:
    own = read_instance((PROJECT / "dagster.yaml").read_text(encoding="utf-8"), tmp_path)
    deployed = read_instance(instance_yaml(), tmp_path)
    storage = deployed.pop("storage")["postgres"]["postgres_db"]
    assert deployed == {key: value for key, value in own.items() if key != "storage"}
    variables = {value["env"] for value in storage.values() if isinstance(value, dict)}
    assert variables == {name for name in SERVICES["daemon"]["environment"] if name.startswith("DAGSTER_PG_")}


def test_the_instances_storage_is_what_dagster_postgres_takes() -> None:
    storage = pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed")
    from dagster._config import process_config

    config = yaml.safe_load((DEPLOY / "dagster.storage.yaml").read_text("utf-8"))["storage"]["postgres"]
    variables = {name: "5432" for name in SERVICES["daemon"]["environment"] if name.startswith("DAGSTER_PG_")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        done = process_config(storage.DagsterPostgresStorage.config_type(), config)
    assert done.success, done.errors
    assert done.value["postgres_db"]["scheme"] == "postgresql+psycopg2"


@pytest.mark.parametrize("service", [name for name, service in SERVICES.items() if "command" in service])
def test_the_commands_of_services_have_options_that_exist(service: str) -> None:
    program, *arguments = SERVICES[service]["command"]
    words = [argument for argument in arguments if re.fullmatch(r"[a-z][a-z-]+", argument)]
    subcommand = words[: 2 if program == "dagster" else 1 if program == "dagster-daemon" else 0]
    done = subprocess.run(
        [sys.executable, "-m", MODULES[program], *subcommand, "--help"], capture_output=True, text=True, check=True
    )
    for option in (argument for argument in arguments if argument.startswith("--")):
        assert option in done.stdout, f"{shlex.join(SERVICES[service]['command'])}: {option}"


def test_caddy_takes_the_proxys_settings(tmp_path: Path) -> None:
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("caddy is not here; install caddy 2.8 or newer")
    for name in ("operators", "guests"):
        (tmp_path / name).write_text(f"{name} $2a$14$X4sf6fLkj6AzQ970vfG.fuuoussiN1Rk178/eVDUcaWEKDnE8MIuG\n")
    environment = {**SERVICES["proxy"]["environment"], "ADDRESS": "localhost", "ACCOUNTS": str(tmp_path)}
    command = [caddy, "validate", "--config", str(DEPLOY / "Caddyfile"), "--adapter", "caddyfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr


def test_the_cluster_runs_what_the_compose_file_runs() -> None:
    values = yaml.safe_load((DEPLOY / "helm" / "values.yaml").read_text(encoding="utf-8"))
    own = yaml.safe_load((PROJECT / "dagster.yaml").read_text(encoding="utf-8"))
    (code,) = values["dagster-user-deployments"]["deployments"]
    assert code["codeServerArgs"][:2] == SERVICES["code"]["command"][-2:]
    assert code["replicaCount"] == 1
    assert code["nodeSelector"] and code["includeConfigInLaunchedRuns"]["enabled"], (
        "a run on another node than the home"
    )
    assert values["concurrency"]["pools"]["defaultLimit"] == own["concurrency"]["pools"]["default_limit"]
    daemon = values["dagsterDaemon"]
    for key, section in (("runMonitoring", "run_monitoring"), ("runRetries", "run_retries")):
        shared = {
            re.sub(r"[A-Z]", lambda m: f"_{m[0].lower()}", name): str(value) for name, value in daemon[key].items()
        }
        wanted = {name: str(value) for name, value in own[section].items()}
        assert shared | wanted == shared, f"{key} lacks what dagster.yaml says"
    scheme = yaml.safe_load((DEPLOY / "dagster.storage.yaml").read_text("utf-8"))["storage"]["postgres"]["postgres_db"]
    assert values["postgresql"]["postgresqlScheme"] == scheme["scheme"]
    assert values["dagsterWebserver"]["enableReadOnly"]
    assert not values["ingress"]["enabled"]
    (claim,) = values["extraManifests"]
    assert claim["metadata"]["name"] == code["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_pools_that_are_named_are_pools_of_the_graph() -> None:
    from emotion_assets.defs import resources

    pools = {value for name, value in vars(resources).items() if name.endswith("_POOL")}
    texts = [(DEPLOY / "helm" / "values.yaml").read_text("utf-8"), (PROJECT / "docs" / "deploy.md").read_text("utf-8")]
    for text in texts:
        assert set(re.findall(r"pool `(\w+)`", text.replace("\n", " ").replace("# ", ""))) <= pools
        assert "pool `" in text.replace("\n", " ").replace("# ", "")


def test_dagster_plus_reads_the_location() -> None:
    models = pytest.importorskip("dagster_cloud_cli.config.models", reason="dagster-cloud-cli is not installed")
    text = (DEPLOY / "dagster_cloud.yaml").read_text(encoding="utf-8")
    (location,) = models.load_dagster_cloud_yaml(text).locations
    assert location.code_source.module_name == SERVICES["code"]["command"][-1]
    kubernetes = pytest.importorskip("dagster_k8s.container_context", reason="dagster-k8s is not installed")
    context = kubernetes.K8sContainerContext.create_from_config(location.container_context)
    assert context.run_k8s_config.pod_spec_config["runtime_class_name"] == "nvidia"


def test_the_page_says_of_every_file_whether_it_was_run() -> None:
    page = (PROJECT / "docs" / "deploy.md").read_text(encoding="utf-8")
    files = {str(file.relative_to(DEPLOY)) for file in DEPLOY.rglob("*") if file.is_file()}
    kept = {name for name in files if not name.startswith(("secrets/", ".env"))} - {"env.example"}
    assert [name for name in kept if f"`{name}`" not in page] == []
    assert "**not run**" in page
    assert all(block.reason for block in blocks(PROJECT / "docs" / "deploy.md") if block.language == "sh")
