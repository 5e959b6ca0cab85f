"""Version of the plugin API: it moves apart from the version of Swift itself.

A minor step adds (a hook, an optional field of a spec, an optional argument); a major step is anything else.
"""

API_VERSION = (1, 0)
API_VERSION_TEXT = f"{API_VERSION[0]}.{API_VERSION[1]}"
