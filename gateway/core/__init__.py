"""Pure: values in, values out; ``now`` is an argument and nothing waits."""
