"""What scripts and operators do with the Python client of Kubernetes, each part with a line when it is well."""

import base64
import sys

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

GROUP, VERSION, PLURAL = "weft.mesh", "v1alpha1", "trafficpolicies"


def refused(status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == status, error
        return error
    raise AssertionError(f"no {status}")


def service(name, **spec):
    return {"metadata": {"name": name, "labels": {"app": name}}, "spec": {"ports": [{"port": 80}], **spec}}


def pages(core):
    core.create_namespace({"metadata": {"name": "shop"}})
    for i in range(7):
        core.create_namespaced_service("shop", service(f"s{i}"))
    names, token, rest = [], None, []
    while True:
        page = core.list_namespaced_service("shop", limit=3, _continue=token)
        names += [item.metadata.name for item in page.items]
        rest.append(page.metadata.remaining_item_count)
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"s{i}" for i in range(7)], names
    assert rest == [4, 1, None], rest
    chosen = core.list_service_for_all_namespaces(label_selector="app in (s1,s2)", field_selector="metadata.name!=s2")
    assert [item.metadata.name for item in chosen.items] == ["s1"]
    assert chosen.items[0].spec.cluster_ip.startswith("198.18.")


def conflict(core):
    mine, theirs = (core.read_namespaced_service("s0", "shop") for _ in range(2))
    mine.metadata.labels["tier"] = "web"
    stored = core.replace_namespaced_service("s0", "shop", mine)
    assert stored.metadata.resource_version != mine.metadata.resource_version
    theirs.metadata.labels["tier"] = "db"
    error = refused(409, core.replace_namespaced_service, "s0", "shop", theirs)
    assert "the object has been modified" in error.body, error.body
    error = refused(409, core.create_namespaced_service, "shop", service("s0"))
    assert "AlreadyExists" in error.body, error.body
    error = refused(422, core.create_namespaced_service, "shop", {"metadata": {"name": "bad"}, "spec": {"ports": [{"port": 0}]}})
    assert "spec.ports[0].port" in error.body, error.body


def patches(core, custom):
    merged = core.patch_namespaced_service("s0", "shop", {"spec": {"ports": [{"port": 80, "targetPort": 8080}]}})
    assert merged.spec.ports[0].target_port == 8080
    listed = core.patch_namespaced_service("s0", "shop", [{"op": "add", "path": "/metadata/labels/by", "value": "json"}])
    assert listed.metadata.labels["by"] == "json"
    policy = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrafficPolicy", "metadata": {"name": "p"},
              "spec": {"targetRefs": [{"kind": "Service", "name": "s0"}], "retry": {"attempts": 1}}}
    custom.create_namespaced_custom_object(GROUP, VERSION, "shop", PLURAL, policy)
    changed = custom.patch_namespaced_custom_object(GROUP, VERSION, "shop", PLURAL, "p", {"spec": {"retry": {"attempts": 3}}})
    assert changed["spec"]["retry"]["attempts"] == 3 and changed["metadata"]["generation"] == 2, changed
    wrong = {"spec": {"retry": {"attempts": 99}}}
    refused(422, custom.patch_namespaced_custom_object, GROUP, VERSION, "shop", PLURAL, "p", wrong)
    dry = custom.patch_namespaced_custom_object(GROUP, VERSION, "shop", PLURAL, "p", {"spec": {"retry": None}}, dry_run="All")
    assert "retry" not in dry["spec"]
    assert custom.get_namespaced_custom_object(GROUP, VERSION, "shop", PLURAL, "p")["spec"]["retry"]["attempts"] == 3


def apply(api):
    services = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="Service")
    wanted = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "applied"}, "spec": {"ports": [{"port": 80, "name": "http"}]}}
    made = services.server_side_apply(body=wanted, name="applied", namespace="shop", field_manager="ana")
    assert made.metadata.managedFields[0].manager == "ana"
    again = services.server_side_apply(body=wanted, name="applied", namespace="shop", field_manager="ana")
    assert again.metadata.resourceVersion == made.metadata.resourceVersion
    wanted["spec"]["ports"][0]["name"] = "web"
    error = refused(409, services.server_side_apply, body=wanted, name="applied", namespace="shop", field_manager="ben")
    assert b'conflict with \\"ana\\"' in error.body if isinstance(error.body, bytes) else 'conflict with \\"ana\\"' in error.body
    taken = services.server_side_apply(body=wanted, name="applied", namespace="shop", field_manager="ben", force_conflicts=True)
    assert taken.spec.ports[0].name == "web"


def follow(core):
    start = core.list_namespaced_service("shop").metadata.resource_version
    core.create_namespaced_service("shop", service("w0"))
    core.patch_namespaced_service("w0", "shop", {"metadata": {"labels": {"n": "1"}}})

    def take(count, version):
        watching, seen = watch.Watch(), []
        for event in watching.stream(core.list_namespaced_service, "shop", resource_version=version, timeout_seconds=20):
            seen.append((event["type"], event["object"].metadata.name))
            if len(seen) == count:
                watching.stop()
        return seen, watching.resource_version

    seen, version = take(2, start)
    assert seen == [("ADDED", "w0"), ("MODIFIED", "w0")], seen
    core.create_namespaced_service("shop", service("w1"))
    core.delete_namespaced_service("w0", "shop")
    seen, _ = take(2, version)
    assert seen == [("ADDED", "w1"), ("DELETED", "w0")], seen


def gone(core):
    """Writes more than the server keeps, and comes back to what it no longer has."""
    page = core.list_namespaced_service("shop", limit=1)
    core.create_namespaced_config_map("shop", {"metadata": {"name": "large"}, "data": {"a": "x" * 900_000}})
    for i in range(14):
        core.patch_namespaced_config_map("large", "shop", {"metadata": {"labels": {"n": str(i)}}})
    version = page.metadata.resource_version
    events = watch.Watch().stream(core.list_namespaced_service, "shop", resource_version=version, timeout_seconds=20)
    error = refused(410, next, events)
    assert error.status == 410
    error = refused(410, core.list_namespaced_service, "shop", limit=1, _continue=page.metadata._continue)
    assert "Expired" in error.body, error.body
    fresh = core.list_namespaced_service("shop")
    core.patch_namespaced_service("s1", "shop", {"metadata": {"labels": {"n": "2"}}})
    watching = watch.Watch()
    for event in watching.stream(core.list_namespaced_service, "shop", resource_version=fresh.metadata.resource_version, timeout_seconds=20):
        assert (event["type"], event["object"].metadata.name) == ("MODIFIED", "s1"), event
        watching.stop()


def secret(core):
    made = core.create_namespaced_secret("shop", client.V1Secret(metadata={"name": "key"}, string_data={"password": "hunter2"}))
    assert made.type == "Opaque" and base64.b64decode(made.data["password"]) == b"hunter2" and made.string_data is None
    bad = client.V1Secret(metadata={"name": "bad"}, data={"password": "hunter2!"})
    error = refused(422, core.create_namespaced_secret, "shop", bad)
    assert "hunter2" not in error.body, error.body


def events(core):
    about = client.V1ObjectReference(api_version="v1", kind="Service", namespace="shop", name="s1", uid="u")
    event = client.CoreV1Event(metadata={"generateName": "s1."}, involved_object=about, type="Normal", reason="Seen", message="by a script")
    core.create_namespaced_event("shop", event)
    found = core.list_namespaced_event("shop", field_selector="involvedObject.name=s1,involvedObject.kind=Service,type=Normal")
    assert [item.message for item in found.items] == ["by a script"], found.items


def delete(core):
    core.delete_collection_namespaced_service("shop", label_selector="app in (s1,s2,s3)")
    names = [item.metadata.name for item in core.list_namespaced_service("shop", label_selector="app").items]
    assert "s0" in names and "s1" not in names, names
    core.delete_namespace("shop")
    refused(404, core.read_namespaced_service, "s0", "shop")


def main():
    api = config.new_client_from_config(config_file=sys.argv[1])
    core, custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
    assert client.VersionApi(api).get_code().major == "1"
    groups = [group.name for group in client.ApisApi(api).get_api_versions().groups]
    assert GROUP in groups, groups
    parts = {
        "pages": lambda: pages(core),
        "conflict": lambda: conflict(core),
        "patches": lambda: patches(core, custom),
        "apply": lambda: apply(api),
        "watch": lambda: follow(core),
        "gone": lambda: gone(core),
        "secret": lambda: secret(core),
        "events": lambda: events(core),
        "delete": lambda: delete(core),
    }
    for name, part in parts.items():
        part()
        print(f"{name} ok", flush=True)


main()
