"""Where records go: a rotating file of JSON lines, InfluxDB, OpenTelemetry."""
