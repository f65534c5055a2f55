"""``shardwright run``: the loop as a daemon.

    sources.py    a thread a source: reads it when it changed, keeps the last good revision
    daemon.py     leads, gives databases to workers, writes their status
    http.py       /healthz, /readyz, /metrics, /webhook
    webhook.py    push events of forges: signed, or not heard
    config.py     its own configuration, reloaded while it runs

Every thread here only asks and passes on; what is decided is decided in ``engine`` and below it.
Crash-only: nothing is kept but what is in etcd, so kill -9 and start is the normal start.
"""
