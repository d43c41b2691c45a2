"""The nine steps of an exchange, and what they lean on.

``exchange`` is the steps, top to bottom; ``prepare`` is what can be known from a head
alone (and is kept with it); ``route`` is the upstreams; ``service`` owns all open
exchanges of a worker; ``counting`` tokenizes off the loop; ``realtime`` meters tunnels.
"""
