"""Labels of models in metrics are bounded."""

from gateway.config import load_config, resolve
from gateway.control.labels import MAX_MODELS, model_labels
from gateway.serve.price_table import packaged_table

TEXT = """
[[upstream]]
url = "http://x"
[policy.default.prices."own-7b"]
input = 1.0
output = 1.0
"""


def labels(seen=None):
    """The function under test."""
    resolved = resolve(load_config(None, text=TEXT, env={}))
    return model_labels(resolved, packaged_table(), set() if seen is None else seen)


def test_names_are_those_of_the_table_or_the_policy():
    """Spellings of a model have one label; unknown names have ``other``."""
    label = labels()
    assert label("openai/GPT-4o-2024-08-06") == "gpt-4o"
    assert label("own-7b") == "own-7b"
    assert label("never-heard-of") == "other"


def test_a_client_cannot_make_a_label_of_every_known_model():
    """Beyond a number of models the rest is ``other``; those in use keep their label."""
    seen: set[str] = set()
    label = labels(seen)
    assert label("gpt-4o") == "gpt-4o"
    found = {label(name) for _, name, _ in packaged_table().book.rows()}
    assert len(found) <= MAX_MODELS + 1
    assert label("gpt-4o") == "gpt-4o"
    assert label("own-7b") == "own-7b"
    assert labels(seen)("gpt-4o") == "gpt-4o"
