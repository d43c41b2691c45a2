"""Server certificate of a port."""

from __future__ import annotations

import os
import ssl


class ServerTls:
    """The server's TLS context; reloads the certificate when its files change."""

    def __init__(self, cert: str, key: str) -> None:
        self._files = (cert, key)
        self._stamp = self._read_stamp()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.load_cert_chain(cert, key)

    def _read_stamp(self) -> tuple[int, ...]:
        return tuple(os.stat(name).st_mtime_ns for name in self._files)

    def refresh(self) -> bool:
        """Reload the files if they changed; new handshakes use them.

        Raises OSError or ssl.SSLError, and then keeps the old certificate.
        """
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return False
        probe = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        probe.load_cert_chain(
            *self._files
        )  # an invalid pair must not replace the valid one
        self.context.load_cert_chain(*self._files)
        self._stamp = stamp
        return True
