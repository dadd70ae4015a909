"""The runtime in JavaScript, for browsers and Node: it samples as ``runtime/README.md`` specifies.

This file makes the folder a Python package, so that wheels and editable
installs of ``charrnn`` carry the scripts as data of ``charrnn.web.js``: static
sites are written with a copy of them (``charrnn.web.site``).
"""
