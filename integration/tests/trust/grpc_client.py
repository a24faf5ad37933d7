"""gRPC's own client at the control plane's port: what it asks, and with which status and which resources it is answered.

usage: grpc_client.py HOST:PORT FOLDER, with token, csr.der, chain.pem and key.pem in the folder

gRPC's client insists on a name in the server's certificate; that of the control plane bears its SPIFFE id and nothing else, which the
test's other half checks. So OpenSSL does TLS here, and hands plain HTTP/2 to gRPC.
"""

import asyncio
import pathlib
import queue
import ssl
import sys
import threading

import grpc

CONTROL, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
TYPE = "type.googleapis.com/weft.v1."


def number(value):
    encoded = b""
    while value > 127:
        encoded, value = encoded + bytes([value & 127 | 128]), value >> 7
    return encoded + bytes([value])


def field(place, value):
    """A length-delimited field of protobuf."""
    value = value.encode() if isinstance(value, str) else value
    return number(place << 3 | 2) + number(len(value)) + value


def fields(message):
    """The fields of a message: place and value, bytes where they are length-delimited."""
    at, found = 0, []

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = message[at], at + 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        place, kind = divmod(varint(), 8)
        if kind == 2:
            length = varint()
            value, at = message[at:at + length], at + length
        else:
            assert kind == 0, f"wire type {kind}"
            value = varint()
        found.append((place, value))
    return found


def texts(message, place):
    return [value.decode() for at, value in fields(message) if at == place]


async def carry(reader, writer):
    try:
        while received := await reader.read(65536):
            writer.write(received)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def door(certificate):
    """A channel to an address on loopback behind which is the control plane."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(FOLDER / "chain.pem", FOLDER / "key.pem")
    host, _, port = CONTROL.rpartition(":")

    async def serve(reader, writer):
        far_reader, far_writer = await asyncio.open_connection(host, int(port), ssl=context)
        assert far_writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0), LOOP).result(20)
    return grpc.insecure_channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")


def ask(channel, method, message, **options):
    return channel.unary_unary(method)(message, timeout=20, **options)


def refused(what, call):
    try:
        call()
    except grpc.RpcError as error:
        print(what, error.code().name, error.details(), flush=True)
    else:
        print(what, "was answered", flush=True)


class Stream:
    """A delta stream."""

    def __init__(self, channel, method="DeltaAggregatedResources"):
        self.requests = queue.Queue()
        self.responses = channel.stream_stream(ADS + method)(iter(self.requests.get, None), timeout=20)

    def ask(self, kind, names):
        self.requests.put(field(2, TYPE + kind) + b"".join(field(3, name) for name in names))
        return next(self.responses)

    def acknowledge(self, kind, response):
        self.requests.put(field(2, TYPE + kind) + field(6, texts(response, 5)[0]))


stranger, member = door(False), door(True)
csr, token = (FOLDER / "csr.der").read_bytes(), (FOLDER / "token").read_text()

answer = ask(stranger, "/weft.v1.Identity/IssueCertificate", field(1, csr) + field(2, token))
print("issued", texts(answer, 4)[0], sum(place == 1 for place, _ in fields(answer)), flush=True)
refused("issue", lambda: ask(stranger, "/weft.v1.Identity/IssueCertificate", field(1, csr) + field(2, "weft-join.x")))
refused("discovery", lambda: Stream(stranger).ask("Inbound", ["shop/cart"]))

stream = Stream(member)
for kind, names in (("Inbound", ["shop/cart"]), ("Service", ["shop/payments", "shop/nobody"])):
    response = stream.ask(kind, names)
    held = [texts(resource, 3)[0] for place, resource in fields(response) if place == 2]
    print("holds", kind, held, flush=True)
    stream.acknowledge(kind, response)
# What there is none of is answered at once, and by itself.
response = next(stream.responses)
print("absent", texts(response, 6), flush=True)
stream.acknowledge("Service", response)
# What changes comes by itself.
print("waits", flush=True)
response = next(stream.responses)
print("pushed", texts(response, 4)[0], [texts(resource, 3)[0] for place, resource in fields(response) if place == 2], flush=True)

refused("wildcard", lambda: Stream(member).ask("Service", ["*"]))
refused("whole", lambda: Stream(member, "StreamAggregatedResources").ask("Service", []))
refused("unknown", lambda: ask(member, "/shop.Nobody/Call", b""))
refused("compressed", lambda: ask(member, "/weft.v1.Identity/Register", b"\0" * 4096, compression=grpc.Compression.Gzip))
