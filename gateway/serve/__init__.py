"""The processes: supervisor, control and workers, and what joins them.

Here, and only here, concrete classes are picked and put together.
"""
