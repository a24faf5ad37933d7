"""Aims what schemathesis sends at a namespace and names that there are, and keeps it from waiting in a watch."""

import schemathesis


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    if path_parameters and "namespace" in path_parameters:
        path_parameters["namespace"] = "default"
    return path_parameters


@schemathesis.hook
def map_query(context, query):
    if query:
        query.pop("watch", None)
    return query


@schemathesis.hook
def map_body(context, body):
    """Every second object gets a name that can be one, so that more of it is judged than that."""
    if isinstance(body, dict) and isinstance(body.get("spec", body.get("data")), dict) and len(str(body)) % 2:
        body["metadata"] = {"name": "tried"}
    return body
