"""HTTP on the wire: framing and header rules (pure), and the protocols of both sides.

May import ``core``, ``identity``, ``limits``, ``metering``, ``detect`` and ``config``.
Pure: ``head``, ``heads``, ``chunked``, ``response``, ``request_writer``, ``proxyproto``,
``tracing``. Clients: ``listener``, ``client``, ``answer``. Upstreams: ``pool``,
``upstream``. Start with ``handler``, the interfaces between the sides and ``proxy``.
"""
