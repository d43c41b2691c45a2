"""The rules of detection, one file a rule; ``engine.py`` calls them."""
