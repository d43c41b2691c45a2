"""Recorded traffic once more: through a draft policy, or into baselines."""
