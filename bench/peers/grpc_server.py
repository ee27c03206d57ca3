"""A gRPC server with JSON messages, and with messages of bytes: what generated code adds is not measured."""

import json
from concurrent import futures
from functools import lru_cache

import grpc
from peer import listening


def echo(request: dict, context: grpc.ServicerContext) -> dict:
    """Answer one request."""
    return {"text": request["text"]}


@lru_cache(maxsize=1)
def zeros(size: int) -> bytes:
    """Make so many bytes."""
    return bytes(size)


octets = {
    "in": lambda body, context: str(len(body)).encode(),
    "out": lambda body, context: zeros(int(body)),
    "echo": lambda body, context: body,
}
method = grpc.unary_unary_rpc_method_handler(
    echo, request_deserializer=json.loads, response_serializer=lambda value: json.dumps(value).encode()
)
limits = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=limits)
server.add_generic_rpc_handlers(
    (
        grpc.method_handlers_generic_handler("bench.Echo", {"Echo": method}),
        grpc.method_handlers_generic_handler(
            "bench.Octets", {way: grpc.unary_unary_rpc_method_handler(do) for way, do in octets.items()}
        ),
    )
)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
listening(port)
server.wait_for_termination()
