"""Shardwright: the GitOps control plane for sharded PostgreSQL."""

__version__ = "0.1.0"
