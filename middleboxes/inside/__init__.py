"""Programs that run inside a VNF, where nothing but Python's own library is.

A type's ``render`` puts their text into ``/etc/nfio``; nothing on the host imports them to run them.
"""
