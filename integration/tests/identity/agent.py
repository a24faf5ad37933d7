"""An agent of the SPIFFE Workload API on a Unix socket, without generated code: it serves the files that a state file names, again whenever
that changes, and ends its streams when the state's `epoch` does.

usage: agent.py SOCKET STATE
state: {"epoch": 0, "denied": false, "svids": [{"id", "hint", "chain", "key", "bundle"}], "crl": [file], "federated": {id: file}}
Files are PEM; `key` is PKCS#8, the others hold one block or several.
"""

import base64
import json
import re
import sys
import time
from concurrent import futures

import grpc

socket, state_file = sys.argv[1:]


def state():
    with open(state_file) as file:
        return json.load(file)


def der(path):
    with open(path) as file:
        blocks = re.findall(r"-----BEGIN [^-]+-----(.*?)-----END", file.read(), re.S)
    return b"".join(base64.b64decode(block) for block in blocks)


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, data):
    """A length-delimited field of a protobuf message."""
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def message(now):
    out = b""
    for svid in now["svids"]:
        out += field(1, field(1, svid["id"]) + field(2, der(svid["chain"])) + field(3, der(svid["key"]))
                     + field(4, der(svid["bundle"])) + field(5, svid.get("hint", "")))
    for path in now.get("crl", []):
        out += field(2, der(path))
    for domain, path in now.get("federated", {}).items():
        out += field(3, field(1, domain) + field(2, der(path)))
    return out


def fetch_x509_svid(request, context):
    if ("workload.spiffe.io", "true") not in context.invocation_metadata():
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
    epoch, last = state().get("epoch", 0), None
    while context.is_active():
        now = state()
        if now.get("denied"):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        if now.get("epoch", 0) != epoch:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the agent is reloading")
        if now != last:
            yield message(now)
            last = now
        time.sleep(0.02)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", {
    "FetchX509SVID": grpc.unary_stream_rpc_method_handler(fetch_x509_svid),
}),))
server.add_insecure_port(f"unix:{socket}")
server.start()
print("serving", flush=True)
server.wait_for_termination()
