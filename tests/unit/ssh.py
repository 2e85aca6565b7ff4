"""An SSH server for tests."""

from __future__ import annotations

import asyncio
import threading

import asyncssh


class SshServer:
    """An SSH server on loopback that lets one key in and forwards ports."""

    def __init__(self, folder):
        self.host_key, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        client = asyncssh.generate_private_key("ssh-ed25519")
        self.key, self.other_key = folder / "id", folder / "other"
        client.write_private_key(str(self.key))
        other.write_private_key(str(self.other_key))
        for path in (self.key, self.other_key):
            path.chmod(0o600)
        self.allowed = [client.export_public_key().decode()]
        self.forwarded = []
        self.connections = []
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        ready.wait(10)

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        ready.set()
        self._loop.run_forever()
        self._loop.close()

    async def _listen(self):
        outer = self

        class Door(asyncssh.SSHServer):
            def connection_requested(self, dest_host, dest_port, *_):
                outer.forwarded.append((dest_host, dest_port))
                return True

            def connection_made(self, connection):
                self.connection = connection
                outer.connections.append(connection)

            def begin_auth(self, _username):
                keys = "\n".join(outer.allowed)
                self.connection.set_authorized_keys(asyncssh.import_authorized_keys(keys))
                return True

        self._server = await asyncssh.create_server(Door, "127.0.0.1", 0, server_host_keys=[self.host_key])
        self.port = self._server.sockets[0].getsockname()[1]

    def allow(self, public):
        """Let in one more key."""
        self.allowed.append(public)

    def drop(self):
        """Cut all connections, as a machine does whose power is cut."""
        for connection in self.connections:
            self._loop.call_soon_threadsafe(connection.abort)

    @property
    def public(self):
        return " ".join(self.host_key.export_public_key().decode().split()[:2])

    def close(self):
        async def end():
            self._server.close()
            await self._server.wait_closed()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
