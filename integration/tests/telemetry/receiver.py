"""A receiver of the OpenTelemetry protocol, by the messages that OpenTelemetry publishes: gRPC on one port, HTTP on another. Every span that
comes is a line of JSON on standard output; the first line names the ports, which may be given. With `--tls CERTIFICATE KEY` it speaks TLS."""

import json
import ssl
import sys
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceServicer, add_TraceServiceServicer_to_server
from opentelemetry.proto.trace.v1.trace_pb2 import Span

LOCK = Lock()


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def pairs(attributes):
    return {pair.key: value(pair.value) for pair in attributes}


def record(request, way):
    with LOCK:
        for of_resource in request.resource_spans:
            resource = pairs(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    print(json.dumps({
                        "way": way,
                        "resource": resource,
                        "scope": of_scope.scope.name,
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "name": span.name,
                        "kind": Span.SpanKind.Name(span.kind),
                        "start": span.start_time_unix_nano,
                        "end": span.end_time_unix_nano,
                        "status": span.status.code,
                        "flags": span.flags,
                        "attributes": pairs(span.attributes),
                    }))
        sys.stdout.flush()


class Traces(TraceServiceServicer):
    def Export(self, request, context):
        record(request, "grpc")
        return ExportTraceServiceResponse()


class Web(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        right = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
        if right:
            record(ExportTraceServiceRequest.FromString(body), "http")
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200 if right else 404)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


arguments = sys.argv[1:]
tls = None
if "--tls" in arguments:
    at = arguments.index("--tls")
    tls = arguments[at + 1:at + 3]
    del arguments[at:at + 3]
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
add_TraceServiceServicer_to_server(Traces(), server)
ports = [*map(int, arguments), 0, 0]
address = f"127.0.0.1:{ports[0]}"
if tls:
    certificate, key = (open(name, "rb").read() for name in tls)
    grpc_port = server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
else:
    grpc_port = server.add_insecure_port(address)
server.start()
web = ThreadingHTTPServer(("127.0.0.1", ports[1]), Web)
if tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    web.socket = context.wrap_socket(web.socket, server_side=True)
Thread(target=web.serve_forever, daemon=True).start()
print(json.dumps({"grpc": grpc_port, "http": web.server_port}), flush=True)
server.wait_for_termination()
