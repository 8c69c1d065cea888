"""Hypervisor drivers. They know engines, hosts and guests; nothing of files or paths in a tree."""
