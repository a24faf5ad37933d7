"""A grpcio server and client without generated code: every kind of streaming, an error in trailers, large messages, cancellation, a deadline.

usage: grpc_program.py serve HOST:PORT | call HOST:PORT
"""

import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "shop.Greeter"
cancelled = threading.Event()


def unary(request, context):
    if request == b"fail":
        context.set_trailing_metadata((("reason", "asked-to"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "asked to fail")
    if request == b"cancelled?":
        return b"yes" if cancelled.wait(10) else b"no"
    return b"hello " + request


def server_streaming(request, context):
    for number in range(int(request)):
        yield b"item %d" % number


def client_streaming(requests, context):
    return b"%d" % sum(len(r) for r in requests)


def bidirectional(requests, context):
    context.add_callback(lambda: None if context.code() else None)
    for request in requests:
        yield request.upper()


def forever(request, context):
    context.add_callback(cancelled.set)
    while context.is_active():
        yield b"tick"
        time.sleep(0.02)


def slow(request, context):
    end = time.monotonic() + 30
    while context.is_active() and time.monotonic() < end:
        time.sleep(0.02)
    return b"too late"


def serve(address):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStreaming": grpc.unary_stream_rpc_method_handler(server_streaming),
        "ClientStreaming": grpc.stream_unary_rpc_method_handler(client_streaming),
        "Bidirectional": grpc.stream_stream_rpc_method_handler(bidirectional),
        "Forever": grpc.unary_stream_rpc_method_handler(forever),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
    }),))
    if not server.add_insecure_port(address):
        raise SystemExit(f"cannot listen on {address}")
    server.start()
    print(f"listening on {address}", flush=True)
    server.wait_for_termination()


def call(address):
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        path = f"/{SERVICE}/".__add__
        assert channel.unary_unary(path("Unary"))(b"weft", timeout=20, wait_for_ready=False) == b"hello weft"
        print("unary ok")
        items = list(channel.unary_stream(path("ServerStreaming"))(b"1000", timeout=20))
        assert len(items) == 1000 and items[-1] == b"item 999"
        print("server-streaming ok")
        total = channel.stream_unary(path("ClientStreaming"))((b"x" * 1000 for _ in range(1000)), timeout=20)
        assert total == b"1000000", total
        print("client-streaming ok")

        # Each answer must arrive before the next question is asked: a proxy that buffers would stop here.
        answered = threading.Semaphore(0)

        def questions():
            for number in range(100):
                yield b"question %d" % number
                assert answered.acquire(timeout=10), "no answer before the next question"
        answers = channel.stream_stream(path("Bidirectional"))(questions(), timeout=20)
        for number, answer in enumerate(answers):
            assert answer == b"QUESTION %d" % number
            answered.release()
        assert number == 99
        print("bidirectional ok")
        try:
            channel.unary_unary(path("Unary"))(b"fail", timeout=20)
            raise SystemExit("the failing call succeeded")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
            assert error.details() == "asked to fail", error
            assert ("reason", "asked-to") in [tuple(pair) for pair in error.trailing_metadata()], error.trailing_metadata()
        print("error ok")
        big = bytes(3 * 1024 * 1024)
        assert channel.unary_unary(path("Unary"))(big, timeout=30) == b"hello " + big
        print("large ok")
        stream = channel.unary_stream(path("Forever"))(b"", timeout=20)
        assert next(stream) == b"tick"
        stream.cancel()
        assert channel.unary_unary(path("Unary"))(b"cancelled?", timeout=20) == b"yes", "the server never heard of it"
        print("cancel ok")
        began = time.monotonic()
        try:
            channel.unary_unary(path("Slow"))(b"", timeout=0.5)
            raise SystemExit("the slow call succeeded")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert time.monotonic() - began < 10
        print("deadline ok")


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](sys.argv[2])
