"""The rules of a CustomResourceDefinition in CEL: compiled as an API server compiles them, against the types of the schema; their cost,
estimated as it estimates them; and what they say of an object. The CEL is Google's own."""

from google.protobuf import descriptor_pb2, descriptor_pool

from cel_expr_python import cel

LARGEST = 3 << 20
FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {"string": FIELD.TYPE_STRING, "integer": FIELD.TYPE_INT64, "number": FIELD.TYPE_DOUBLE, "boolean": FIELD.TYPE_BOOL}
TYPES = {"string": cel.Type.STRING, "integer": cel.Type.INT, "number": cel.Type.DOUBLE, "boolean": cel.Type.BOOL}
RESERVED = {"namespace", "package", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "return", "var", "void", "while"}
UNKNOWN = 1 << 64


class Types:
    """One message for each object of a schema, so that a field that is not there does not compile."""

    def __init__(self, schema):
        self.file = descriptor_pb2.FileDescriptorProto(name="kind.proto", package="kind", syntax="proto2")
        self.names = {}
        schema = dict(schema, properties=dict(schema["properties"]))
        text = {"type": "string"}
        schema["properties"]["metadata"] = {"type": "object", "properties": {"name": text, "generateName": text}}
        self.root = schema
        self.message(schema, "Root")
        pool = descriptor_pool.DescriptorPool()
        pool.Add(self.file)
        self.pool = pool

    def message(self, schema, name):
        self.names[id(schema)] = name
        message = self.file.message_type.add(name=name)
        for number, (field, child) in enumerate(schema.get("properties", {}).items(), 1):
            listed = child.get("type") == "array"
            inner = child["items"] if listed else child
            made = message.field.add(name=escaped(field), number=number, label=FIELD.LABEL_REPEATED if listed else FIELD.LABEL_OPTIONAL)
            if inner.get("type") == "object":
                made.type = FIELD.TYPE_MESSAGE
                made.type_name = f".kind.{self.message(inner, f'{name}_{field}')}"
            else:
                made.type = SCALARS.get(inner.get("type"), FIELD.TYPE_STRING)
        return name

    def of(self, schema):
        if schema["type"] == "object":
            return cel.Type(f"kind.{self.names[id(schema)]}")
        if schema["type"] == "array":
            return cel.Type.List(self.of(schema["items"]))
        return TYPES[schema["type"]]


def escaped(field):
    return f"__{field}__" if field in RESERVED else field


def places(schema, path="", many=1):
    """Every schema that has rules, where it stands, and how often at most."""
    if schema.get("x-kubernetes-validations"):
        yield path, schema, many
    for name, child in schema.get("properties", {}).items():
        yield from places(child, f"{path}.{name}", many)
    if "items" in schema:
        yield from places(schema["items"], f"{path}[]", many * longest(schema))


def smallest(schema):
    """Bytes of the shortest value."""
    kind = schema.get("type")
    if kind == "object":
        wanted = [name for name in schema.get("required", []) if "default" not in schema["properties"][name]]
        return 2 + sum(len(name) + smallest(schema["properties"][name]) + 4 for name in wanted)
    return {"string": 2, "array": 2, "boolean": 4}.get(kind, 1)


def longest(schema):
    """How many entries, or bytes of a text, there can be."""
    kind = schema.get("type")
    if kind == "array":
        return schema.get("maxItems", (LARGEST - 2) // (smallest(schema["items"]) + 1))
    if kind == "object":
        rest = schema.get("additionalProperties")
        return (LARGEST - 2) // (smallest(rest) + 6) if isinstance(rest, dict) else 0
    if kind == "string":
        if "maxLength" in schema:
            return 4 * schema["maxLength"]
        return max(map(len, schema["enum"])) if "enum" in schema else LARGEST - 2
    return 1


def check(definition):
    """(problems, costs by place) of a definition."""
    found, costs = [], {}
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    types = Types(schema)
    for path, at, many in places(types.root):
        env = cel.NewEnv(types.pool, variables={"self": types.of(at)})
        for i, rule in enumerate(at["x-kubernetes-validations"]):
            name = f"{definition['spec']['names']['kind']}{path}#{i}"
            try:
                compiled = env.compile(rule["rule"])
            except Exception as error:  # The library has no narrower one.
                found.append(f"{name}: {error}")
                continue
            if compiled.return_type() != cel.Type.BOOL:
                found.append(f"{name}: is no condition")
            costs[name] = many * Cost(at, compiled.serialize()).total()
    return found, costs


def message(data):
    """The fields of a protobuf message, by number; what has a length stays bytes."""
    fields, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            value = varint()
        elif key & 7 == 2:
            size = varint()
            value, at = data[at : at + size], at + size
        else:
            size = 8 if key & 7 == 1 else 4
            value, at = data[at : at + size], at + size
        fields.setdefault(key >> 3, []).append(value)
    return fields


class Cost:
    """The most that evaluating an expression can cost, in the units of cel-go. Where that distinguishes, this takes the dearer."""

    def __init__(self, schema, checked):
        self.scope = {"self": (schema, None)}
        self.expr = message(message(checked)[2][0])[4][0]

    def total(self):
        return self.cost(self.expr)[0]

    def cost(self, data):
        """(cost, size, schema)"""
        fields = message(data)
        if 3 in fields:
            text = message(fields[3][0])
            return 0, len(text[6][0].decode()) if 6 in text else 1, None
        if 4 in fields:
            name = message(fields[4][0])[1][0].decode()
            schema, size = self.scope[name]
            return 1, self.size(schema, size), schema
        if 5 in fields:
            select = message(fields[5][0])
            cost, _, schema = self.cost(select[1][0])
            child = schema["properties"][select[2][0].decode().strip("_")]
            return cost + 1, 1 if 3 in select else self.size(child, None), None if 3 in select else child
        if 6 in fields:
            return self.call(message(fields[6][0]))
        if 7 in fields:
            elements = [self.cost(element) for element in message(fields[7][0]).get(1, [])]
            return 10 + sum(c for c, *_ in elements), len(elements), None
        if 9 in fields:
            return self.loop(message(fields[9][0]))
        raise ValueError(f"an expression of kind {sorted(fields)}")

    @staticmethod
    def size(schema, size):
        return longest(schema) if schema is not None else UNKNOWN if size is None else size

    def call(self, fields):
        name = fields[2][0].decode()
        target = [self.cost(fields[1][0])] if 1 in fields else []
        arguments = [self.cost(argument) for argument in fields.get(3, [])]
        cost = sum(c for c, *_ in target + arguments)
        sizes = [size for _, size, _ in target + arguments]
        traversed = lambda size: -(-size // 10)
        if name == "matches":
            return cost + traversed(sizes[0] + 1) * -(-sizes[1] // 4), 1, None
        if name == "contains":
            return cost + traversed(sizes[0]) * traversed(sizes[1]), 1, None
        if name in {"startsWith", "endsWith"}:
            return cost + traversed(sizes[1]), 1, None
        if name in {"_==_", "_!=_"}:
            return cost + max(traversed(min(sizes)), 1), 1, None
        if name == "@in":
            return cost + sizes[1], 1, None
        if name == "bytes":
            return cost + traversed(sizes[0]), 4 * sizes[0], None
        if name in {"_&&_", "_||_", "!_", "_?_:_", "duration", "size", "@not_strictly_false", "_<=_", "_>=_", "_<_", "_>_", "_+_"}:
            return cost + 1, 1, None
        raise ValueError(f"nobody wrote down what {name} costs")

    def loop(self, fields):
        variable, accumulator = fields[1][0].decode(), fields[3][0].decode()
        cost, count, schema = self.cost(fields[2][0])
        before = dict(self.scope)
        start, *_ = self.cost(fields[4][0])
        self.scope[accumulator] = (None, 1)
        self.scope[variable] = (schema["items"] if schema else None, 1)
        each = self.cost(fields[5][0])[0] + self.cost(fields[6][0])[0]
        end = self.cost(fields[7][0])[0]
        self.scope = before
        return cost + start + count * each + end, 1, None


_DYNAMIC = cel.NewEnv(variables={"self": cel.Type.DYN})
_COMPILED = {}


def refusals(schema, value, path=""):
    """The rules that do not hold of a value."""
    found = []
    for rule in schema.get("x-kubernetes-validations", []):
        text = rule["rule"]
        if text not in _COMPILED:
            _COMPILED[text] = _DYNAMIC.compile(text)
        try:
            result = _COMPILED[text].eval(data={"self": value}).plain_value()
        except Exception as error:  # The library has no narrower one.
            result = error
        if result is not True:
            found.append(f"{path}{rule.get('fieldPath', '')}: {rule['message']}" + ("" if result is False else f" ({result})"))
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                found += refusals(child, value[name], f"{path}.{name}")
    if isinstance(value, list):
        for i, item in enumerate(value):
            found += refusals(schema["items"], item, f"{path}[{i}]")
    return found
