FROM python:3.12-slim AS build
# Extras to install: --build-arg EXTRAS=[tokenizers,otel]
ARG EXTRAS=
WORKDIR /src
COPY . .
RUN python -m venv /opt/tidegate \
 && /opt/tidegate/bin/pip install --no-cache-dir ".$EXTRAS"

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home --home-dir /data tidegate
COPY --from=build /opt/tidegate /opt/tidegate
ENV PATH=/opt/tidegate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Directory of ./tidegate.toml and the embedded store: mount a volume to keep counters.
WORKDIR /data
USER 10001
VOLUME /data
# 9901 (admin) is bound to the container's loopback. To publish it, set a token as well:
# TIDEGATE_ADMIN__LISTEN=:9901 TIDEGATE_ADMIN__TOKEN=…
EXPOSE 8080
ENV TIDEGATE_SERVER__LISTEN=:8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9901/readyz', timeout=2)"]
# SIGTERM drains; allow longer than server.drain_timeout (docker stop -t 40).
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidegate"]
CMD ["serve"]
