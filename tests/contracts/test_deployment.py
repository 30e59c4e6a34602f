"""What the containers are told is what the programs understand: settings, commands, secrets, schemas."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from ml_backend.cli import main as backend
from tests.contracts.kubernetes_schemas import SCHEMAS
from tests.need import need_backend_python
from workers.cli import main as worker
from workers.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
OURS = ("web", "courier", "worker", "worker-cpu", "trainer")
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
KINDS = {"Namespace", "Deployment", "Service", "TriggerAuthentication"}
PROGRAMS = {"rsrefseg-backend": backend, "rsrefseg-worker": worker}


def documents() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text("utf-8"))


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for document in documents():
        if document["kind"] in {"Deployment", "StatefulSet"}:
            pod = document["spec"]["template"]["spec"]
            yield pod, pod["containers"][0]


def commands() -> list[list[str]]:
    dockerfile = re.findall(r'CMD \[("rsrefseg.*?")\]', (ROOT / "Dockerfile").read_text("utf-8"))
    found = [re.findall(r'"(.*?)"', line) for line in dockerfile]
    found += [COMPOSE["services"][name]["command"] for name in OURS]
    found += [container["args"] for _, container in containers() if container["args"][0] in PROGRAMS]
    found += [COMPOSE["services"]["courier"]["healthcheck"]["test"][1:]]
    return found


def test_the_script_that_tries_the_images_runs_every_kind_of_process() -> None:
    script = ROOT / "deploy/images.sh"
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=60)
    assert script.stat().st_mode & 0o111
    run = [line.split(" rsrefseg-", 1)[1] for line in script.read_text("utf-8").splitlines() if 'service "$' in line]
    assert run == ["backend web", "backend courier", "worker run --gpus cpu", "worker run --gpus cpu --queue train"]


def test_the_compose_file_is_one() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, str(ROOT / "docker-compose.yml")], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_are_what_kubernetes_takes(path: Path) -> None:
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = [document["kind"] for document in yaml.safe_load_all(path.read_text("utf-8"))]
    assert (done.stdout + done.stderr).count(" passed for ") == sum(kind not in SCHEMAS for kind in kinds)


def test_objects_of_others_are_what_they_take() -> None:
    seen = [document for document in documents() if document["kind"] in SCHEMAS]
    assert {document["kind"] for document in seen} == set(SCHEMAS)
    for document in seen:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
    [scaled] = [document for document in seen if document["kind"] == "ScaledObject"]
    misspelt = scaled | {"spec": scaled["spec"] | {"minReplicas": 1}}
    with pytest.raises(jsonschema.ValidationError, match="minReplicas"):
        jsonschema.validate(misspelt, SCHEMAS["ScaledObject"])


def test_what_is_named_elsewhere_is_there() -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for document in documents():
        by_kind.setdefault(document["kind"], []).append(document)
    names = {kind: {one["metadata"]["name"] for one in some} for kind, some in by_kind.items() if kind in KINDS}
    [kustomization] = by_kind["Kustomization"]
    assert set(kustomization["resources"]) == {path.name for path in MANIFESTS} - {"kustomization.yaml"}
    assert kustomization["namespace"] in names["Namespace"]
    ours = {container["image"] for _, container in containers() if ":" not in container["image"]}
    assert {image["name"] for image in kustomization["images"]} == ours
    [scaled] = by_kind["ScaledObject"]
    assert scaled["spec"]["scaleTargetRef"]["name"] in names["Deployment"]
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] in names["TriggerAuthentication"]
    created = set(re.findall(r"--from-literal=(\w+)=", (ROOT / "docs/kubernetes.md").read_text("utf-8")))
    [authentication] = by_kind["TriggerAuthentication"]
    assert {one["key"] for one in authentication["spec"]["secretTargetRef"]} <= created
    host = re.match(r"http://(\w+)\.(\w+)\.svc\.", trigger["metadata"]["url"])
    assert host is not None
    assert (host[1] in names["Service"], host[2]) == (True, kustomization["namespace"])


def test_every_pod_of_ours_is_called_by_those_alone_who_have_to() -> None:
    may: dict[str, set[int]] = {}
    for document in documents():
        if document["kind"] == "NetworkPolicy":
            assert document["spec"]["policyTypes"] == ["Ingress"]
            selector = document["spec"]["podSelector"]
            apps = (
                [selector["matchLabels"]["app"]]
                if "matchLabels" in selector
                else selector["matchExpressions"][0]["values"]
            )
            for rule in document["spec"]["ingress"]:
                assert rule["from"], "nobody is let in without a name"
                for app in apps:
                    may.setdefault(app, set()).update(port["port"] for port in rule["ports"])
    assert may == {"redis": {6379}, "web": {9090}, "courier": {9091}, "worker": {9091}, "trainer": {9091}}


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_is_one_of_ours(command: list[str]) -> None:
    program, name, *options = command
    found = PROGRAMS[program].commands[name]
    with click.Context(PROGRAMS[program]) as above:
        found.make_context(name, list(options), parent=above)


WITHOUT = """
import importlib, importlib.metadata, pkgutil, sys

removed = set(sys.argv[1:])
modules = {
    module
    for module, names in importlib.metadata.packages_distributions().items()
    if removed & {name.lower().replace("_", "-") for name in names}
}

class Removed:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Removed())
import ml_backend
for module in pkgutil.iter_modules(ml_backend.__path__):
    if module.name != "label_studio_ml_model":
        importlib.import_module(f"ml_backend.{module.name}")
import workers.cli
from label_studio_sdk.label_interface import LabelInterface
from ml_backend.label_studio import LabelStudio
client = LabelStudio("http://127.0.0.1:1", "key")._client
client.users, client.predictions
config = '''<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="a"/></BrushLabels></View>'''
prediction = {"result": [], "model_version": "v", "score": 0.5}
assert LabelInterface(config).validate_prediction(prediction, return_errors=True) == []
print(sorted(modules))
"""


def test_the_backend_runs_without_what_its_image_leaves_out() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    [listed] = re.findall(r"uninstall --yes([^&]*)&&", text)
    removed = listed.split()
    assert "pandas" in removed
    done = subprocess.run(
        [need_backend_python(), "-c", WITHOUT, *removed], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'pandas'" in done.stdout, "what is left out was there to be left out"


def test_every_setting_is_one_that_the_programs_know() -> None:
    known = set(Settings.variables())
    named = {key for name in OURS for key in COMPOSE["services"][name]["environment"]}
    named |= set(re.findall(r"\b(?:RSREFSEG_[A-Z_]+|REDIS_URL)\b", (ROOT / ".env.example").read_text("utf-8")))
    named |= set(re.findall(r"\bRSREFSEG_[A-Z_]+", (ROOT / "Dockerfile").read_text("utf-8")))
    for document in documents():
        if document["kind"] == "ConfigMap":
            named |= set(document["data"])
    assert named - known == set()


def test_no_secret_has_a_default_and_each_is_asked_for() -> None:
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text("utf-8").splitlines()
        if re.match("[A-Z]", line)
    )
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    secrets = {name for name in example if re.search("PASSWORD|KEY", name)}
    assert secrets == {
        "POSTGRES_PASSWORD",
        "LABEL_STUDIO_PASSWORD",
        "LABEL_STUDIO_API_KEY",
        "REDIS_PASSWORD",
        "RSREFSEG_BASIC_PASSWORD",
    }
    for name in secrets:
        assert example[name] == ""
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text
    asked = set(re.findall(r"\$\{([A-Z_]+)", text))
    assert asked <= set(example), "what compose reads is in .env.example"


def test_redis_and_the_database_are_not_published() -> None:
    services, networks = COMPOSE["services"], COMPOSE["networks"]
    for name in ("redis", "postgres"):
        assert "ports" not in services[name]
        assert all(networks[network]["internal"] for network in services[name]["networks"])
    assert {"appendonly", "noeviction", "requirepass"} <= {arg.strip("-") for arg in services["redis"]["command"]}


def test_label_studio_makes_a_webhook_for_the_name_that_the_backend_has() -> None:
    [alias] = COMPOSE["services"]["web"]["networks"]["labelling"]["aliases"]
    assert "." in alias
    assert COMPOSE["services"]["web"]["environment"]["RSREFSEG_PUBLIC_URL"] == f"http://{alias}:9090"


def test_containers_have_more_time_to_end_than_a_batch_may_take() -> None:
    longest = Settings().stop_s
    for name in ("courier", "worker", "worker-cpu", "trainer"):
        assert int(COMPOSE["services"][name]["stop_grace_period"].removesuffix("s")) > longest
    for pod, container in containers():
        if container["args"][0] == "rsrefseg-worker":
            assert pod["terminationGracePeriodSeconds"] > longest


def test_no_container_of_ours_may_do_more_than_it_must() -> None:
    for name in OURS:
        service = COMPOSE["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
    for pod, container in containers():
        assert pod["securityContext"]["runAsNonRoot"]
        may = container["securityContext"]
        assert (may["readOnlyRootFilesystem"], may["allowPrivilegeEscalation"]) == (True, False)
        assert may["capabilities"] == {"drop": ["ALL"]}


def test_workers_are_scaled_by_a_number_that_the_web_process_tells() -> None:
    [scaled] = [document for document in documents() if document["kind"] == "ScaledObject"]
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["metadata"]["url"].endswith(":9090/counts")
    assert trigger["metadata"]["valueLocation"] == "waiting"  # test_web_contract.py asks for it.
    [target] = [one for one in documents() if one["kind"] == "Deployment" and one["metadata"]["name"] == "worker"]
    assert "replicas" not in target["spec"], "KEDA's to say"
