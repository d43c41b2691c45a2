"""Counters shared by every worker and machine, and what stands in while they are away.

``redis`` is the store, ``lua/gate.lua`` its arithmetic, ``memory`` the same within one
process, ``embedded`` the engine that ships along, ``opening`` picks one by its address.
Nothing is imported here: the supervisor needs the engine and must stay small.
"""
