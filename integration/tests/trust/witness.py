"""One program with three ports, and a client that sends a marker to each of them and expects it back.

usage: witness.py serve HTTP_PORT TCP_PORT GRPC_PORT | call MARKER HTTP_URL TCP_PORT GRPC_HOST:PORT
"""

import http.server
import os
import socket
import socketserver
import sys
import threading
import urllib.request
from concurrent import futures

import grpc


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("X-Marker", self.headers["X-Marker"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Raw(socketserver.BaseRequestHandler):
    def handle(self):
        while received := self.request.recv(65536):
            self.request.sendall(received)


class Threaded(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def serve(http_port, tcp_port, grpc_port):
    web = http.server.ThreadingHTTPServer(("127.0.0.1", int(http_port)), Web)
    raw = Threaded(("127.0.0.1", int(tcp_port)), Raw)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Witness", {
        "Echo": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
    }),))
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    for one in (web, raw):
        threading.Thread(target=one.serve_forever, daemon=True).start()
    print("witness serves", flush=True)
    server.wait_for_termination()


def call(marker, url, tcp_port, grpc_address):
    body = marker.encode()
    request = urllib.request.Request(url, data=body, headers={"X-Marker": marker})
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200 and answer.headers["X-Marker"] == marker and answer.read() == body, "http"
    with socket.create_connection(("127.0.0.1", int(tcp_port)), timeout=20) as raw:
        raw.sendall(body)
        raw.shutdown(socket.SHUT_WR)
        echoed = b""
        while received := raw.recv(65536):
            echoed += received
        assert echoed == body, f"tcp: {echoed!r}"
    with grpc.insecure_channel(grpc_address) as channel:
        echoed = channel.unary_unary("/shop.Witness/Echo")(body, timeout=20, wait_for_ready=True)
        assert echoed == body, f"grpc: {echoed!r}"
    print("witness done by", os.environ["http_proxy"].rpartition("@")[2], flush=True)


{"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
