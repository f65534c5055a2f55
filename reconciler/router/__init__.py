"""The reference router: one PostgreSQL address in front of all shards of a database.

It speaks wire protocol 3 to clients and shards, sends each statement to the shard that owns its
key, and holds a client back while its keys change owner. It is for one machine and for tests.

``session`` is the state of one client, ``relay`` one connection to a shard, ``routes`` what the map
says, ``statements`` and ``keyed`` what can be read from a statement; ``server`` runs it all.
"""
