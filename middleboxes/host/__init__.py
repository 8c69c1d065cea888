"""Readers of this host's network stack: links, namespaces, control groups, nf_tables.

None of them runs anything inside a guest.
"""
