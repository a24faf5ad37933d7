"""Validates manifests against Kubernetes' own schemas, strictly: `validate.py VERSION,… FILE…`. Prints how many objects were valid."""

import sys

import kubernetes_validate
import yaml

versions, files = sys.argv[1].split(","), sys.argv[2:]
count = 0
for file in files:
    with open(file, encoding="utf-8") as stream:
        for document in yaml.safe_load_all(stream):
            if document is None:
                continue
            objects = document["items"] if document["kind"] == "List" else [document]
            for value in objects:
                for version in versions:
                    try:
                        kubernetes_validate.validate(value, version, strict=True)
                    except kubernetes_validate.ValidationError as error:
                        name = value["metadata"].get("name") or value["metadata"].get("generateName")
                        sys.exit(f"{file}: {value['kind']}/{name}, Kubernetes {version}: {list(error.path)}: {error.message}")
                count += 1
print(count)
