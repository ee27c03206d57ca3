"""An Arrow Flight server: a table comes and its groups go, by one DoExchange."""

import pyarrow.flight
import tables
from peer import listening


class Server(pyarrow.flight.FlightServerBase):
    """Answer an exchange with the groups of the table that it brings."""

    def do_exchange(self, context, descriptor, reader, writer):  # type: ignore[no-untyped-def]
        """Answer one."""
        groups = tables.group(reader.read_all())
        writer.begin(groups.schema)
        writer.write_table(groups)


server = Server("grpc://127.0.0.1:0")
listening(server.port)
server.serve()
