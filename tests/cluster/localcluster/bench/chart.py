"""Checks every rendering of the chart against the schemas of Kubernetes releases and by linters.

The schemas are in the Go module of each release (api/openapi-spec/swagger.json). A field that the
release does not know is a fault. Objects of other projects are counted, not checked. checkov and
kube-score are run if `--checkov` and `--kube-score` name them. It exits with 1 if a rendering has
a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jsonschema  # type: ignore[import-untyped]
import yaml

from localcluster import paths
from localcluster.bench import record
from localcluster.controlplane import build, progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CHART: Final = paths.REPOSITORY / "charts" / "avatar-operator"
VERSIONS: Final = ("1.30.14", "1.31.13", "1.32.9", "1.33.5", "1.34.1", "1.35.0", "1.36.0", "1.37.2")
FOREIGN: Final = (
    "avatar.musetalk.io/",
    "cert-manager.io/",
    "gateway.networking.k8s.io/",
    "monitoring.coreos.com/",
    "networking.gke.io/",
)
INT_OR_STRING: Final = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
QUANTITY: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"

Manifest = dict[str, Any]


def render(values: Path | None, *args: str) -> list[Manifest]:
    """Return the objects of a release with a file of values."""
    tools = asyncio.run(build.ensure(progress.Screen(sys.stderr), os.environ))
    chosen = [] if values is None else ["--values", str(values)]
    done = subprocess.run(
        [
            tools["helm"],
            "template",
            "avatar",
            str(CHART),
            "--namespace",
            "avatar-system",
            *chosen,
            *args,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def renderings() -> dict[str, list[Manifest]]:
    """Return the objects of the defaults and of each platform, by name."""
    prometheus = ("--api-versions", "monitoring.coreos.com/v1")
    crds = [yaml.safe_load(path.read_text()) for path in sorted((CHART / "crds").glob("*.yaml"))]
    found = {"defaults": [*render(None), *crds]}
    for path in sorted((CHART / "ci").glob("*.yaml")):
        found[path.stem.removesuffix("-values")] = render(path, *prometheus)
    return found


def download(version: str, folder: Path) -> Mapping[str, Any]:
    """Return the OpenAPI document of a Kubernetes release."""
    environment = {**os.environ, "GOMODCACHE": str(folder), "GOFLAGS": "-mod=mod -modcacherw"}
    done = subprocess.run(
        ["go", "mod", "download", "-json", f"k8s.io/kubernetes@v{version}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    document = Path(json.loads(done.stdout)["Dir"]) / "api/openapi-spec/swagger.json"
    found: Mapping[str, Any] = json.loads(document.read_text())
    return found


def strict(definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definitions as JSON schemas that refuse unknown fields."""
    found: dict[str, Any] = {}
    for name, definition in definitions.items():
        kept = {k: v for k, v in definition.items() if not k.startswith("x-")}
        if "properties" in kept and not name.endswith("JSONSchemaProps"):
            kept["additionalProperties"] = False
        found[name] = kept
    found[INT_OR_STRING] = {"type": ["integer", "string"]}
    found[QUANTITY] = {"type": ["number", "string"]}
    # Fields whose names start with x- were dropped above as keywords of OpenAPI.
    for name in definitions:
        if name.endswith("JSONSchemaProps"):
            found[name] = {**found[name], "additionalProperties": False}
    return found


def names_by_kind(definitions: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Return the name of a definition by apiVersion and kind."""
    found = {}
    for name, definition in definitions.items():
        for each in definition.get("x-kubernetes-group-version-kind", ()):
            version = "/".join(part for part in (each["group"], each["version"]) if part)
            found[version, each["kind"]] = name
    return found


def faults(document: Mapping[str, Any], objects: Sequence[Manifest]) -> Iterator[str]:
    """Yield what a Kubernetes release does not know or take of the objects."""
    definitions = document["definitions"]
    names = names_by_kind(definitions)
    schemas = strict(definitions)
    for item in objects:
        if item["apiVersion"].startswith(FOREIGN):
            continue
        label = f"{item['kind']} {item['metadata']['name']}"
        name = names.get((item["apiVersion"], item["kind"]))
        if name is None:
            yield f"{label}: {item['apiVersion']} is unknown"
            continue
        schema = {"$ref": f"#/definitions/{name}", "definitions": schemas}
        for error in jsonschema.Draft7Validator(schema).iter_errors(item):
            yield f"{label}: {error.json_path}: {error.message[:200]}"


def check_with(checkov: Path, objects: Sequence[Manifest]) -> dict[str, Any]:
    """Return the counts of checkov, and its failures by check."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rendered.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        done = subprocess.run(
            [checkov, "-f", path, "--framework", "kubernetes", "-o", "json", "--compact"],
            capture_output=True,
            text=True,
            check=False,
        )
    report = json.loads(done.stdout)
    failed = report["results"]["failed_checks"]
    return {
        "version": report["summary"]["checkov_version"],
        "passed": report["summary"]["passed"],
        "failed": report["summary"]["failed"],
        "failures": sorted(f"{each['check_id']} {each['resource']}" for each in failed),
    }


def score_with(kube_score: Path, objects: Sequence[Manifest]) -> Sequence[str]:
    """Return the critical findings of kube-score, each with its object."""
    done = subprocess.run(
        [kube_score, "score", "-", "-o", "ci"],
        input=yaml.safe_dump_all(objects),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{kube_score} ended with {done.returncode}: {done.stderr[-2000:]}")
    return sorted(line for line in done.stdout.splitlines() if line.startswith("[CRITICAL]"))


def main() -> int:
    """Run the checks and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--versions", nargs="*", default=VERSIONS, metavar="X.Y.Z")
    parser.add_argument(
        "--module-cache",
        type=Path,
        metavar="DIR",
        help="keeps the downloads. Temporary if missing.",
    )
    parser.add_argument("--checkov", type=Path, metavar="FILE")
    parser.add_argument("--kube-score", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = renderings()
    document: dict[str, Any] = {
        "objects": {name: len(objects) for name, objects in found.items()},
        "not_checked": {
            name: sorted({o["kind"] for o in objects if o["apiVersion"].startswith(FOREIGN)})
            for name, objects in found.items()
        },
        "faults": {},
    }
    for version in options.versions:
        with tempfile.TemporaryDirectory() as folder:
            schema = download(version, options.module_cache or Path(folder))
        document["faults"][version] = {name: [*faults(schema, o)] for name, o in found.items()}
        print(version, document["faults"][version], flush=True)
    if options.checkov:
        without_hooks = [
            o
            for o in found["defaults"]
            if "helm.sh/hook" not in o["metadata"].get("annotations", {})
        ]
        document["checkov"] = {
            "defaults": check_with(options.checkov, found["defaults"]),
            "defaults_without_hooks": check_with(options.checkov, without_hooks),
            "hardened": check_with(options.checkov, found["hardened"]),
        }
    if options.kube_score:
        document["kube_score_critical"] = {
            name: score_with(options.kube_score, objects) for name, objects in found.items()
        }
    record.write(options.out, 0, "none", document)
    return int(any(any(each.values()) for each in document["faults"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
