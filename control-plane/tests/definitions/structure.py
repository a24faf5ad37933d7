"""What Kubernetes asks of a CustomResourceDefinition's schema before it takes it (the page "Extend the Kubernetes API with
CustomResourceDefinitions", its sections on structural schemas, defaulting and validation), rule by rule."""

import re

KEYWORDS = {
    "type", "format", "description", "properties", "additionalProperties", "items", "required", "enum", "default", "pattern", "minimum",
    "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "nullable", "anyOf", "oneOf", "allOf",
    "not", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "x-kubernetes-validations",
}
TYPES = {"array", "boolean", "integer", "number", "object", "string"}
REASONS = {"FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"}
LABEL = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")
# Of Go's regular expressions these are not known, or counted up to a thousand only.
NOT_RE2 = re.compile(r"\(\?[=!<]|\\[1-9]|\\Z|[*+?]\+")


def problems(definition):
    """Everything that is wrong with a definition, as texts."""
    found = []
    spec, names = definition["spec"], definition["spec"]["names"]
    if definition["metadata"]["name"] != f"{names['plural']}.{spec['group']}":
        found.append("metadata.name is not <plural>.<group>")
    for name in [names["plural"], names["singular"], names["kind"].lower(), names["listKind"].lower()] + names["shortNames"] + names["categories"]:
        if not LABEL.fullmatch(name) or len(name) > 63:
            found.append(f"names: {name!r} is no DNS label")
    if sum(version["storage"] for version in spec["versions"]) != 1:
        found.append("not exactly one version is stored")
    for version in spec["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        if schema.get("type") != "object" or "additionalProperties" in schema:
            found.append("the root must be an object of named properties")
        if schema["properties"]["metadata"] != {"type": "object"}:
            found.append("metadata may say nothing but its type")
        if ("status" in schema["properties"]) != ("status" in version.get("subresources", {})):
            found.append("status is a subresource where there is one, and only there")
        walk(schema, definition["metadata"]["name"], True, found)
        for column in version["additionalPrinterColumns"]:
            if column["type"] not in {"integer", "number", "string", "boolean", "date"} or not column["jsonPath"].startswith("."):
                found.append(f"column {column['name']}: {column}")
    return found


def walk(schema, path, structure, found):
    """`structure` is false inside anyOf and its like, where only values may be judged."""
    unknown = set(schema) - KEYWORDS
    if unknown:
        found.append(f"{path}: keywords that are not known: {sorted(unknown)}")
    free = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    kind = schema.get("type")
    if structure and kind not in TYPES and not free:
        found.append(f"{path}: a type is needed, not {kind!r}")
    if not structure:
        bad = {"type", "description", "default", "additionalProperties", "nullable", "x-kubernetes-validations"} & set(schema)
        if bad and not (path.rsplit(".", 1)[-1].startswith("anyOf") and schema in ({"type": "integer"}, {"type": "string"})):
            found.append(f"{path}: may not stand inside a combination: {sorted(bad)}")
    if kind == "array" and "items" not in schema:
        found.append(f"{path}: a list needs items")
    if "properties" in schema and "additionalProperties" in schema:
        found.append(f"{path}: properties and additionalProperties exclude each other")
    for name in schema.get("required", []) if structure else []:
        if "properties" in schema and name not in schema["properties"]:
            found.append(f"{path}: {name} is required and there is no such property")
    if "pattern" in schema:
        check_regex(schema["pattern"], path, found)
    if "default" in schema:
        found.extend(f"{path}: default: {why}" for why in validate(schema, schema["default"]))
    lists(schema, path, found)
    for i, rule in enumerate(schema.get("x-kubernetes-validations", [])):
        at = f"{path}.rule{i}"
        if set(rule) - {"rule", "message", "messageExpression", "reason", "fieldPath", "optionalOldSelf"}:
            found.append(f"{at}: {sorted(rule)}")
        if "\n" in rule["rule"] + rule["message"] or not rule["message"].strip() or len(rule["message"]) > 2048:
            found.append(f"{at}: a message of one line is needed")
        if rule.get("reason", "FieldValueInvalid") not in REASONS:
            found.append(f"{at}: {rule['reason']} is no reason")
        if "fieldPath" in rule and not resolves(schema, rule["fieldPath"]):
            found.append(f"{at}: there is no field {rule['fieldPath']}")
        for regex in re.findall(r'r"([^"]*)"', rule["rule"]):
            check_regex(regex, at, found)
    for name, child in schema.get("properties", {}).items():
        walk(child, f"{path}.{name}", structure, found)
    for name in ["items", "additionalProperties", "not"]:
        if isinstance(schema.get(name), dict):
            walk(schema[name], f"{path}.{name}", structure and name != "not", found)
    for name in ["anyOf", "oneOf", "allOf"]:
        for i, child in enumerate(schema.get(name, [])):
            walk(child, f"{path}.{name}{i}", False, found)


def lists(schema, path, found):
    kind, keys, items = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys", []), schema.get("items", {})
    if kind is not None and (schema.get("type") != "array" or kind not in {"atomic", "set", "map"}):
        found.append(f"{path}: list type {kind!r}")
    if (kind == "map") != bool(keys):
        found.append(f"{path}: keys belong to a list that is a map, and it needs them")
    if kind == "set" and items.get("type") == "object" and items.get("x-kubernetes-map-type") != "atomic":
        found.append(f"{path}: objects of a set are atomic")
    for key in keys:
        field = items.get("properties", {}).get(key)
        if field is None or field["type"] in {"array", "object"}:
            found.append(f"{path}: {key} is no key")
        elif key not in items.get("required", []) and "default" not in field:
            found.append(f"{path}: key {key} must be required or have a default")


def check_regex(regex, path, found):
    outside = re.sub(r"\[(\\.|[^\]])*\]", "x", regex)
    if NOT_RE2.search(outside) or any(int(n) > 1000 for n in re.findall(r"[{,](\d+)\}", regex)):
        found.append(f"{path}: {regex!r} is not for RE2")
    try:
        re.compile(regex)
    except re.error as error:
        found.append(f"{path}: {regex!r}: {error}")


def resolves(schema, path):
    for step in path.strip(".").split("."):
        schema = schema.get("properties", {}).get(step)
        if schema is None:
            return False
    return path.startswith(".")


def with_defaults(schema, value):
    """As an API server fills them in, which drops a null first."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        value = {k: v for k, v in value.items() if v is not None}
        for name, child in properties.items():
            if name not in value and "default" in child:
                value[name] = child["default"]
        rest = schema.get("additionalProperties") if isinstance(schema.get("additionalProperties"), dict) else {}
        return {k: with_defaults(properties.get(k, rest), v) for k, v in value.items()}
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), v) for v in value]
    return value


def validate(schema, value, path=""):
    """What the schema says against a value."""
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        return [] if isinstance(value, (int, str)) and not isinstance(value, bool) else [f"{path}: neither a number nor a text"]
    fits = {
        "object": isinstance(value, dict), "array": isinstance(value, list), "string": isinstance(value, str), "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, (int, float)) and not isinstance(value, bool),
    }
    if kind and not fits[kind]:
        return [f"{path}: is no {kind}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: is none of {schema['enum']}")
    if kind == "string":
        if "pattern" in schema and not re.search(re.sub(r"\$$", r"\\Z", schema["pattern"]), value):
            found.append(f"{path}: {value!r} does not match {schema['pattern']!r}")
        bounds(schema, len(value), "Length", path, found)
    if kind in {"integer", "number"}:
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            found.append(f"{path}: {value} is out of bounds")
    if kind == "array":
        bounds(schema, len(value), "Items", path, found)
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys or schema.get("x-kubernetes-list-type") == "set":
            ids = [[v.get(k) for k in keys] if keys and isinstance(v, dict) else v for v in value]
            if any(one in ids[:i] for i, one in enumerate(ids)):
                found.append(f"{path}: an entry stands there twice")
        for i, item in enumerate(value):
            found += validate(schema.get("items", {}), item, f"{path}[{i}]")
    if kind == "object":
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
        found += [f"{path}.{name}: is required" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            child = properties.get(name, rest if isinstance(rest, dict) else None)
            if child is not None:
                found += validate(child, item, f"{path}.{name}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields") and path != ".metadata":
                found.append(f"{path}.{name}: there is no such field")
    return found


def bounds(schema, size, of, path, found):
    if not schema.get(f"min{of}", size) <= size <= schema.get(f"max{of}", size):
        found.append(f"{path}: {of} {size}")
