"""The local platform: real etcd, Patroni and PostgreSQL on one machine's loopback."""
