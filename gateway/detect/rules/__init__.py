"""The rules: facts about a subject or a tenant in, signals out. One file per rule."""
