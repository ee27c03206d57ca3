"""A gRPC server with JSON messages: what generated code adds is not measured."""

import json
from concurrent import futures

import grpc
from peer import listening


def echo(request: dict, context: grpc.ServicerContext) -> dict:
    """Answer one request."""
    return {"text": request["text"]}


method = grpc.unary_unary_rpc_method_handler(
    echo, request_deserializer=json.loads, response_serializer=lambda value: json.dumps(value).encode()
)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Echo": method}),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
listening(port)
server.wait_for_termination()
