"""Where records go: today a rotating file of JSON lines."""
