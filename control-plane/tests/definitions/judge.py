"""Reads `{"definitions": […], "objects": […]}` on stdin and says what an API server would say: of each definition what is wrong with it and
what its rules cost, of each object why it is refused."""

import json
import sys

import rules
import structure

given = json.load(sys.stdin)
answer = {"definitions": {}, "objects": []}
schemas = {}
for definition in given["definitions"]:
    kind = definition["spec"]["names"]["kind"]
    problems = structure.problems(definition)
    costs = {}
    if not problems:
        problems, costs = rules.check(definition)
    answer["definitions"][kind] = {"problems": problems, "costs": costs}
    schemas[kind] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
for value in given["objects"]:
    schema = schemas[value["kind"]]
    value = structure.with_defaults(schema, value)
    # Rules are asked where the schema has nothing against the shape.
    answer["objects"].append(structure.validate(schema, value) or rules.refusals(schema, value))
json.dump(answer, sys.stdout)
