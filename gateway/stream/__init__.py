"""Events in, verdicts out, outside of a running gateway: what ``watch`` does."""
